"""An export is another map than the one it was made of: calibrated by itself, and then as sure as any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from conftest import Command, Remembering
from export import small
from placecell.catalog import load_map
from placecell.combine.calibrated import Calibrated
from placecell.estimate import read_predictions
from placecell.export.exporting import export_map
from placecell.images import load_query
from placecell.localizer import MapInfo, load_info
from placecell.runtime.regression import ExportedRegression
from placecell.scene import Scene
from placecell.serve.served import read_maps
from placecell.synthetic import make_scene
from serve.conftest import post
from test_contract import said as answer_said

pytestmark = pytest.mark.slow

KINDS = ("align", "coordinates")


@pytest.fixture(autouse=True)
def patches() -> Iterator[None]:
    with small.patched():
        yield


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Sixty small training frames and four test frames."""
    return make_scene(tmp_path_factory.mktemp("hall") / "hall", train=60, test=4, size=(200, 150), seed=1)


@pytest.fixture(scope="module")
def folders(hall: Scene, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """An untrained map of each kind that has seen eight of the frames, and its export."""
    root, made = tmp_path_factory.mktemp("maps"), dict[str, tuple[Path, Path]]()

    def folders_of(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            built = small.coordinates(hall) if kind == "coordinates" else small.regression(hall, kind)
            info = MapInfo.of(built.family, hall, 0, held=hall.split("train").posed[8:])
            own, out = root / f"{kind}.map", root / f"{kind}.fast.map"
            replace(built, info=info).save(own)
            export_map(own, out, scene=None, precision="fp32", log=Remembering())
            made[kind] = own, out
        return made[kind]

    return folders_of


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_calibrated_on_what_its_map_has_not_seen(
    kind: str, folders: Callable[[str], tuple[Path, Path]], hall: Scene, placecell: Command, tmp_path: Path
) -> None:
    _, exported = folders(kind)
    folder = Path(copytree(exported, tmp_path / "fast.map"))
    said = placecell("calibrate", folder, hall.root, "--within", 3, "--within-deg", 170, "--no-damaged")
    assert said.code == 0, said.err
    assert "calibrated on 52 answers to 52 frames it was not built from" in said.out
    found = load_map(folder)
    assert isinstance(found, Calibrated)
    assert placecell("localize", folder, hall.root, tmp_path / "run").code == 0
    answers = read_predictions(tmp_path / "run" / "predictions.jsonl")
    assert all(answer.confidence is not None and answer.radii is not None for answer in answers)
    served = read_maps([folder])
    reply = post(served, hall.image_path(hall.split("test").frames[0]).read_bytes()).json()
    assert reply["confidence"] == pytest.approx(answers[0].confidence, abs=0.05)


def test_familiarity_costs_no_second_look(
    folders: Callable[[str], tuple[Path, Path]], hall: Scene, placecell: Command, tmp_path: Path
) -> None:
    folder = Path(copytree(folders("align")[1], tmp_path / "fast.map"))
    assert placecell("calibrate", folder, hall.root, "--within", 3, "--within-deg", 170, "--no-damaged").code == 0
    found = load_map(folder)
    assert isinstance(found, Calibrated) and found.known is not None
    assert isinstance(found.localizer, ExportedRegression)
    counting = Counting(found.localizer.engine)
    quick = replace(found, localizer=replace(found.localizer, engine=counting))
    queries = [load_query(hall, frame) for frame in hall.split("test").frames]
    answers = quick.localize(queries)
    assert counting.runs == len(queries)
    assert all(answer.familiarity is not None for answer in answers)
    assert [answer_said(a) for a in answers] == [answer_said(a) for a in found.localize(queries)]
    apart = replace(found, localizer=Apart(found.localizer))  # type: ignore[arg-type]
    assert [answer_said(a) for a in answers] == [answer_said(a) for a in apart.localize(queries)]


class Counting:
    """An engine that counts how often it runs."""

    def __init__(self, engine: object) -> None:
        self.engine, self.name, self.runs = engine, "openvino", 0

    def run(self, images: object) -> object:
        self.runs += 1
        return self.engine.run(images)  # type: ignore[attr-defined]


class Apart:
    """A map that answers and sees its vectors by two looks."""

    def __init__(self, own: ExportedRegression) -> None:
        self.localize, self.pose_features = own.localize, own.pose_features


def test_folds_of_an_export_are_refused(
    folders: Callable[[str], tuple[Path, Path]], hall: Scene, placecell: Command
) -> None:
    exported = folders("align")[1]
    said = placecell("calibrate", exported, hall.root, "--folds", 2)
    assert said.code == 1 and said.err.count("\n") == 1
    assert "which is an export; calibrate the map that it was made of by --folds" in said.err


def test_an_export_of_all_frames_names_what_helps(hall: Scene, placecell: Command, tmp_path: Path) -> None:
    small.regression(hall, "posenet").save(tmp_path / "whole.map")
    export_map(tmp_path / "whole.map", tmp_path / "fast.map", scene=None, precision="fp32", log=Remembering())
    said = placecell("calibrate", tmp_path / "fast.map", hall.root)
    assert said.code == 1 and said.err.count("\n") == 1
    assert "built from all 60 posed train frames" in said.err
    assert "--by" in said.err and "--folds" not in said.err


def test_the_export_of_a_calibrated_map_says_that_it_is_not(
    folders: Callable[[str], tuple[Path, Path]], hall: Scene, placecell: Command, tmp_path: Path
) -> None:
    own = Path(copytree(folders("align")[0], tmp_path / "own.map"))
    assert placecell("calibrate", own, hall.root, "--within", 3, "--within-deg", 170, "--no-damaged").code == 0
    out = tmp_path / "fast.map"
    said = placecell("export", own, out, "--scene", hall.root, "--precision", "fp32", "--frames", 2)
    assert said.code == 0, said.err
    assert f"{own} is calibrated, its export is not" in said.err
    assert said.following == ["placecell", "calibrate", str(out), str(hall.root)]
    assert load_info(out).extra["seen"] == load_info(own).extra["seen"]
    assert not isinstance(load_map(out), Calibrated)
    words = ("--within", 3, "--within-deg", 170, "--no-damaged")
    assert placecell(*said.following[1:], *words).code == 0
    assert isinstance(load_map(out), Calibrated)
    bare = placecell("export", own, tmp_path / "bare.map", "--precision", "fp32")
    assert bare.following[1] == "serve" and "calibrate" in bare.err and "SCENE" in bare.err
