"""placecell demo: the commands it shows are those it does, and nobody's folder is overwritten."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import Command
from placecell.cli import demo
from placecell.metrics_file import read_metrics
from placecell.pose import Pose
from placecell.scene import Scene

VERBS = ("scene", "build", "localize", "evaluate", "report")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the demo asks of the verbs, which do nothing here."""
    found: list[list[str]] = []

    def record(verb: str, words: Sequence[str]) -> None:
        found.append(["placecell", verb, *words])

    for verb in VERBS:
        monkeypatch.setattr(f"placecell.cli.{verb}.main", lambda words, verb=verb: record(verb, words))
    monkeypatch.setattr("placecell.cli.demo.make_video", lambda path, **_: [Pose.identity()])
    monkeypatch.setattr("placecell.cli.demo.Scene.load", lambda folder: None)
    monkeypatch.setattr("placecell.cli.demo._judge_labels", lambda scene, exact: None)
    return found


def test_shows_the_commands_that_it_does(done: list[list[str]], placecell: Command, tmp_path: Path) -> None:
    out = tmp_path / "my demo"
    said = placecell("demo", out, "--seed", "4")
    assert said.code == 0
    shown = [shlex.split(line.removeprefix("$ ")) for line in said.out.splitlines() if line.startswith("$ ")]
    assert shown == done
    assert [words[1] for words in done] == list(VERBS)
    assert str(out / "report.html") in said.out.splitlines()[-1]


def test_each_step_works_on_what_the_last_one_made(done: list[list[str]], placecell: Command, tmp_path: Path) -> None:
    placecell("demo", tmp_path / "demo")
    made = {str(tmp_path / "demo" / "room.mp4")}
    for _, verb, *words in done:
        paths = [word for word in words if word.startswith(str(tmp_path))]
        new = {"scene": 1, "build": 1, "localize": 2, "evaluate": None, "report": 2}[verb]
        inputs = [path for index, path in enumerate(paths) if index != new]
        assert set(inputs) <= made, (verb, words)
        made |= set(paths)


@pytest.mark.parametrize("what", ["a file", "photos", "a demo and more"])
def test_a_folder_of_something_else_is_left_alone(
    what: str, done: list[list[str]], placecell: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "holiday.jpg").write_text("mine")
        if what == "a demo and more":
            (out / "room").mkdir()
    said = placecell("demo", out)
    assert (said.code, said.out, done) == (1, "", [])
    assert said.err.startswith(f"placecell demo: {out} ") and said.err.count("\n") == 1


def test_an_earlier_demo_is_replaced(done: list[list[str]], placecell: Command, tmp_path: Path) -> None:
    for name in ("room", "room.map", "run", ".room.work"):
        (tmp_path / name).mkdir()
    assert placecell("demo", tmp_path).code == 0
    assert {words[1] for words in done if "--overwrite" in words} == {"scene", "build", "localize", "report"}


def test_labels_are_judged_by_the_frame_they_came_from() -> None:
    assert demo._number("room/frame-000123.jpg") == 123
    assert demo._number("frame-000007.jpg") == 7


@pytest.mark.slow
def test_all_of_it(placecell: Command, tmp_path: Path) -> None:
    said = placecell("demo", tmp_path / "demo", "--frames", "90")
    assert said.code == 0
    found = re.search(r"labels within ([\d.]+) mm and ([\d.]+) deg", said.out)
    assert found is not None and float(found[1]) < 10 and float(found[2]) < 0.5
    evaluation = read_metrics(tmp_path / "demo" / "run" / "metrics.json")
    assert evaluation.overall.answered == evaluation.overall.frames == 18
    assert Scene.load(tmp_path / "demo" / "room").points is not None
    assert "<html" in (tmp_path / "demo" / "report.html").read_text()
