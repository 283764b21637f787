"""placecell calibrate, and what localize does with a calibrated map and with several."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Command, SceneMaker
from placecell.catalog import load_map
from placecell.combine.calibrated import Calibrated
from placecell.estimate import read_predictions
from placecell.run import RunInfo
from placecell.scene import Scene
from placecell.synthetic import make_scene

pytestmark = pytest.mark.slow

Maps = Callable[[str], Path]
SMALL = ("--words", 8, "--dimensions", 64, "--features", 300)


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Sixty small training frames in four sequences, and four test frames."""
    scene = make_scene(tmp_path_factory.mktemp("hall") / "scene", train=60, test=4, size=(200, 150), seed=1)
    frames = tuple(
        replace(frame, sequence=f"s{index // 15}" if frame.split == "train" else "test")
        for index, frame in enumerate(scene.frames)
    )
    return replace(scene, frames=frames).save(tmp_path_factory.mktemp("hall") / "hall")


@pytest.fixture(scope="module")
def calibrated(hall: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of the hall, calibrated."""
    from placecell.cli import main

    folder = tmp_path_factory.mktemp("maps") / "hall.map"
    assert main(["build", str(hall.root), str(folder), "retrieval", *map(str, SMALL)]) == 0
    words = ["--folds", "2", "--within", "0.5", "--within-deg", "20"]
    assert main(["calibrate", str(folder), str(hall.root), *words]) == 0
    return folder


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


class TestCalibrate:
    def test_says_what_it_was_calibrated_on(
        self, calibrated: Path, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        folder = copied(calibrated, tmp_path / "hall.map")
        said = placecell("calibrate", folder, hall.root, "--folds", 2, "--no-damaged", "--overwrite")
        assert said.code == 0
        basis = "calibrated on 60 answers to 60 frames it was not built from\n"
        assert said.out.startswith(f"{folder / 'calibration.json'}: {basis}")
        assert "the map states no covariance" in said.err
        assert [path.name for path in tmp_path.iterdir()] == ["hall.map"]  # the maps of the parts are gone
        assert placecell(*said.following[1:-1], tmp_path / "run").code == 0

    def test_the_map_then_says_how_sure_it_is(self, calibrated: Path, hall: Scene) -> None:
        found = load_map(calibrated)
        assert isinstance(found, Calibrated)
        own = found.calibration
        assert own.threshold == ("50cm/20deg", 0.5, 20.0)
        assert (own.frames, own.damaged) == (60, 300)
        assert own.widening.scale.kinds == ("features",)

    def test_what_the_map_was_built_from_is_refused(self, hall: Scene, placecell: Command, tmp_path: Path) -> None:
        assert placecell("build", hall.root, tmp_path / "m", "retrieval", *SMALL).code == 0
        said = placecell("calibrate", tmp_path / "m", hall.root)
        assert said.code == 1 and said.err.count("\n") == 1
        assert "was built from all 60 posed train frames of scene room" in said.err and "--folds 3" in said.err

    def test_a_scene_of_other_labels_is_refused(
        self, calibrated: Path, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        replace(hall, labels="sfm").save(tmp_path / "scene")
        said = placecell("calibrate", calibrated, tmp_path / "scene", "--folds", 2, "--overwrite")
        assert said.code == 1 and "another place, ground truth or scale" in said.err and said.err.count("\n") == 1

    def test_too_few_frames_are_refused(self, calibrated: Path, hall: Scene, placecell: Command) -> None:
        before = (calibrated / "calibration.json").read_bytes()
        said = placecell("calibrate", calibrated, hall.root, "--folds", 2, "--limit", 20, "--no-damaged", "--overwrite")
        assert said.code == 1 and "40 of 40 unseen pictures got an answer, 50 are needed" in said.err
        assert (calibrated / "calibration.json").read_bytes() == before
        shutil.rmtree(calibrated.with_name("hall.map.folds"))

    def test_a_calibrated_map_is_not_calibrated_again_unasked(
        self, calibrated: Path, hall: Scene, placecell: Command
    ) -> None:
        said = placecell("calibrate", calibrated, hall.root, "--folds", 2)
        assert said.code == 1 and "is calibrated already; pass --overwrite" in said.err

    @pytest.mark.parametrize(
        "words, told",
        [
            (("--folds", 1), "--folds 1: at least 2"),
            (("--folds", 2, "--by", "x"), "pass one of the two"),
            (("--coverage", 1), "--coverage is a share"),
            (("--limit", 0), "--limit counts frames from 1"),
            (("--within", -1), "--within is a distance"),
            (("--within-deg", "nan"), "an angle up to 180"),
        ],
    )
    def test_numbers_that_mean_nothing_are_refused(
        self, words: tuple[object, ...], told: str, calibrated: Path, hall: Scene, placecell: Command
    ) -> None:
        said = placecell("calibrate", calibrated, hall.root, *words, "--overwrite")
        assert said.code == 1 and told in said.err

    def test_a_map_built_from_less_is_asked_in_its_place(
        self, calibrated: Path, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        folder = copied(calibrated, tmp_path / "whole.map")
        hall.keep([frame.sequence == "s3" for frame in hall.frames]).save(tmp_path / "part")
        placecell("build", tmp_path / "part", tmp_path / "part.map", "retrieval", *SMALL)
        said = placecell("calibrate", folder, hall.root, "--by", tmp_path / "part.map", "--limit", 45, "--overwrite")
        assert said.code == 1 and "45 of 45 unseen pictures got an answer" in said.err
        placecell("build", tmp_path / "part", tmp_path / "other.map", "retrieval", "--top", 3)
        said = placecell("calibrate", folder, hall.root, "--by", tmp_path / "other.map", "--overwrite")
        assert said.code == 1 and "the errors of one say nothing of the other" in said.err


class TestLocalize:
    def test_sure_answers_are_counted_and_unsure_ones_refused_on_demand(
        self, calibrated: Path, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("localize", calibrated, hall.root, tmp_path / "run")
        assert said.code == 0 and "of them surely within 50cm/20deg (confidence " in said.out
        every = read_predictions(tmp_path / "run" / "predictions.jsonl")
        stated = sorted(e.confidence for e in every if e.confidence is not None)
        assert len(stated) == len(every) == 4 and stated[0] < stated[-1]
        assert all(e.radii is not None and e.familiarity is not None for e in every)
        least = f"{stated[1] + 1e-6:.6f}"
        said = placecell("localize", calibrated, hall.root, tmp_path / "strict", "--min-confidence", least)
        found = read_predictions(tmp_path / "strict" / "predictions.jsonl")
        assert [e.world_from_cam is not None for e in found] == [(e.confidence or 0) >= float(least) for e in every]
        reasons = [e.reason for e in found if e.reason is not None]
        assert len(reasons) >= 2 and all("with a confidence of 0." in reason for reason in reasons)
        told = RunInfo.load(tmp_path / "strict")
        assert told.min_confidence == float(least) and len(told.map["calibration"]) == 16
        assert told.sure_of == ("50cm/20deg", 0.5, 20.0)

    def test_confidence_of_a_map_without_is_no_filter(
        self, room_map_folder: Maps, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("localize", room_map_folder("retrieval"), hall.root, tmp_path / "run", "--min-confidence", 0.5)
        assert said.code == 1 and "states no confidence; calibrate it first" in said.err
        said = placecell("localize", room_map_folder("retrieval"), hall.root, tmp_path / "run", "--min-confidence", 2)
        assert said.code == 1 and "a probability is within 0 and 1" in said.err


class TestSeveralMaps:
    def test_the_run_says_which_map_and_that_all_claim_a_picture(
        self, calibrated: Path, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        other = copied(calibrated, tmp_path / "twin.map")
        pictures = hall.root / "images"
        shutil.copytree(pictures / "test", tmp_path / "photos")
        run = tmp_path / "run"
        said = placecell("localize", "--maps", calibrated, other, "--", tmp_path / "photos", run)
        assert said.code == 0 and " in hall.map, " in said.out
        found = read_predictions(run / "predictions.jsonl")
        claimed = [e for e in found if e.map is not None]
        assert claimed and all({e.map, *e.also} == {"hall.map", "twin.map"} for e in claimed)
        assert "claimed by every map (they are of one scene)" in said.err
        row = json.loads((run / "run.json").read_text())
        assert row["map"]["family"] == "retrieval, retrieval"
        assert placecell("evaluate", run, hall.root).code == 1

    def test_flags_may_come_after_the_maps(
        self, calibrated: Path, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        other = copied(calibrated, tmp_path / "twin.map")
        words = ("--maps", calibrated, other, "--min-confidence", 1, hall.root, tmp_path / "run")
        assert placecell("localize", *words).code == 0
        assert all(e.reason is not None for e in read_predictions(tmp_path / "run" / "predictions.jsonl"))

    @pytest.mark.parametrize("count", [0, 1])
    def test_fewer_than_two_are_refused(self, count: int, calibrated: Path, placecell: Command) -> None:
        said = placecell("localize", "--maps", *[calibrated] * count, "--", "photos", "run")
        assert said.code == 1 and "--maps takes two maps or more" in said.err

    def test_one_twice_is_refused(self, calibrated: Path, placecell: Command) -> None:
        said = placecell("localize", "--maps", calibrated, calibrated, "--", "photos", "run")
        assert said.code == 1 and "each once" in said.err

    def test_a_map_without_calibration_is_named(
        self, calibrated: Path, room_map_folder: Maps, hall: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        bare = room_map_folder("retrieval")
        said = placecell("localize", "--maps", calibrated, bare, "--", hall.root, tmp_path / "run")
        assert said.code == 1 and f"{bare} is not calibrated" in said.err


def test_help_tells_of_both(placecell: Command, scene_of: SceneMaker) -> None:
    assert "--min-confidence" in placecell("localize", "--help").out
    assert "--maps" in placecell("localize", "--help").out
    assert "--split" in placecell("localize", "--maps", "a", "b", "--help").out
