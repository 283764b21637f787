"""A map of differentiable RANSAC: what it says, what it refuses, and how it is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from placecell.errors import FormatError
from placecell.estimate import Query
from placecell.families.coordinates.dsac import hypotheses
from placecell.families.coordinates.dsac.config import Dsac
from placecell.families.coordinates.dsac.localizer import DsacMap
from placecell.families.coordinates.dsac.shots import cell_pixels
from placecell.families.coordinates.sight import camera_seen
from placecell.localizer import Resumable
from placecell.log import Silent
from placecell.pose import Pose, pose_error
from placecell.resample import resample
from placecell.scene import Scene
from placecell.synthetic import render, room

SMALL: dict[str, Any] = {"short_side": 120, "width": 8, "epochs": 0.5, "batch": 2, "end_to_end": 0, "least": 8}


def built_of(scene: Scene, **changes: Any) -> DsacMap:
    few = scene.split("train").keep([index % 5 == 0 for index in range(30)])
    return Dsac(**{**SMALL, **changes}).build(few, log=Silent())


@pytest.fixture(scope="module")
def built(room_scene: Scene) -> DsacMap:
    return built_of(room_scene)


@pytest.fixture(scope="module")
def with_depth(room_scene: Scene) -> DsacMap:
    return built_of(room_scene, rgbd=True)


class Oracle(nn.Module):
    """A network that knows where each cell of one picture lies."""

    def __init__(self, points_anchor: Any) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.from_numpy(points_anchor).float().movedim(-1, 0)[None])

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-2] // 8 == self.points.shape[-2] and images.shape[-1] // 8 == self.points.shape[-1]
        return 1 * self.points


def knowing(built: DsacMap, query: Query, truth: Pose, *, wrong: float = 0.0, **changes: Any) -> DsacMap:
    """The map with a network that knows the query: exact but for a share of wild cells."""
    seen = camera_seen(query.camera, built.camera)
    pixels = cell_pixels(seen, 8)
    assert query.depth_m is not None
    columns, rows = np.floor(query.camera.project(seen.rays(pixels.reshape(-1, 2)))).astype(int).T
    points_cam = query.camera.rays(np.stack([columns, rows], axis=1) + 0.5) * query.depth_m[rows, columns, None]
    points = built.anchor.world_from_anchor.inv.apply(truth.apply(points_cam))
    rng = np.random.default_rng(0)
    wild = rng.random(len(points)) < wrong
    points[wild] += rng.normal(size=(wild.sum(), 3))
    network = Oracle(points.reshape(*pixels.shape[:2], 3))
    return replace(built, network=network, family=replace(built.family, **{"max_error_px": 3.0, **changes}))


def pose_of(found: DsacMap, query: Query) -> Pose:
    (estimate,) = found.localize([query])
    assert estimate.world_from_cam is not None, estimate.reason
    return estimate.world_from_cam


class TestLocalize:
    @pytest.mark.parametrize("rgbd", [False, True])
    @pytest.mark.parametrize("wrong", [0.0, 0.5])
    def test_true_coordinates_give_the_true_pose(
        self, wrong: float, rgbd: bool, built: DsacMap, with_depth: DsacMap, query: Query, truth: Pose
    ) -> None:
        """So cells, their pixels, their depth, the anchor and RANSAC belong together."""
        found = knowing(with_depth if rgbd else built, query, truth, wrong=wrong)
        error = pose_error(pose_of(found, query), truth)
        assert error.distance < 0.015 and error.angle_deg < 0.25
        (estimate,) = found.localize([query])
        assert estimate.covariance is not None and estimate.inliers is not None
        assert estimate.inliers > (0.8 if wrong == 0 else 0.4) * 300
        assert found.wants_depth == rgbd

    @pytest.mark.parametrize(
        "lens",
        [
            {"fx": 620.0, "fy": 615.0},
            {"fx": 250.0, "fy": 250.0, "cx": 260.0},
            {"model": "opencv", "distortion": (0.1, -0.05, 0.002, -0.001)},
        ],
        ids=["longer", "shorter", "distorted"],
    )
    @pytest.mark.parametrize("rgbd", [False, True])
    def test_another_camera_at_the_same_place_is_answered_alike(
        self, rgbd: bool, lens: dict[str, Any], built: DsacMap, with_depth: DsacMap, room_scene: Scene, truth: Pose
    ) -> None:
        flat = {key: value for key, value in lens.items() if key not in ("model", "distortion")}
        camera = replace(room_scene.cameras["camera"], **flat)
        shot = render(room(), camera, truth)
        plain = Query("other", shot.image, camera, shot.depth_m)
        found = knowing(with_depth if rgbd else built, plain, truth)
        own = replace(camera, **lens)
        depth_m = None
        if rgbd:  # as its own camera sees it
            columns, rows = np.nan_to_num(np.moveaxis(camera.project(own.rays(own.pixel_centres)), -1, 0)).astype(int)
            inside = (columns >= 0) & (rows >= 0) & (columns < camera.width) & (rows < camera.height)
            known = shot.depth_m[rows.clip(0, camera.height - 1), columns.clip(0, camera.width - 1)]
            depth_m = np.where(inside, known, np.float32(np.nan))
        error = pose_error(pose_of(found, Query("lens", resample(shot.image, camera, own), own, depth_m)), truth)
        assert error.distance < 0.015 and error.angle_deg < 0.25

    def test_no_gradient_is_kept_and_nothing_trains(self, built: DsacMap, query: Query) -> None:
        built.localize([query])
        assert all(parameter.grad is None for parameter in built.network.parameters())
        assert not built.network.training and isinstance(built, Resumable) and built.unfinished is None


class TestRefusals:
    def reason(self, found: DsacMap, query: Query) -> str:
        (estimate,) = found.localize([query])
        assert estimate.world_from_cam is None and estimate.reason is not None and "\n" not in estimate.reason
        assert estimate.seconds is not None and estimate.seconds > 0
        return estimate.reason

    def test_too_few_that_agree(self, built: DsacMap, query: Query, truth: Pose) -> None:
        found = knowing(built, query, truth, wrong=0.95, least=100)
        assert self.reason(found, query).endswith(" coordinates agree on a pose, 100 needed")

    def test_fewer_cells_than_needed(self, built: DsacMap, query: Query) -> None:
        camera = query.camera.cropped(200, 100, 60, 60)
        window = np.ascontiguousarray(query.image[100:160, 200:260])
        reason = self.reason(built, Query("window", window, camera))
        assert reason == "the picture has 4 cells as this map sees it, 8 needed"

    def test_a_wall_without_texture(self, built: DsacMap, query: Query) -> None:
        height, width = query.image.shape[:2]
        image = np.tile(np.linspace(60, 120, width)[None, :, None], (height, 1, 3)).astype(np.uint8)
        assert self.reason(built, Query("smooth", image, query.camera)).startswith("hardly anything is in the picture")

    def test_depth_that_is_not_there(self, with_depth: DsacMap, query: Query) -> None:
        bare = replace(query, depth_m=None)
        assert self.reason(with_depth, bare) == "this map needs the depth of each picture, and this one has none"
        assert query.depth_m is not None
        empty = replace(query, depth_m=np.full_like(query.depth_m, np.nan))
        assert self.reason(with_depth, empty) == "0 cells have depth, 8 needed"

    def test_answers_that_are_no_numbers(self, built: DsacMap, query: Query, truth: Pose) -> None:
        found = knowing(built, query, truth)
        with torch.no_grad():
            found.network.get_parameter("points")[0, 1, 2, 3] = torch.nan
        assert "numbers that are none" in self.reason(found, query)


class TestFolder:
    @pytest.mark.parametrize("changes", [{}, {"scores": "learned", "score_steps": 1, "grey": True}])
    def test_all_of_it_is_kept(
        self, changes: dict[str, Any], room_scene: Scene, query: Query, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hypotheses, "MOST_TRIES", 200)
        found = built_of(room_scene, **changes)
        found.save(tmp_path / "map")
        again = DsacMap.load(tmp_path / "map")
        assert (again.family, again.camera, again.anchor) == (found.family, found.camera, found.anchor)
        assert (again.logs, again.unfinished) == (found.logs, None)
        a, b = found.network.state_dict(), again.network.state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        np.testing.assert_array_equal(again.coordinates(query).points_anchor, found.coordinates(query).points_anchor)
        named = {path.name for path in (tmp_path / "map").iterdir()}
        assert named == {"map.json", "weights.safetensors", *(f"{name}.csv" for name in found.logs)}

    @pytest.mark.parametrize("flaw", ["missing", "shape", "left over", "camera_seen", "world_from_anchor", "stages"])
    def test_damage_is_told_in_one_line(self, flaw: str, built: DsacMap, tmp_path: Path) -> None:
        built.save(tmp_path / "map")
        path, info = tmp_path / "map" / "weights.safetensors", tmp_path / "map" / "map.json"
        tensors, row = load_file(path), json.loads(info.read_text())
        largest = max(tensors, key=lambda key: tensors[key].size)
        if flaw == "missing":
            del tensors[largest]
        elif flaw == "shape":
            tensors[largest] = tensors[largest][:-1]
        elif flaw == "left over":
            tensors["oracle.weight"] = np.zeros(3, np.float32)
        else:
            row["extra"][flaw] = 7
        save_file(tensors, path)
        info.write_text(json.dumps(row))
        with pytest.raises(FormatError, match="build the map again") as caught:
            DsacMap.load(tmp_path / "map")
        assert "\n" not in str(caught.value)
