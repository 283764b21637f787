"""From a scene to a trained map: which frames, what is said, what is refused, and what is left to go on from."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import Remembering
from families.coordinates.small import settings
from placecell.align import Similarity, align_scene
from placecell.catalog import load_map
from placecell.errors import MapError, MissingDevice, PlacecellError
from placecell.estimate import Estimate, Query
from placecell.families.coordinates import building, tuning
from placecell.families.coordinates.building import chosen, judged
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.images import load_query, write_jpeg
from placecell.pose import Pose, pose_error
from placecell.scene import Frame, Scene

pytestmark = pytest.mark.usefixtures("patches")
T = TypeVar("T")


class Told(Remembering):
    """A log that keeps the names of long work, too."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        self.said.append(what)
        yield from items


def build(
    scene: Scene, *, log: Told | None = None, work: Path | None = None, seed: int = 0, **changes: Any
) -> CoordinatesMap:
    return settings(**changes).build(scene, log=log or Told(), work=work, seed=seed)


def interrupting(batch: Callable[..., Any], at: int) -> Callable[..., Any]:
    """A task's `batch` during which somebody presses Ctrl-C at a step."""

    def stopped(task: Any, step: int, rank: int = 0, ranks: int = 1) -> Any:
        if step == at:
            raise KeyboardInterrupt
        return batch(task, step, rank, ranks)

    return stopped


def same_weights(one: CoordinatesMap, other: CoordinatesMap) -> bool:
    a, b = one.head.state_dict(), other.head.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def few(room_scene: Scene) -> Scene:
    """Six neighbouring frames of the room."""
    return room_scene.keep([index < 6 for index in range(36)])


class TestChosen:
    def test_all_are_learned_from_or_held_out(self, room_scene: Scene) -> None:
        frames = room_scene.split("train").frames
        learned, held = chosen(settings(validation=0.2), room_scene)
        assert sorted(frame.name for frame in learned + held) == [frame.name for frame in frames] and 0 < len(held) < 16
        assert chosen(settings(), room_scene) == (list(frames), [])

    def test_fewer_are_spread_evenly_over_what_is_not_held_out(self, room_scene: Scene) -> None:
        rest, held = chosen(settings(validation=0.2), room_scene)
        learned, same = chosen(settings(validation=0.2, frames=5), room_scene)
        assert same == held and len(learned) == 5 and (learned[0], learned[-1]) == (rest[0], rest[-1])
        assert np.ptp(np.diff([rest.index(frame) for frame in learned])) <= 2
        assert chosen(settings(validation=0.2, frames=500), room_scene) == (rest, held)


class TestTraining:
    @pytest.mark.slow
    @pytest.mark.parametrize("surfaces", [True, False])
    def test_learns_where_cells_lie(self, surfaces: bool, few: Scene) -> None:
        """A few frames by heart, with depth and from their poses alone: the map places them to 5 cm."""
        still = {"turn_deg": 0.0, "zoom": 1.0, "colour": 0.0, "looks": 1, "samples": 300}
        learner = {"hidden": 128, "epochs": 150.0, "batch": 600, "clusters": 8, "learning_rate": 5e-3}
        found = build(few, surfaces=surfaces, **still, **learner, max_error_px=4.0)
        errors = []
        for frame in few.frames:
            (estimate,) = found.localize([load_query(few, frame)])
            assert frame.world_from_cam is not None
            errors.append(pose_error(estimate.world_from_cam, frame.world_from_cam))
        distance, angle = np.median(errors, axis=0)
        assert distance < 0.1 and angle < 0.5, (distance, angle)

    def test_says_how_it_went(self, few: Scene) -> None:
        found = build(few, validation=0.3)
        rows = found.log_csv.splitlines()
        assert rows[0].startswith("step,loss,error_px,seen,learning_rate,val_cm,val_deg")
        steps = found.info.extra["steps"]
        assert len(rows) == 1 + steps and steps == round(2.0 * 4 * 2 * 64 / 256)
        assert found.info.extra["weights"] == "none, random features" and found.unfinished is None

    def test_the_seed_decides(self, few: Scene) -> None:
        one, again, other = (build(few, seed=seed) for seed in (0, 0, 1))
        assert same_weights(one, again) and one.log_csv == again.log_csv
        assert not same_weights(one, other)

    def test_it_draws_from_no_generator_of_others(self, few: Scene) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        build(few)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_world_far_away_trains_the_same_head(self, few: Scene) -> None:
        moved_from_world = Pose.exp([0.4, -1.1, 0.7, 5e3, -3e3, 2e3])
        frames = [
            replace(frame, world_from_cam=moved_from_world @ frame.world_from_cam)
            for frame in few.frames
            if frame.world_from_cam is not None
        ]
        moved = replace(few, frames=tuple(frames), points=None)
        one, other = build(replace(few, points=None)), build(moved)
        assert same_weights(one, other)
        query = load_query(few, few.frames[0])
        (here,), (there,) = one.localize([query]), other.localize([query])
        assert here.world_from_cam is not None and there.world_from_cam is not None
        assert pose_error(there.world_from_cam, moved_from_world @ here.world_from_cam).distance < 1e-9

    def test_another_unit_is_the_same_place(self, few: Scene) -> None:
        """Without depth all lengths come from the poses."""
        bare = replace(few, points=None, depth_sensor=None, metric=False)
        scaled = align_scene(bare, Similarity(2.0**10, np.eye(3), np.zeros(3)), metric=False, note="scaled")
        one, other = build(bare), build(scaled)
        query = load_query(few, few.frames[0])
        points = [found.coordinates(query).points_anchor for found in (one, other)]
        assert np.ptp(points[0], axis=0).min() > 0.05
        order = [np.lexsort(found.coordinates(query).pixels.T) for found in (one, other)]
        np.testing.assert_allclose(points[1][order[1]] / 2.0**10, points[0][order[0]], rtol=0.05, atol=0.05)

    @pytest.mark.slow
    def test_on_two_devices_runs_to_its_end(self, few: Scene, tmp_path: Path) -> None:
        few.save(tmp_path / "scene")
        flags = "--weights none --short-side 64 --looks 1 --samples 32 --hidden 16 --blocks 0 --batch 64 --epochs 2"
        words = ["build", tmp_path / "scene", tmp_path / "map", "coordinates", *flags.split(), "--devices", "2"]
        command = [str(Path(sys.executable).with_name("placecell")), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        found = load_map(tmp_path / "map")
        assert isinstance(found, CoordinatesMap) and found.info.extra["steps"] == 6


class TestJudged:
    class Answers:
        """A map that says the poses it was given, one after the other."""

        def __init__(self, poses: list[Pose | None]) -> None:
            self.poses = list(poses)

        def localize(self, queries: list[Query]) -> list[Estimate]:
            pose = self.poses.pop(0)
            return [Estimate(queries[0].name, pose, reason=None if pose else "no")]

    def told(self, scene: Scene, poses: list[Pose | None]) -> dict[str, float]:
        answers: Any = self.Answers(poses)
        return judged(answers, scene, scene.frames)

    def test_by_median_centimetres_and_degrees(self, few: Scene) -> None:
        away = [Pose.exp([np.radians(turn), 0, 0, 0, 0, metres]) for turn, metres in ((1, 0.1), (4, 0.3), (9, 0.2))]
        poses = [
            frame.world_from_cam @ off
            for frame, off in zip(few.frames, 2 * away, strict=True)
            if frame.world_from_cam is not None
        ]
        expected = np.median([np.linalg.norm(off.translation) for off in away])
        assert self.told(few, list(poses)) == pytest.approx({"cm": 100 * expected, "deg": 4.0}, rel=1e-6)
        told = self.told(replace(few, metric=False), list(poses))
        assert told == pytest.approx({"units": expected, "deg": 4.0}, rel=1e-6)

    def test_refusals_are_as_wrong_as_can_be(self, few: Scene) -> None:
        truths = [frame.world_from_cam for frame in few.frames]
        assert self.told(few, [None] * 6) == {"cm": 1e9, "deg": 180.0}
        assert self.told(few, [None, None, *truths[2:]])["cm"] == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("count", [50, 51, 99, 101, 500])
    def test_by_fifty_frames_at_most(self, count: int, few: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(building, "load_query", lambda scene, frame: Query(frame.name, *[None] * 2))  # type: ignore
        answers: Any = self.Answers([few.frames[0].world_from_cam] * count)
        judged(answers, few, [few.frames[0]] * count)
        assert 25 <= count - len(answers.poses) <= 50


class TestWork:
    def test_a_finished_training_is_taken_from_it(self, few: Scene, tmp_path: Path) -> None:
        first = build(few, work=tmp_path / "work")
        log = Told()
        assert same_weights(first, build(few, work=tmp_path / "work", log=log))
        assert "describing cells" not in log.said

    def test_an_interrupted_one_makes_a_map_and_goes_on_to_the_same(
        self, few: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = build(few, epochs=4.0)
        with monkeypatch.context() as patch:
            patch.setattr(building.CoordinatesTask, "batch", interrupting(building.CoordinatesTask.batch, 6))
            part = build(few, epochs=4.0, work=tmp_path / "work")
        assert part.unfinished is not None and re.fullmatch(r"training stopped after step \d of 12", part.unfinished)
        log = Told()
        resumed = build(few, epochs=4.0, work=tmp_path / "work", log=log)
        assert resumed.unfinished is None and "describing cells" not in log.said
        assert same_weights(resumed, whole) and resumed.log_csv == whole.log_csv

    def test_end_to_end_follows_once_the_rest_is_done(
        self, few: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It moves no coordinate, waits for an interrupted training, and goes on from the work folder."""
        plain, whole = build(few), build(few, end_to_end=3)
        assert whole.info.extra["end_to_end_steps"] == 3 and not same_weights(plain, whole)
        with torch.no_grad():
            features = torch.ones(5, plain.head.get_parameter("enter.weight").shape[1])
            assert torch.equal(plain.head(features).points_N3, whole.head(features).points_N3)
        with monkeypatch.context() as patch:
            patch.setattr(building.CoordinatesTask, "batch", interrupting(building.CoordinatesTask.batch, 3))
            part = build(few, end_to_end=3, work=tmp_path / "work")
        assert part.unfinished is not None and "end_to_end_steps" not in part.info.extra
        with monkeypatch.context() as patch:
            patch.setattr(tuning.PicturesTask, "batch", interrupting(tuning.PicturesTask.batch, 1))
            part = build(few, end_to_end=3, work=tmp_path / "work")
        assert part.unfinished is not None and part.unfinished.startswith("end-to-end training stopped")
        resumed = build(few, end_to_end=3, work=tmp_path / "work")
        assert resumed.unfinished is None and same_weights(resumed, whole)

    def test_stopped_while_looking_at_pictures_leaves_nothing_half(
        self, few: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = building.Looker.row

        def stopped(looker: building.Looker, index: int) -> Any:
            if index == 7:
                raise KeyboardInterrupt
            return row(looker, index)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(building.Looker, "row", stopped)
            build(few, work=tmp_path / "work")
        assert list((tmp_path / "work").iterdir()) == []
        assert same_weights(build(few, work=tmp_path / "work"), build(few))

    @pytest.mark.parametrize(
        "other, told", [("scene", "scene was"), ("settings", "hidden was 32"), ("seed", "seed was")]
    )
    def test_of_another_training_is_refused(self, other: str, told: str, few: Scene, tmp_path: Path) -> None:
        build(few, work=tmp_path / "work")
        scene = replace(few, name="cellar") if other == "scene" else few
        changes: dict[str, Any] = {"settings": {"hidden": 24}, "seed": {"seed": 3}}.get(other, {})
        with pytest.raises(PlacecellError, match=told) as caught:
            build(scene, work=tmp_path / "work", **changes)
        assert "\n" not in str(caught.value)

    def test_a_folder_of_something_else_is_refused(self, few: Scene, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(PlacecellError, match=r"thesis\.txt"):
            build(few, work=tmp_path)

    def test_without_one_nothing_is_left(self, few: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        build(few)
        assert list(tmp_path.iterdir()) == []


class TestBadInput:
    @pytest.mark.parametrize("flaw", ["no frames", "no poses", "test frames only"])
    def test_nothing_to_learn_from(self, flaw: str, few: Scene) -> None:
        changes: dict[str, Any] = {"world_from_cam": None} if flaw == "no poses" else {"split": "test"}
        frames = () if flaw == "no frames" else tuple(replace(frame, **changes) for frame in few.frames)
        with pytest.raises(MapError, match="scene room has no posed training frame") as caught:
            build(replace(few, frames=frames, points=None))
        assert "\n" not in str(caught.value)

    def test_one_frame_is_enough(self, few: Scene) -> None:
        one = few.keep([index == 0 for index in range(6)])
        found = build(one)
        assert found.anchor.scale == 1.0 and found.unfinished is None

    def test_one_place_without_depth_is_enough(self, few: Scene) -> None:
        """Where nothing tells how far away things are, they are taken to be at some distance."""
        frames = tuple(replace(frame, world_from_cam=few.frames[0].world_from_cam) for frame in few.frames)
        found = build(replace(few, frames=frames, points=None, depth_sensor=None))
        assert found.unfinished is None

    def test_hardly_any_cells_are_enough(self, few: Scene) -> None:
        one = few.keep([index == 0 for index in range(6)])
        found = build(one, looks=1, samples=2, clusters=50)
        assert found.info.extra["steps"] == 2

    def test_blank_pictures_among_others_are_left_out_and_told(self, few: Scene, tmp_path: Path) -> None:
        write_jpeg(tmp_path / "black.jpg", np.zeros((360, 480, 3), np.uint8))
        spoilt: tuple[Frame, ...] = (*few.frames[:5], replace(few.frames[5], image=str(tmp_path / "black.jpg")))
        log = Told()
        found = build(replace(few, frames=spoilt, points=None), log=log)
        assert log.warned == [f"1 of 6 pictures are blank and teach nothing: {spoilt[5].name}, …"]
        assert found.info.extra["steps"] == round(2.0 * 5 * 2 * 64 / 256)

    def test_weights_of_another_architecture(self, few: Scene, tmp_path: Path) -> None:
        save_file({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "mobile.safetensors")
        with pytest.raises(PlacecellError, match=r"mobile\.safetensors") as caught:
            build(few, backbone="mobilenet_v2", weights=str(tmp_path / "mobile.safetensors"))
        assert "\n" not in str(caught.value)

    def test_an_unknown_backbone(self, few: Scene) -> None:
        with pytest.raises(PlacecellError, match="mobilenet_v2"):
            build(few, backbone="alexnet-2031")

    def test_a_loss_that_is_no_number_names_the_frames(self, few: Scene) -> None:
        with pytest.raises(PlacecellError, match=r"nan|inf") as caught:
            build(few, learning_rate=1e30, epochs=10.0)
        assert "train/" in str(caught.value) and "\n" not in str(caught.value)

    def test_more_devices_than_cells_in_a_step(self, few: Scene) -> None:
        with pytest.raises(MapError, match="--devices 9 cannot share out 4 cells a step; lower --devices"):
            build(few, devices=9, batch=4)

    def test_a_head_that_does_not_fit_into_memory(self, few: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 384 GB.\nError 12")

        monkeypatch.setattr(building, "heads_of", full)
        with pytest.raises(PlacecellError, match=r"^out of memory making the network; lower --hidden or --experts$"):
            build(few)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a graphics card")
    def test_a_device_that_is_not_there(self, few: Scene) -> None:
        with pytest.raises(MissingDevice, match="--device cuda: this machine has no such device"):
            settings().build(few, device="cuda", log=Told())
