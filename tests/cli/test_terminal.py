"""How the verbs talk: bars on a terminal, plain lines elsewhere, and commands that can be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from placecell.cli.terminal import Terminal, columns, finish, unused


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("placecell.cli.terminal.time.monotonic", found)
    return found


class TestTrack:
    """On what is no terminal, as here."""

    def test_yields_the_items(self) -> None:
        assert list(Terminal().track([3, 1, 2], "counting")) == [3, 1, 2]

    def test_short_work_leaves_nothing_on_the_screen(self, capsys: pytest.CaptureFixture[str]) -> None:
        list(Terminal().track(range(1000), "counting"))
        list(Terminal().track([], "nothing"))
        assert capsys.readouterr() == ("", "")

    def test_long_work_tells_where_it_is_every_ten_seconds(
        self, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for _ in Terminal().track(range(9), "matching"):
            clock.now += 4.0
        assert capsys.readouterr() == ("", "matching: 3 of 9\nmatching: 6 of 9\nmatching: 9 of 9\n")

    def test_items_that_take_long_are_told_one_by_one(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        def slow() -> Iterator[int]:
            for index in range(2):
                clock.now += 60.0
                yield index

        list(Terminal().track(slow(), "mapping", total=5))
        assert capsys.readouterr().err == "mapping: 1 of 5\nmapping: 2 of 5\n"

    def test_a_number_that_nobody_knows_is_left_out(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in Terminal().track(iter("ab"), "reading"):
            clock.now += 30.0
        assert capsys.readouterr().err == "reading: 1\nreading: 2\n"

    def test_on_a_terminal_it_is_a_bar(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        assert list(Terminal().track(range(3), "[matching]", total=3)) == [0, 1, 2]
        said = capsys.readouterr()
        assert said.out == "" and "[matching]" in said.err and "3/3" in said.err


class TestRemarks:
    def test_go_to_standard_error_as_they_are(self, capsys: pytest.CaptureFixture[str]) -> None:
        long = "a [bold] remark with 12 numbers " * 20
        Terminal().say(long)
        Terminal().warn("look [here]")
        assert capsys.readouterr() == ("", f"{long}\nwarning: look [here]\n")


class TestFinish:
    def test_the_next_command_can_be_pasted(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["placecell", "evaluate", Path("my run"), Path("küche (2)/it's")]
        finish("made", words)
        made, following = capsys.readouterr().out.splitlines()
        assert made == "made"
        assert shlex.split(following.removeprefix("next: ")) == [str(word) for word in words]

    def test_text_stays_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        finish("made", "placecell build kitchen kitchen.map structure")
        assert capsys.readouterr().out == "made\nnext: placecell build kitchen kitchen.map structure\n"


def test_unused_names_count_up(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert unused(path) == path
    path.touch()
    assert unused(path) == tmp_path / "report-2.html"
    (tmp_path / "report-2.html").touch()
    assert unused(path) == tmp_path / "report-3.html"


def test_columns_stand_under_each_other() -> None:
    lines = columns([["", "median", "source"], ["hloc", "1.1/.14", "paper"], ["Active Search", ".6/.16", "a page"]])
    assert lines == [
        "               median   source",
        "hloc           1.1/.14  paper",
        "Active Search   .6/.16  a page",
    ]
