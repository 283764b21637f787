"""A trained regression map: what it says, what it refuses, and how it is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from families.regression.small import settings
from placecell.backbones import picture_tensor
from placecell.errors import FormatError, MapError, MissingDevice
from placecell.estimate import Query
from placecell.families.regression import dense, spreads
from placecell.families.regression.localizer import RegressionMap
from placecell.images import load_query
from placecell.localizer import PoseFeatures, Resumable, Salient
from placecell.log import Silent
from placecell.pose import Pose, mean_pose, pose_error
from placecell.resample import resample
from placecell.scene import Scene

pytestmark = pytest.mark.usefixtures("patches")


def build(scene: Scene, **changes: Any) -> RegressionMap:
    tiny = {"weights": "none", "hidden": 16, "short_side": 96, "epochs": 1.0, "batch": 8, "new_views": 0.0}
    found = settings(**{**tiny, **changes}).build(scene, log=Silent())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so little training leaves it saying nearly the same of every picture
        for parameter in found.network.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / fan_in**0.5))
    return found


@pytest.fixture
def found(room_scene: Scene) -> RegressionMap:
    return build(room_scene)


@pytest.fixture
def query(room_scene: Scene) -> Query:
    return load_query(room_scene, room_scene.split("test").frames[0], depth=True)


def looking(found: RegressionMap, inference: str, crops: int = 16) -> RegressionMap:
    return replace(found, family=replace(found.family, inference=inference, crops=crops))  # type: ignore[arg-type]


def pose_of(found: RegressionMap, query: Query) -> Pose:
    (estimate,) = found.localize([query])
    assert estimate.world_from_cam is not None, estimate.reason
    return estimate.world_from_cam


def said_of(found: RegressionMap, window: np.ndarray[Any, Any]) -> Pose:
    """What the network says of a picture, without anything of the map around it."""
    with torch.inference_mode():
        answer = found.network(picture_tensor(window[None]))[0]
    matrix = torch.cat([answer.rotation_B33, answer.centre_B3[:, :, None]], dim=2)[0].double().numpy()
    return found.anchor.world_from_anchor @ Pose.nearest(matrix)


def close(one: Pose, other: Pose) -> bool:
    error = pose_error(one, other)
    return error.distance < 1e-4 and error.angle_deg < 1e-2


class TestInference:
    def test_centre_looks_at_the_middle_as_the_canonical_camera_sees_it(
        self, found: RegressionMap, query: Query
    ) -> None:
        image = resample(query.image, query.camera, found.camera)
        assert image.shape == (96, 128, 3)
        assert close(pose_of(found, query), said_of(found, image[16:80, 32:96]))

    def test_dense_is_the_mean_over_its_windows(self, found: RegressionMap, query: Query) -> None:
        image = resample(query.image, query.camera, found.camera)
        windows = dense.spread(found.camera, 64, 16)
        assert len(windows) > 9
        expected = mean_pose([said_of(found, window.cut(image[None])[0]) for window in windows])
        assert close(pose_of(looking(found, "dense"), query), expected)
        assert pose_error(pose_of(found, query), expected).distance > 0.01  # windows do differ

    def test_dense_with_one_window_is_centre(self, found: RegressionMap, query: Query) -> None:
        assert pose_of(looking(found, "dense", 1), query) == pose_of(found, query)

    def test_one_pass_is_dense_where_no_cell_sees_beyond_its_pixels(self, room_scene: Scene, query: Query) -> None:
        """`patches` is such a network: its windows a stride apart are what one pass pools."""
        found = build(room_scene)
        image = resample(query.image, query.camera, found.camera)
        at = [(left, top) for top in (0, 32) for left in (0, 32, 64)]
        expected = mean_pose([said_of(found, image[top : top + 64, left : left + 64]) for left, top in at])
        assert close(pose_of(looking(found, "one-pass"), query), expected)

    def test_windows_that_look_opposite_ways_are_refused(
        self, found: RegressionMap, query: Query, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spreads, "mean_pose", Mock(side_effect=ValueError))
        (estimate,) = looking(found, "dense").localize([query])
        assert estimate.world_from_cam is None and "opposite ways" in str(estimate.reason)

    def test_another_camera_at_the_same_place_is_answered_alike(self, found: RegressionMap, query: Query) -> None:
        """Larger, and through a lens: the network sees nearly the same picture."""
        lens = replace(query.camera.resized(960, 720), model="opencv", distortion=(0.3, -0.1, 0.003, -0.002))
        other = Query("lens", resample(query.image, query.camera, lens), lens)
        here, there = pose_of(found, query), pose_of(found, other)
        unaware = Query("unaware", other.image, query.camera.resized(960, 720))
        # The lens seen as a pinhole is another picture.
        assert pose_error(there, here).distance < 0.5 * pose_error(pose_of(found, unaware), here).distance

    def test_no_gradient_is_kept(self, found: RegressionMap, query: Query) -> None:
        found.localize([query])
        assert all(parameter.grad is None for parameter in found.network.parameters())
        assert not found.network.training


class TestRefusals:
    def test_what_has_hardly_anything_in_it(self, found: RegressionMap, query: Query) -> None:
        blurred = np.asarray(cv2.GaussianBlur(query.image, (0, 0), 60.0))
        (estimate,) = found.localize([replace(query, image=blurred)])
        assert estimate.world_from_cam is None
        assert str(estimate.reason).startswith("hardly anything is in the picture (detail ")
        mild = np.asarray(cv2.GaussianBlur(query.image, (0, 0), 2.0))
        pose_of(found, replace(query, image=mild))

    def test_answers_that_are_no_numbers(self, found: RegressionMap, query: Query) -> None:
        with torch.no_grad():
            next(found.network.head.parameters()).fill_(float("nan"))
        for inference in ("centre", "dense", "one-pass"):
            (estimate,) = looking(found, inference).localize([query])
            assert estimate.world_from_cam is None and "numbers that are none" in str(estimate.reason)

    def test_a_picture_without_depth_where_depth_is_needed(self, room_scene: Scene, query: Query) -> None:
        found = build(room_scene, depth=True)
        assert found.wants_depth and not build(room_scene, epochs=0.1).wants_depth
        near = pose_of(found, query)
        (estimate,) = found.localize([replace(query, depth_m=None)])
        assert "needs the depth of each picture" in str(estimate.reason)
        assert query.depth_m is not None
        assert pose_of(found, replace(query, depth_m=query.depth_m * 2)) != near  # it is looked at


class TestBeyondPoses:
    def test_the_protocols_are_kept(self, found: RegressionMap) -> None:
        assert isinstance(found, Salient) and isinstance(found, PoseFeatures) and isinstance(found, Resumable)

    def test_a_saliency_has_the_size_of_the_picture_and_is_nothing_beyond_the_window(
        self, found: RegressionMap, query: Query
    ) -> None:
        saliency = looking(found, "dense").saliency(query)
        assert saliency.shape == query.image.shape[:2] and saliency.dtype == np.float32
        assert saliency.min() >= 0 and saliency[180, 240] > 0
        assert (saliency[:50] == 0).all() and (saliency[:, :110] == 0).all()  # 60 and 120 px of the picture lie outside

    def test_of_a_picture_that_cannot_be_placed_there_is_none(self, found: RegressionMap, query: Query) -> None:
        with pytest.raises(MapError, match="dark or blurred"):
            found.saliency(replace(query, image=np.asarray(cv2.GaussianBlur(query.image, (0, 0), 60.0))))

    def test_features_come_a_row_a_picture(self, found: RegressionMap, query: Query) -> None:
        black = replace(query, image=np.zeros_like(query.image))
        rows = looking(found, "dense").pose_features([query, black, query])
        assert rows.shape[0] == 3 and rows.dtype == np.float32
        assert np.isfinite(rows[0]).all() and np.isnan(rows[1]).all() and (rows[0] == rows[2]).all()
        head = found.network.head
        with torch.inference_mode():
            centre = head.centre(torch.from_numpy(rows[:1])) * found.anchor.scale
        expected = found.anchor.world_from_anchor.apply(centre[0].double().numpy())
        np.testing.assert_allclose(pose_of(found, query).translation, expected, atol=1e-5)
        assert found.pose_features([]).shape[0] == 0


class TestFolder:
    def test_the_settings_the_camera_and_the_training_are_kept(self, found: RegressionMap, tmp_path: Path) -> None:
        found.save(tmp_path / "map")
        again = RegressionMap.load(tmp_path / "map")
        assert (again.family, again.camera, again.anchor) == (found.family, found.camera, found.anchor)
        assert (again.least_detail, again.log_csv, again.unfinished) == (found.least_detail, found.log_csv, None)
        assert (tmp_path / "map" / "training.csv").read_text() == found.log_csv

    def test_auxiliary_heads_stay_behind(self, room_scene: Scene, tmp_path: Path) -> None:
        changes: dict[str, Any] = {"head": "posenet", "auxiliary": True, "short_side": 128, "crop": 128}
        build(room_scene, **changes).save(tmp_path / "map")
        names = load_file(tmp_path / "map" / "weights.safetensors").keys()
        assert not [name for name in names if "auxiliary" in name] and len(names) > 10

    @pytest.mark.parametrize("flaw", ["shape", "left over", "canonical_camera", "world_from_anchor", "least_detail"])
    def test_damage_is_told_in_one_line(self, flaw: str, found: RegressionMap, tmp_path: Path) -> None:
        found.save(tmp_path / "map")
        path, info = tmp_path / "map" / "weights.safetensors", tmp_path / "map" / "map.json"
        tensors, row = load_file(path), json.loads(info.read_text())
        if flaw == "shape":
            name = max(tensors, key=lambda key: tensors[key].size)
            tensors[name] = tensors[name][:-1]
        elif flaw == "left over":
            tensors["oracle.weight"] = np.zeros(3, np.float32)
        else:
            row["extra"][flaw] = "nonsense"
        save_file(tensors, path)
        info.write_text(json.dumps(row))
        with pytest.raises(FormatError, match="build the map again") as caught:
            RegressionMap.load(tmp_path / "map")
        assert "\n" not in str(caught.value) and ("map.json" in str(caught.value) or "weights" in str(caught.value))

    def test_loading_draws_from_no_generator_of_others(self, found: RegressionMap, tmp_path: Path) -> None:
        found.save(tmp_path / "map")
        torch.manual_seed(5)
        before = torch.get_rng_state()
        RegressionMap.load(tmp_path / "map")
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a graphics card")
    def test_a_device_that_is_not_there_is_refused(self, found: RegressionMap, tmp_path: Path) -> None:
        found.save(tmp_path / "map")
        with pytest.raises(MissingDevice, match="--device cuda"):
            RegressionMap.load(tmp_path / "map", device="cuda")
