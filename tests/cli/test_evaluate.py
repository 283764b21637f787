"""placecell evaluate: the figures as a user reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from placecell.estimate import Estimate
from placecell.metrics import table
from placecell.metrics_file import read_metrics
from placecell.pose import Pose
from placecell.published import rows_for
from placecell.scene import Scene
from placecell.verdict import verdict
from test_verdict import off, write_run

MakeRun = Callable[..., tuple[Path, Path]]


@pytest.fixture
def made(room_scene: Scene, tmp_path: Path) -> MakeRun:
    """Makes a run folder with the answers of `off`, or those given, and the scene folder it belongs to."""

    def make(answers: Sequence[Estimate] | None = None, split: str = "test", **changes: object) -> tuple[Path, Path]:
        scene = replace(room_scene, **changes).save(tmp_path / "my scene")  # type: ignore[arg-type]
        run = write_run(tmp_path / "my run", scene, off(scene, split) if answers is None else answers, split=split)
        return run, tmp_path / "my scene"

    return make


def test_prints_the_table_and_keeps_the_figures(made: MakeRun, placecell: Command) -> None:
    run, folder = made()
    said = placecell("evaluate", run, folder)
    assert (said.code, said.err) == (0, "")
    found = verdict(run, Scene.load(folder))
    assert said.out.startswith(table({"f": found.evaluation, **found.floors}) + "\n")
    assert f"{run / 'metrics.json'}: the figures\n" in said.out
    assert read_metrics(run / "metrics.json") == found.evaluation


def test_says_time_and_honesty(room_scene: Scene, made: MakeRun, placecell: Command) -> None:
    # Of six dimensions two are off, by about one sigma each.
    honest = np.diag([np.radians(1.0) ** 2] * 3 + [0.03**2] * 3)
    answers = [
        replace(answer, covariance=honest, seconds=0.1 * (index + 1)) for index, answer in enumerate(off(room_scene))
    ]
    out = placecell("evaluate", *made(answers)).out
    assert "time: median 350 ms a picture, 95 % within 575 ms\n" in out
    assert "covariance: 100.0 and 100.0 % of the errors inside its 50 and 95 % ellipsoids\n" in out


def test_misses_are_counted(room_scene: Scene, made: MakeRun, placecell: Command) -> None:
    out = placecell("evaluate", *made([Estimate.refusal(answer.name, "dark") for answer in off(room_scene)])).out
    (line,) = [line for line in out.splitlines() if line.startswith("f ")]
    assert line.split()[:5] == ["f", "6", "0", "inf", "180.00"]


def test_training_frames_are_warned_of(made: MakeRun, placecell: Command) -> None:
    said = placecell("evaluate", *made(split="all"))
    assert said.err.startswith("warning: 30 of 36 frames are training frames")
    lines = [line.split() for line in said.out.splitlines() if line.startswith(("test ", "train "))]
    assert lines == [["test", "6", "6", "3.00", "1.00", "100.0"], ["train", "30", "30", "3.00", "1.00", "100.0"]]


def test_without_metres_there_are_no_centimetres(made: MakeRun, placecell: Command) -> None:
    out = placecell("evaluate", *made(split="all", metric=False)).out
    assert "units" in out and " cm" not in out and "5cm" not in out


class TestPublished:
    def test_stand_beside_a_known_scene(self, made: MakeRun, placecell: Command) -> None:
        out = placecell("evaluate", *made(name="7scenes/redkitchen", labels="sfm")).out
        _, _, published = out.partition("published on ")
        title, head, *lines = published.splitlines()
        assert title == "7scenes/redkitchen, ground truth sfm, over its 5000 test frames"
        assert head.split() == ["median", "cm/deg", "5cm/5deg", "source", "remark"]
        rows = rows_for("7scenes/redkitchen", "sfm")
        for row, line in zip(rows, lines, strict=False):
            assert line.startswith(row.system) and f" {row.printed} " in line
            assert line.index(row.source) == head.index("source")
        assert "Published(" not in out and len(lines) == len(rows) + 2

    def test_are_of_the_same_ground_truth(self, made: MakeRun, placecell: Command) -> None:
        out = placecell("evaluate", *made(name="7Scenes/RedKitchen", labels="kinectfusion")).out
        (line,) = [line for line in out.splitlines() if line.startswith("Active Search")]
        assert "5.4/1.72" in line and ".6/.16" not in out

    def test_in_metres_where_they_were_printed_so(self, made: MakeRun, placecell: Command) -> None:
        out = placecell("evaluate", *made(name="cambridge/ShopFacade", labels="sfm")).out
        assert "median m/deg" in out and ".04/.19" in out

    def test_an_unknown_scene_has_none(self, made: MakeRun, placecell: Command) -> None:
        assert "published" not in placecell("evaluate", *made()).out


def test_the_next_command_works_when_pasted(
    made: MakeRun, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.html").write_text("mine")
    following = placecell("evaluate", *made()).following
    assert following[1] == "report" and following[-1] == "report-2.html"
    assert placecell(*following[1:]).code == 0
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("what", ["another scene", "no scene", "no run", "a run of pictures elsewhere"])
def test_what_does_not_belong_together_is_refused(
    what: str, room_scene: Scene, made: MakeRun, placecell: Command, tmp_path: Path
) -> None:
    run, folder = made()
    if what == "another scene":
        replace(room_scene, labels="sfm").save(tmp_path / "other")
        folder = tmp_path / "other"
    elif what == "no scene":
        folder = run
    elif what == "no run":
        run = folder
    else:
        run = write_run(tmp_path / "photos", Scene.load(folder), [Estimate("a", Pose.identity())])
        (run / "run.json").unlink()
    said = placecell("evaluate", run, folder)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("placecell evaluate: ") and said.err.count("\n") == 1
    assert not (run / "metrics.json").exists()
