"""A run judged by its scene, and refused by every other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from placecell.datasets import seven_scenes
from placecell.errors import FormatError, SceneError
from placecell.estimate import Estimate, dump_predictions
from placecell.pose import Pose, pose_error
from placecell.run import RunInfo
from placecell.scene import Scene
from placecell.verdict import verdict

OFF = Pose.exp([0.0, np.radians(1.0), 0.0, 0.03, 0.0, 0.0])
"""Three centimetres and one degree."""


def off(scene: Scene, split: str = "test") -> list[Estimate]:
    """Each frame of a split answered with its true pose moved by `OFF`."""
    return [
        Estimate(frame.name, frame.world_from_cam @ OFF)
        for frame in scene.posed
        if split in ("all", frame.split) and frame.world_from_cam is not None
    ]


def write_run(
    folder: Path,
    scene: Scene,
    answers: Sequence[Estimate],
    *,
    split: str | None = "test",
    change: Callable[[dict[str, Any]], Any] = lambda row: None,
) -> Path:
    """A run of a map of the scene, over a split of it or over pictures (None)."""
    asked = {"name": scene.name, "fingerprint": scene.fingerprint, "labels": scene.labels, "split": split}
    row: dict[str, Any] = {
        "format": 1,
        "map": {"family": "f", "fingerprint": "m", "scene": scene.name, "scene_fingerprint": scene.fingerprint},
        "scene": None if split is None else asked,
        "device": "cpu",
        "threads": 1,
        "versions": {},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "images": len(answers),
    }
    change(row)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(row))
    (folder / "predictions.jsonl").write_text(dump_predictions(answers))
    return folder


class TestJudgement:
    def test_errors_are_those_of_the_answers(self, room_scene: Scene, tmp_path: Path) -> None:
        answers = off(room_scene)
        found = verdict(write_run(tmp_path / "run", room_scene, answers), room_scene)
        assert (found.evaluation.overall.frames, found.evaluation.overall.answered) == (6, 6)
        assert found.evaluation.overall.median_distance == pytest.approx(0.03, abs=1e-6)
        assert found.evaluation.overall.median_angle_deg == pytest.approx(1.0, abs=1e-6)
        assert found.evaluation.overall.recalls["5cm/5deg"] == 1.0
        assert found.evaluation.overall.recalls["2cm/2deg"] == 0.0
        assert [estimate.name for estimate in found.estimates] == [answer.name for answer in answers]
        assert (found.evaluation.scene, found.evaluation.labels, found.evaluation.unit) == ("room", "synthetic", "m")
        assert found.trained == 0

    def test_answers_that_are_missing_are_misses(self, room_scene: Scene, tmp_path: Path) -> None:
        found = verdict(write_run(tmp_path / "run", room_scene, off(room_scene)[:2]), room_scene)
        overall = found.evaluation.overall
        assert (overall.frames, overall.answered, overall.median_distance) == (6, 2, math.inf)
        assert overall.recalls["5cm/5deg"] == pytest.approx(2 / 6)

    def test_refusals_are_misses(self, room_scene: Scene, tmp_path: Path) -> None:
        answers = [Estimate.refusal(answer.name, "dark") for answer in off(room_scene)]
        overall = verdict(write_run(tmp_path / "run", room_scene, answers), room_scene).evaluation.overall
        assert (overall.answered, overall.median_distance, overall.median_angle_deg) == (0, math.inf, 180.0)

    def test_the_floors_are_of_the_same_frames(self, room_scene: Scene, tmp_path: Path) -> None:
        found = verdict(write_run(tmp_path / "run", room_scene, off(room_scene)), room_scene)
        assert list(found.floors) == ["constant", "oracle"]
        assert all(floor.errors.keys() == found.evaluation.errors.keys() for floor in found.floors.values())
        train = [f.world_from_cam for f in room_scene.split("train").posed if f.world_from_cam is not None]
        for frame in room_scene.split("test").posed:
            assert frame.world_from_cam is not None
            errors = [pose_error(pose, frame.world_from_cam) for pose in train]
            best = min(error.distance + 0.1 * error.angle_deg for error in errors)
            told = found.floors["oracle"].errors[frame.name]
            assert told.distance + 0.1 * told.angle_deg == pytest.approx(best)

    def test_a_scene_that_looks_opposite_ways_has_its_floors_too(self, room_scene: Scene, tmp_path: Path) -> None:
        """The mean of two opposite rotations is not defined."""
        turns = (Pose.identity(), Pose.exp([0.0, np.pi, 0.0, 0.0, 0.0, 0.0]))
        train = tuple(replace(f, world_from_cam=p) for f, p in zip(room_scene.frames, turns, strict=False))
        scene = replace(room_scene, frames=(*train, *room_scene.split("test").frames), points=None)
        found = verdict(write_run(tmp_path / "run", scene, off(scene)), scene)
        assert found.floors["constant"].overall.answered == 6

    def test_frames_without_a_label_do_not_count(self, room_scene: Scene, tmp_path: Path) -> None:
        lost = room_scene.split("test").frames[0].name
        frames = tuple(replace(f, world_from_cam=None) if f.name == lost else f for f in room_scene.frames)
        scene = replace(room_scene, frames=frames, points=None)
        found = verdict(write_run(tmp_path / "run", scene, off(room_scene)), scene)
        assert found.evaluation.overall.frames == 5
        assert lost not in {estimate.name for estimate in found.estimates}

    @pytest.mark.parametrize("split, frames, trained", [("train", 30, 30), ("all", 36, 30)])
    def test_training_frames_are_counted(
        self, split: str, frames: int, trained: int, room_scene: Scene, tmp_path: Path
    ) -> None:
        run = write_run(tmp_path / "run", room_scene, off(room_scene, split), split=split)
        found = verdict(run, room_scene)
        assert (found.evaluation.overall.frames, found.trained) == (frames, trained)

    def test_pictures_without_a_scene_are_judged_by_their_names(self, room_scene: Scene, tmp_path: Path) -> None:
        answers = [*off(room_scene)[:3], Estimate(name="elsewhere.jpg", world_from_cam=Pose.identity())]
        found = verdict(write_run(tmp_path / "run", room_scene, answers, split=None), room_scene)
        assert (found.evaluation.overall.frames, found.evaluation.overall.answered) == (3, 3)


class TestRefusal:
    def test_another_place(self, room_scene: Scene, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", room_scene, off(room_scene))
        with pytest.raises(SceneError, match="scene of the map"):
            verdict(run, replace(room_scene, name="kitchen"))

    def test_another_split(self, room_scene: Scene, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", room_scene, off(room_scene))
        easier = tuple(replace(frame, split="test") for frame in room_scene.frames)
        with pytest.raises(SceneError, match="another place, split or ground truth"):
            verdict(run, replace(room_scene, frames=easier))

    def test_another_ground_truth(self, room_scene: Scene, tmp_path: Path) -> None:
        """The fatal mix of 7-Scenes: answers in the frame of the SfM labels, judged by KinectFusion's."""
        sfm = replace(room_scene, labels="sfm")
        run = write_run(tmp_path / "run", sfm, off(sfm))
        assert verdict(run, sfm).evaluation.labels == "sfm"
        with pytest.raises(SceneError, match=r"\(kinectfusion labels\)"):
            verdict(run, replace(room_scene, labels="kinectfusion"))

    def test_a_map_of_another_scene_than_was_asked(self, room_scene: Scene, tmp_path: Path) -> None:
        run = write_run(
            tmp_path / "run",
            room_scene,
            off(room_scene),
            change=lambda row: row["map"].update(scene_fingerprint="f" * 16),
        )
        with pytest.raises(SceneError, match="the scene the map was built from"):
            verdict(run, room_scene)

    def test_pictures_that_no_label_knows(self, room_scene: Scene, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", room_scene, [Estimate("a.jpg", Pose.identity())], split=None)
        with pytest.raises(SceneError, match="no labelled frame among the pictures"):
            verdict(run, room_scene)

    def test_an_unfinished_run(self, room_scene: Scene, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", room_scene, off(room_scene))
        (run / "run.json").rename(run / "unfinished.json")
        with pytest.raises(FormatError, match="unfinished"):
            verdict(run, room_scene)

    def test_a_damaged_answer_is_named_by_its_line(self, room_scene: Scene, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", room_scene, off(room_scene))
        lines = (run / "predictions.jsonl").read_text().splitlines()
        (run / "predictions.jsonl").write_text("\n".join([lines[0], lines[1][:40], *lines[2:]]) + "\n")
        with pytest.raises(FormatError, match=r"predictions\.jsonl:2: "):
            verdict(run, room_scene)


@pytest.mark.data
def test_the_two_ground_truths_of_red_kitchen_never_mix(data_root: Path, tmp_path: Path) -> None:
    sfm, kinect = (seven_scenes.read(data_root / "redkitchen", labels=kind) for kind in ("sfm", "kinectfusion"))
    assert [f.name for f in sfm.frames] == [f.name for f in kinect.frames]
    run = write_run(tmp_path / "run", sfm, off(sfm))
    assert verdict(run, sfm).evaluation.overall.recalls["5cm/5deg"] == 1.0
    with pytest.raises(SceneError, match="ground truth"):
        verdict(run, kinect)
    assert RunInfo.load(run).scene is not None
