"""Places too large for one head, and places that look alike near by: from the scene to the answer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from conftest import Remembering
from families.coordinates.conftest import patched
from families.coordinates.small import settings
from placecell.camera import Camera
from placecell.errors import FormatError, MapError, PlacecellError
from placecell.families.coordinates import building
from placecell.families.coordinates.buffer import Buffer
from placecell.families.coordinates.building import begin
from placecell.families.coordinates.cells import asked_cells
from placecell.families.coordinates.experts import Gate
from placecell.families.coordinates.head import Guess, Head
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.coordinates.sight import camera_seen, cell_pixels, described, overall
from placecell.images import load_query, write_depth, write_jpeg
from placecell.pose import Array, Pose, pose_error
from placecell.resample import resample
from placecell.scene import DepthSensor, Frame, Scene

pytestmark = pytest.mark.usefixtures("patches")

CAMERA = Camera(128, 96, 100.0, 100.0, 64.0, 48.0)
AWAY_M = 2.0
STILL: dict[str, Any] = {"turn_deg": 0.0, "zoom": 1.0, "colour": 0.0, "looks": 1}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two walls 6 m apart, one reddish and one bluish, in the middle of each the same picture, seen from the same
    three distances aside."""
    root, rng = tmp_path_factory.mktemp("twins"), np.random.default_rng(0)
    blocks = rng.integers(40, 210, (2, 12, 20, 3))
    blocks[0, :, :, 0] += 40
    blocks[1, :, :, 2] += 40
    walls = np.kron(blocks, np.ones((1, 8, 8, 1))).astype(np.uint8)
    walls[1, 32:64, 48:112] = walls[0, 32:64, 48:112]
    frames = []
    for place, wall in enumerate(walls):
        for step in range(3):
            name = f"{place}{step}"
            write_jpeg(root / f"{name}.jpg", wall[:, 8 * step : 8 * step + 128], quality=100)
            write_depth(root / f"{name}.png", np.full((96, 128), AWAY_M, np.float32))
            pose = Pose(np.eye(3), np.array([6.0 * place + 8 * step * AWAY_M / 100.0, 0.0, 0.0]))
            frames.append(Frame(name, f"{name}.jpg", "camera", pose, depth=f"{name}.png"))
    sensor = DepthSensor(CAMERA, Pose.identity())
    cameras = {"camera": CAMERA}
    return Scene("twins", "by hand", True, tuple(frames), cameras, root, depth_sensor=sensor)


def truth_of(frame: Frame) -> Array:
    """(N, 3) where the cells of a picture of the walls lie."""
    assert frame.world_from_cam is not None
    return frame.world_from_cam.apply(AWAY_M * CAMERA.rays(cell_pixels(CAMERA)))


def off_m(found: CoordinatesMap, scene: Scene, frame: Frame) -> Array:
    """(12, 16) how far off each cell of a picture is said to lie, NaN of one that is not asked."""
    seen = found.coordinates(load_query(scene, frame))
    truth = {tuple(pixel): point for pixel, point in zip(cell_pixels(CAMERA), truth_of(frame), strict=True)}
    points = found.anchor.world_from_anchor.apply(seen.points_anchor)
    off = {tuple(p): float(np.linalg.norm(x - truth[tuple(p)])) for p, x in zip(seen.pixels, points, strict=True)}
    return np.array([off.get(tuple(pixel), np.nan) for pixel in cell_pixels(CAMERA)]).reshape(12, 16)


class TestContext:
    def at_the_right_wall(self, scene: Scene, **changes: Any) -> tuple[float, float]:
        """Shares of cells that are said to lie at their own wall: of the picture that both have, and of the rest."""
        still = {"short_side": 96, "samples": 192, "batch": 576, **STILL}
        learner = {"hidden": 96, "blocks": 0, "epochs": 120.0, "learning_rate": 5e-3, "tolerance_px": (300.0, 5.0)}
        found = settings(**still, **learner, **changes).build(scene, seed=0, log=Remembering())
        alike, others = [], []
        for frame in scene.frames:
            off = off_m(found, scene, frame)
            right = np.where(np.isnan(off), np.nan, off < 1.5)
            left = 6 - int(frame.name[1])  # the picture begins six cells from the left end of its wall
            alike.append(np.nanmean(right[5:7, left + 2 : left + 6]))
            others.append(np.nanmean(right[[0, 1, 10, 11]]))
        return float(np.mean(alike)), float(np.mean(others))

    def test_tells_places_apart_that_look_alike_near_by(self, twins: Scene) -> None:
        """Without it a cell of the picture that both walls have can be right at one of them only."""
        alike, others = self.at_the_right_wall(twins)
        assert others > 0.85 and alike < 0.7, (alike, others)
        alike, others = self.at_the_right_wall(twins, context=True)
        assert others > 0.85 and alike > 0.9, (alike, others)

    def test_is_of_the_whole_picture_in_training_and_in_use(self, few: Scene) -> None:
        """What a look is said to be like is what its picture is like when it is asked, where nothing is varied."""
        buffers: list[Buffer] = []

        def kept(head: Head, buffer: Buffer, *rest: Any) -> float:
            buffers.append(buffer)
            return begin(head, buffer, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(building, "begin", kept)
            found = build(few, context=True, **STILL)
        (buffer,) = buffers
        for look, frame in enumerate(few.frames):
            query = load_query(few, frame)
            image = resample(query.image, query.camera, found.camera)
            features = described(found.encoder, image, "fp32")
            coarse = features[:, 4 * 9 + 10 :].mean(axis=0)  # behind four cells of stride 4 and one of stride 8
            np.testing.assert_allclose(buffer.overall[look], coarse, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(overall(found.encoder, features), buffer.overall[look])

    def test_is_kept_with_the_map_and_makes_a_difference(self, few: Scene, tmp_path: Path) -> None:
        found = build(few, context=True, **LEARNER)
        found.save(tmp_path / "map")
        again, query = CoordinatesMap.load(tmp_path / "map"), load_query(few, few.frames[0])
        points = found.coordinates(query).points_anchor
        np.testing.assert_array_equal(again.coordinates(query).points_anchor, points)
        assert isinstance(found.head, Head) and found.head.context is not None
        found.head.context.mean_G += 1.0
        assert not np.array_equal(found.coordinates(query).points_anchor, points)

    def test_a_map_without_one_keeps_nothing_of_it(self, few: Scene, tmp_path: Path) -> None:
        build(few).save(tmp_path / "map")
        names = load_file(tmp_path / "map" / "weights.safetensors")
        assert not [name for name in names if "context" in name or "gate" in name or name.startswith("head.0")]


LEARNER: dict[str, Any] = {"epochs": 4.0}


def build(scene: Scene, *, log: Remembering | None = None, work: Path | None = None, **changes: Any) -> CoordinatesMap:
    return settings(**changes).build(scene, log=log or Remembering(), work=work, seed=0)


def same_weights(one: CoordinatesMap, other: CoordinatesMap) -> bool:
    pairs = [(one.head.state_dict(), other.head.state_dict())]
    if one.gate is not None and other.gate is not None:
        pairs.append((one.gate.state_dict(), other.gate.state_dict()))
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


@pytest.fixture(scope="module")
def few(room_scene: Scene) -> Scene:
    """Six frames of the room: three neighbours here, three at the other side."""
    return room_scene.keep([index in (0, 1, 2, 15, 16, 17) for index in range(36)])


@pytest.fixture(scope="module")
def pair(few: Scene) -> CoordinatesMap:
    """A map of two experts."""
    with patched():
        return build(few, experts=2, **LEARNER)


class Said(nn.Module):
    """A head that says the same of any picture."""

    def __init__(self, points_anchor: Array) -> None:
        super().__init__()
        self.here = nn.Parameter(torch.zeros(1))
        self.points = torch.from_numpy(points_anchor).float()

    def forward(self, features: Tensor) -> Guess:
        return Guess(self.points[: len(features)], torch.zeros(len(features)))


class TestAnswers:
    """What of the experts is asked, and whose answer counts."""

    def knowing(self, pair: CoordinatesMap, scene: Scene, frame: Frame, right: list[float]) -> CoordinatesMap:
        """The map with heads of which each knows a share of the cells of a frame."""
        query = load_query(scene, frame, depth=True)
        assert query.depth_m is not None and frame.world_from_cam is not None
        seen = camera_seen(query.camera, pair.camera)
        pixels = query.camera.project(seen.rays(cell_pixels(seen)[asked_cells(seen)]))
        columns, rows = np.floor(pixels).astype(int).T
        depth = query.depth_m[rows, columns]
        truth = frame.world_from_cam.apply(query.camera.rays(np.stack([columns, rows], axis=1) + 0.5) * depth[:, None])
        points, rng, heads = pair.anchor.world_from_anchor.inv.apply(truth), np.random.default_rng(0), []
        for share in right:
            wild = np.where(rng.random((len(points), 1)) < share, 0.0, rng.normal(size=points.shape))
            heads.append(Said(points + wild))
        return replace(pair, head=nn.ModuleList(heads), family=replace(pair.family, max_error_px=3.0))

    @pytest.mark.parametrize("right", [[0.9, 0.3], [0.3, 0.9], [0.0, 0.9]])
    def test_the_pose_on_which_most_cells_agree(
        self, right: list[float], pair: CoordinatesMap, few: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frame = few.frames[0]
        found, query = self.knowing(pair, few, frame, right), load_query(few, frame)
        for order in ([0, 1], [1, 0]):
            monkeypatch.setattr(Gate, "asked", lambda gate, whole, order=order: order)
            (estimate,) = found.localize([query])
            assert estimate.inliers is not None and estimate.inliers > 0.6 * 150
            error = pose_error(estimate.world_from_cam, frame.world_from_cam)  # type: ignore[arg-type]
            assert error.distance < 0.02 and error.angle_deg < 0.3

    def test_only_those_that_the_gate_names(
        self, pair: CoordinatesMap, few: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frame = few.frames[0]
        found, query = self.knowing(pair, few, frame, [0.0, 0.9]), load_query(few, frame)
        monkeypatch.setattr(Gate, "asked", lambda gate, whole: [0])
        (estimate,) = found.localize([query])
        assert estimate.world_from_cam is None and estimate.reason is not None
        assert estimate.reason.endswith("coordinates agree on a pose, 8 needed")

    def test_the_gate_is_asked_what_the_picture_looks_like(
        self, pair: CoordinatesMap, few: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[Tensor] = []
        monkeypatch.setattr(Gate, "asked", lambda gate, whole: told.append(whole) or [1, 0])
        query = load_query(few, few.frames[4])
        first = pair.coordinates(query).points_anchor
        features = described(pair.encoder, resample(query.image, query.camera, pair.camera), "fp32")
        np.testing.assert_array_equal(told[0].numpy(), overall(pair.encoder, features))
        monkeypatch.setattr(Gate, "asked", lambda gate, whole: [0])
        assert not np.array_equal(pair.coordinates(query).points_anchor, first)

    def test_a_number_that_is_none_is_told(self, pair: CoordinatesMap, few: Scene, monkeypatch: Any) -> None:
        found = self.knowing(pair, few, few.frames[0], [0.9, 0.9])
        found.head.get_submodule("1").points[5] = torch.nan  # type: ignore[index]
        monkeypatch.setattr(Gate, "asked", lambda gate, whole: [0, 1])
        (estimate,) = found.localize([load_query(few, few.frames[0])])
        assert estimate.reason is not None and "numbers that are none" in estimate.reason


class TestExperts:
    def test_each_learns_from_its_own_side_and_the_gate_knows_whose(self, few: Scene) -> None:
        log = Remembering()
        found = build(few, log=log, experts=2, **LEARNER)
        assert [line for line in log.said if line.startswith("expert ")] == [
            "expert 1 of 2 learns from 6 looks",
            "expert 2 of 2 learns from 6 looks",
        ]
        assert found.gate is not None and isinstance(found.head, nn.ModuleList)
        first, second = (found.head.get_submodule(name).get_buffer("centres_K3") for name in "01")
        assert not torch.equal(first, second)
        likeliest = []
        for frame in few.frames:
            query = load_query(few, frame)
            features = described(found.encoder, resample(query.image, query.camera, found.camera), "fp32")
            likeliest.append(found.gate.asked(torch.from_numpy(overall(found.encoder, features)))[0])
        assert likeliest[0] != likeliest[5] and likeliest == sorted(likeliest, reverse=likeliest[0] == 1)
        assert [likeliest.count(expert) for expert in (0, 1)] == [3, 3]

    def test_its_training_is_told_of_all(self, pair: CoordinatesMap) -> None:
        header, *rows = pair.log_csv.splitlines()
        assert header.startswith("expert,step,loss,error_px")
        own = round(4.0 * 6 * 64 / 256)
        assert [row.split(",")[:2] for row in rows] == [[str(e), str(s + 1)] for e in (1, 2) for s in range(own)]
        assert pair.info.extra["steps"] == 2 * own and pair.unfinished is None

    def test_it_is_judged_as_a_whole(self, room_scene: Scene) -> None:
        some = room_scene.split("train").keep([index % 3 == 0 for index in range(30)])
        found = build(some, experts=2, validation=0.3)
        assert set(found.info.extra["validation"]) == {"cm", "deg"}

    def test_a_saved_map_answers_alike(self, pair: CoordinatesMap, few: Scene, tmp_path: Path) -> None:
        pair.save(tmp_path / "map")
        again = CoordinatesMap.load(tmp_path / "map")
        assert same_weights(pair, again) and again.gate is not None and again.log_csv == pair.log_csv
        for frame in few.frames:
            query = load_query(few, frame)
            (one,), (other,) = pair.localize([query]), again.localize([query])
            assert (one.inliers, one.reason) == (other.inliers, other.reason)
            np.testing.assert_array_equal(pair.coordinates(query).points_anchor, again.coordinates(query).points_anchor)
        again.save(tmp_path / "again")
        weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("map", "again")]
        assert weights[0] == weights[1]

    def test_the_seed_decides(self, pair: CoordinatesMap, few: Scene) -> None:
        assert same_weights(pair, build(few, experts=2, **LEARNER))

    @pytest.mark.parametrize("stop", [(1, 2), (2, 3)], ids=["first", "second"])
    def test_an_interrupted_one_makes_a_map_and_goes_on_to_the_same(
        self, stop: tuple[int, int], pair: CoordinatesMap, few: Scene, tmp_path: Path
    ) -> None:
        batch, expert = building.CoordinatesTask.batch, stop[0]
        seen: list[int] = []

        def stopped(task: building.CoordinatesTask, step: int, rank: int = 0, ranks: int = 1) -> Any:
            if id(task) not in seen:
                seen.append(id(task))
            if (seen.index(id(task)) + 1, step) == stop:
                raise KeyboardInterrupt
            return batch(task, step, rank, ranks)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(building.CoordinatesTask, "batch", stopped)
            part = build(few, experts=2, work=tmp_path / "work", **LEARNER)
        assert part.unfinished is not None
        assert re.fullmatch(rf"training of expert {expert} of 2 stopped after step \d of 6", part.unfinished)
        part.save(tmp_path / "map")
        assert CoordinatesMap.load(tmp_path / "map").unfinished == part.unfinished
        log, trained = Remembering(), Counting()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(building.CoordinatesTask, "batch", trained.counted(batch))
            resumed = build(few, experts=2, work=tmp_path / "work", log=log, **LEARNER)
        assert resumed.unfinished is None and same_weights(resumed, pair) and resumed.log_csv == pair.log_csv
        assert trained.steps <= 12 - 6 * (expert - 1), "finished experts are not trained again"

    @pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 3)])
    def test_work_with_other_experts_is_refused(self, before: int, after: int, few: Scene, tmp_path: Path) -> None:
        build(few, experts=before, work=tmp_path / "work", **LEARNER)
        with pytest.raises(PlacecellError, match=f"experts was {before}, is {after}") as caught:
            build(few, experts=after, work=tmp_path / "work", **LEARNER)
        assert "\n" not in str(caught.value)

    def test_blank_pictures_are_nobodys(self, few: Scene, tmp_path: Path) -> None:
        write_jpeg(tmp_path / "black.jpg", np.zeros((360, 480, 3), np.uint8))
        spoilt = (*few.frames[:5], replace(few.frames[5], image=str(tmp_path / "black.jpg")))
        log = Remembering()
        build(replace(few, frames=spoilt, points=None), log=log, experts=2)
        told = {line for line in log.said if line.startswith("expert ")}
        assert {line.split(" learns from ")[1] for line in told} == {"6 looks", "4 looks"}

    def test_frames_that_are_one_place_are_shared_out_somehow(self, few: Scene) -> None:
        frames = tuple(replace(frame, world_from_cam=few.frames[0].world_from_cam) for frame in few.frames)
        assert build(replace(few, frames=frames, points=None), experts=3).unfinished is None


class Counting:
    """How many batches were made."""

    steps = 0

    def counted(self, batch: Any) -> Any:
        def made(task: Any, step: int, rank: int = 0, ranks: int = 1) -> Any:
            self.steps += 1
            return batch(task, step, rank, ranks)

        return made


class TestBadInput:
    def test_more_experts_than_pictures(self, few: Scene) -> None:
        with pytest.raises(MapError) as caught:
            build(few, experts=7)
        assert str(caught.value) == (
            "scene room: 6 training frames cannot be shared out among 7 experts; lower --experts"
        )

    @pytest.mark.parametrize(
        "lost, told",
        [
            ("encoder.", "lacks the encoder, there is no tensor encoder.…; build the map again"),
            ("head.0.", "lacks expert 1 of 2, there is no tensor head.0.…; build the map again"),
            ("head.1.", "lacks expert 2 of 2, there is no tensor head.1.…; build the map again"),
            ("gate.", "lacks the gate, there is no tensor gate.…; build the map again"),
            ("gate.bias_E", "no tensor gate.bias_E, so it is of another version; build the map again"),
        ],
    )
    def test_a_map_that_lacks_a_part(self, lost: str, told: str, pair: CoordinatesMap, tmp_path: Path) -> None:
        pair.save(tmp_path / "map")
        path = tmp_path / "map" / "weights.safetensors"
        save_file({key: value for key, value in load_file(path).items() if not key.startswith(lost)}, path)
        with pytest.raises(FormatError) as caught:
            CoordinatesMap.load(tmp_path / "map")
        assert str(caught.value) == f"{path}: {told}"

    def test_a_map_of_another_number_of_experts(self, pair: CoordinatesMap, tmp_path: Path) -> None:
        pair.save(tmp_path / "map")
        path = tmp_path / "map" / "map.json"
        row = json.loads(path.read_text())
        for experts, told in ((3, "lacks expert 3 of 3"), (1, "no tensor head.mean_C")):
            path.write_text(json.dumps({**row, "config": {**row["config"], "experts": experts}}))
            with pytest.raises(FormatError, match=told):
                CoordinatesMap.load(tmp_path / "map")


def test_random_features_are_told(few: Scene) -> None:
    log = Remembering()
    found = build(few, log=log, weights="none")
    assert [line for line in log.said if "random" in line] == [
        "the features of patches are random and stay so, as nothing trains them: see --weights"
    ]
    assert not [line for line in log.said if "scratch" in line]
    assert found.info.extra["weights"] == "none, random features"
