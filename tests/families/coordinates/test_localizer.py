"""A scene-coordinate map: what it says, what it refuses, and how it is kept."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from families.coordinates.conftest import patched
from families.coordinates.small import settings
from placecell.errors import FormatError, MissingDevice, PlacecellError
from placecell.estimate import Query
from placecell.families.coordinates.cells import asked_cells
from placecell.families.coordinates.head import Guess
from placecell.families.coordinates.keeping import rounded
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.coordinates.sight import camera_seen, cell_pixels
from placecell.localizer import Resumable
from placecell.log import Silent
from placecell.pose import Pose, pose_error
from placecell.resample import resample
from placecell.scene import Scene
from placecell.synthetic import render, room

pytestmark = pytest.mark.usefixtures("patches")


@pytest.fixture(scope="module")
def built(room_scene: Scene) -> CoordinatesMap:
    few = room_scene.split("train").keep([index % 5 == 0 for index in range(30)])
    with patched():
        return settings(looks=1, samples=32, epochs=1.0).build(few, log=Silent())


class Oracle(nn.Module):
    """A head that knows where each cell that is asked of one picture lies."""

    def __init__(self, points_anchor: Any, spread_px: Any) -> None:
        super().__init__()
        self.here = nn.Parameter(torch.zeros(1))
        self.points, self.spread = torch.from_numpy(points_anchor).float(), torch.from_numpy(np.log(spread_px)).float()

    def forward(self, features: Tensor) -> Guess:
        assert len(features) == len(self.points)
        return Guess(self.points, self.spread)


def knowing(built: CoordinatesMap, query: Query, truth: Pose, *, wrong: float = 0.0, **changes: Any) -> CoordinatesMap:
    """The map with a head that knows the query: exact but for a share of wild cells, of which it is less sure."""
    seen = camera_seen(query.camera, built.camera)
    pixels = cell_pixels(seen)[asked_cells(seen)]
    assert query.depth_m is not None
    columns, rows = np.floor(query.camera.project(seen.rays(pixels))).astype(int).T
    points_cam = query.camera.rays(np.stack([columns, rows], axis=1) + 0.5) * query.depth_m[rows, columns, None]
    points = built.anchor.world_from_anchor.inv.apply(truth.apply(points_cam))
    rng = np.random.default_rng(0)
    wild = rng.random(len(points)) < wrong
    points[wild] += rng.normal(size=(wild.sum(), 3))
    head = Oracle(points, np.where(wild, 50.0, 2.0) * rng.uniform(0.5, 1.5, len(points)))
    return replace(built, head=head, family=replace(built.family, **{"max_error_px": 3.0, **changes}))


def pose_of(found: CoordinatesMap, query: Query) -> Pose:
    (estimate,) = found.localize([query])
    assert estimate.world_from_cam is not None, estimate.reason
    return estimate.world_from_cam


class TestLocalize:
    @pytest.mark.parametrize("wrong", [0.0, 0.5])
    def test_true_coordinates_give_the_true_pose(
        self, wrong: float, built: CoordinatesMap, query: Query, truth: Pose
    ) -> None:
        """So cells, their pixels, the anchor and RANSAC belong together."""
        found = knowing(built, query, truth, wrong=wrong)
        error = pose_error(pose_of(found, query), truth)
        assert error.distance < 0.01 and error.angle_deg < 0.2
        (estimate,) = found.localize([query])
        assert estimate.covariance is not None and estimate.inliers is not None
        assert estimate.inliers > (0.8 if wrong == 0 else 0.4) * 150
        assert np.sqrt(estimate.covariance.diagonal()[3:].sum()) < 0.05

    @pytest.mark.parametrize(
        "lens",
        [
            {"fx": 620.0, "fy": 615.0},
            {"fx": 250.0, "fy": 250.0, "cx": 260.0},
            {"model": "opencv", "distortion": (0.1, -0.05, 0.002, -0.001)},
        ],
        ids=["longer", "shorter", "distorted"],
    )
    def test_another_camera_at_the_same_place_is_answered_alike(
        self, lens: dict[str, Any], built: CoordinatesMap, room_scene: Scene, truth: Pose
    ) -> None:
        """Its picture comes to the encoder at the same number of pixels a radian; its pose is that of the place."""
        flat = {key: value for key, value in lens.items() if key not in ("model", "distortion")}
        camera = replace(room_scene.cameras["camera"], **flat)
        shot = render(room(), camera, truth)
        plain = Query("other", shot.image, camera, shot.depth_m)
        found = knowing(built, plain, truth)
        own = replace(camera, **lens)
        query = Query("lens", resample(shot.image, camera, own), own)
        error = pose_error(pose_of(found, query), truth)
        assert error.distance < 0.01 and error.angle_deg < 0.2
        seen = found.coordinates(query).camera
        assert seen.fx == pytest.approx(built.camera.fx, rel=0.01)

    def test_ransac_works_on_the_surest(self, built: CoordinatesMap, query: Query, truth: Pose) -> None:
        found = knowing(built, query, truth, wrong=0.5, queried=60)
        seen, whole = found.coordinates(query), knowing(built, query, truth, wrong=0.5).coordinates(query)
        assert len(seen.pixels) == len(seen.points_anchor) == 60 and len(whole.pixels) == 150
        assert (np.diff(whole.spread_px) >= 0).all() and seen.spread_px.max() < 5
        np.testing.assert_array_equal(seen.pixels, whole.pixels[:60])
        (estimate,) = found.localize([query])
        assert estimate.inliers is not None and 50 <= estimate.inliers <= 60

    def test_further_runs_widen_the_covariance_alone(self, built: CoordinatesMap, query: Query, truth: Pose) -> None:
        one, more = (knowing(built, query, truth, wrong=0.3, runs=runs).localize([query])[0] for runs in (1, 8))
        assert one.world_from_cam == more.world_from_cam
        assert (one.inliers, one.matches) == (more.inliers, more.matches) and one.matches == 150
        assert one.sigma is not None and more.sigma is not None
        assert 1.05 * one.sigma.distance < more.sigma.distance < 4 * one.sigma.distance

    def test_no_gradient_is_kept_and_nothing_trains(self, built: CoordinatesMap, query: Query) -> None:
        built.localize([query])
        networks = (built.encoder, built.head)
        assert all(parameter.grad is None for network in networks for parameter in network.parameters())
        assert not built.encoder.training and not built.head.training
        assert isinstance(built, Resumable) and built.unfinished is None


class TestRefusals:
    def reason(self, found: CoordinatesMap, query: Query) -> str:
        (estimate,) = found.localize([query])
        assert estimate.world_from_cam is None and estimate.reason is not None and "\n" not in estimate.reason
        assert estimate.seconds is not None and estimate.seconds > 0
        return estimate.reason

    def test_too_few_that_agree(self, built: CoordinatesMap, query: Query, truth: Pose) -> None:
        found = knowing(built, query, truth, wrong=0.95, least=50)
        assert self.reason(found, query).endswith(" coordinates agree on a pose, 50 needed")

    def test_nothing_that_agrees(self, built: CoordinatesMap, query: Query, truth: Pose) -> None:
        found = knowing(built, query, truth, wrong=1.0, max_error_px=1e-3, least=4)
        assert self.reason(found, query) == "0 coordinates agree on a pose, 4 needed"

    @pytest.mark.parametrize("side", [33, 60])
    def test_fewer_cells_than_four(self, side: int, built: CoordinatesMap, query: Query) -> None:
        """A window of a picture is seen no larger than it is."""
        camera = query.camera.cropped(200, 100, side, side)
        window = np.ascontiguousarray(query.image[100 : 100 + side, 200 : 200 + side])
        count = {33: 1, 60: 2}[side]  # of one cell, and of two by two
        reason = self.reason(built, Query("window", window, camera))
        assert reason == f"{count} cells of the picture are asked as this map sees it, 8 needed"

    @pytest.mark.parametrize("kind", ["smooth", "shaded"])
    def test_a_wall_without_texture(self, kind: str, built: CoordinatesMap, query: Query) -> None:
        height, width = query.image.shape[:2]
        image = {
            "smooth": np.tile(np.linspace(60, 120, width)[None, :, None], (height, 1, 3)),
            "shaded": np.tile(np.linspace(160, 130, height)[:, None, None], (1, width, 3)),
        }[kind].astype(np.uint8)
        assert self.reason(built, Query(kind, image, query.camera)).startswith("hardly anything is in the picture (det")

    def test_answers_that_are_no_numbers(self, built: CoordinatesMap, query: Query, truth: Pose) -> None:
        found = knowing(built, query, truth)
        found.head.points[7, 1] = torch.nan
        assert "numbers that are none" in self.reason(found, query)


class TestFolder:
    def test_all_of_it_is_kept(self, built: CoordinatesMap, query: Query, tmp_path: Path) -> None:
        built.save(tmp_path / "map")
        again = CoordinatesMap.load(tmp_path / "map")
        assert (again.family, again.camera, again.anchor) == (built.family, built.camera, built.anchor)
        assert (again.log_csv, again.unfinished) == (built.log_csv, None)
        for one, other in ((built.encoder, again.encoder), (built.head, again.head)):
            a, b = one.state_dict(), other.state_dict()
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        np.testing.assert_array_equal(again.coordinates(query).points_anchor, built.coordinates(query).points_anchor)

    def test_a_byte_a_weight_is_kept_as_it_answers(self, built: CoordinatesMap, query: Query, tmp_path: Path) -> None:
        parts = {"encoder": rounded(deepcopy(built.encoder), "int8"), "head": rounded(deepcopy(built.head), "int8")}
        small = replace(built, family=replace(built.family, kept="int8"), **parts)
        small.save(tmp_path / "map")
        built.save(tmp_path / "whole")
        again = CoordinatesMap.load(tmp_path / "map")
        np.testing.assert_array_equal(again.coordinates(query).points_anchor, small.coordinates(query).points_anchor)
        sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("map", "whole")]
        assert sizes[0] < 0.8 * sizes[1]

    def test_weights_are_halves_and_lengths_are_not(self, built: CoordinatesMap, tmp_path: Path) -> None:
        """A scene in millimetres, or far from its middle, has lengths that half precision would spoil."""
        built.head.get_buffer("centres_K3").add_(1e6)
        try:
            built.save(tmp_path / "map")
            tensors, again = load_file(tmp_path / "map" / "weights.safetensors"), CoordinatesMap.load(tmp_path / "map")
            assert torch.equal(again.head.get_buffer("centres_K3"), built.head.get_buffer("centres_K3"))
        finally:
            built.head.get_buffer("centres_K3").sub_(1e6)
        halves = {name for name, tensor in tensors.items() if tensor.dtype == np.float16}
        assert {f"head.{name}" for name, _ in built.head.named_parameters()} <= halves
        assert not {f"head.{name}" for name, _ in built.head.named_buffers()} & halves

    @pytest.mark.parametrize(
        "flaw",
        ["encoder", "head", "shape", "left over", "camera_seen", "world_from_anchor", "scale", "backbone"],
    )
    def test_damage_is_told_in_one_line(self, flaw: str, built: CoordinatesMap, tmp_path: Path) -> None:
        built.save(tmp_path / "map")
        path, info = tmp_path / "map" / "weights.safetensors", tmp_path / "map" / "map.json"
        tensors, row = load_file(path), json.loads(info.read_text())
        if flaw in ("encoder", "head"):
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(flaw)}
        elif flaw == "shape":
            name = max(tensors, key=lambda key: tensors[key].size)
            tensors[name] = tensors[name][:-1]
        elif flaw == "left over":
            tensors["oracle.weight"] = np.zeros(3, np.float32)
        elif flaw == "backbone":
            row["config"]["backbone"] = "alexnet-2031"
        else:
            row["extra"][flaw] = "nonsense"
        save_file(tensors, path)
        info.write_text(json.dumps(row))
        with pytest.raises(PlacecellError if flaw == "backbone" else FormatError) as caught:
            CoordinatesMap.load(tmp_path / "map")
        told = {"backbone": "alexnet-2031", "encoder": "lacks the encoder, there", "head": "lacks the head, there"}
        assert told.get(flaw, "build the map again") in str(caught.value) and "\n" not in str(caught.value)

    def test_loading_draws_from_no_generator_of_others(self, built: CoordinatesMap, tmp_path: Path) -> None:
        built.save(tmp_path / "map")
        torch.manual_seed(5)
        before = torch.get_rng_state()
        CoordinatesMap.load(tmp_path / "map")
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a graphics card")
    def test_a_device_that_is_not_there_is_refused(self, built: CoordinatesMap, tmp_path: Path) -> None:
        built.save(tmp_path / "map")
        with pytest.raises(MissingDevice, match="--device cuda"):
            CoordinatesMap.load(tmp_path / "map", device="cuda")
