"""Documents that show code show code that runs, and commands that can be typed."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import Command
from placecell.cli import HELP, VERBS
from placecell.scene import Scene

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("docs/conventions.md", "docs/formats.md")
SYSTEMS = tuple(sorted(f"docs/regression/{path.name}" for path in (ROOT / "docs" / "regression").glob("*.md")))
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/uncertainty.md", *DOCUMENTS, *SYSTEMS)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]+))?")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^(?:torchrun .*?)?|`)placecell ((?:" + "|".join(VERBS) + r") [^`#\n]*)", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def run_blocks(name: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after the other, with the line numbers of the page; the names they leave."""
    text, names = text_of(name), dict[str, Any]()
    for block in BLOCK.finditer(text):
        before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * before + block.group(1), str(ROOT / name), "exec"), names)
    return names


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_runs_after_those_before_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks(name)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link, place in LINK.findall(text_of(name)):
        path = (ROOT / name).parent / link
        assert path.exists(), link
        assert not place or place in anchors(path), f"{link}#{place}"


def anchors(path: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes it."""
    headings = HEADING.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_places_a_photo(
    room_scene: Scene,
    room_map_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kitchen.map").symlink_to(room_map_folder("structure"))
    frame = room_scene.split("test").frames[1]
    assert frame.world_from_cam is not None
    # The room was taken at 0.82 widths: 524.8 px at this size, near enough to the page's 525.
    Image.open(room_scene.image_path(frame)).resize((640, 480)).save(tmp_path / "photo.jpg", quality=95)
    assert "answer" in run_blocks("README.md")
    centre, *matrices = capsys.readouterr().out.splitlines()
    found = [float(value) for value in centre.strip("[]").split()]
    assert found == pytest.approx(frame.world_from_cam.translation.tolist(), abs=0.02)
    assert len(matrices) >= 3 + 6


def commands() -> list[tuple[str, str]]:
    """Every command line that a page or the help shows, without its remark."""
    texts = {name: text_of(name) for name in PAGES} | {"--help": HELP.replace("\n  ", "\n")}
    lines = [(name, found.split("  ")[0].strip()) for name, text in texts.items() for found in COMMAND.findall(text)]
    return [(name, line) for name, line in lines if any(not word.startswith("-") for word in line.split()[1:])]


class Parsed(Exception):
    """The command line could be read."""


@pytest.mark.parametrize("page, line", commands(), ids=lambda value: value if " " in value else None)
def test_commands_can_be_typed(page: str, line: str, placecell: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verb, flags, positional arguments and families exist; the work itself is not done."""
    verb, *words = shlex.split(line)
    if "--help" in words:
        assert placecell(verb, *words).code == 0
        return
    module = pytest.importorskip(f"placecell.cli.{'among' if '--maps' in words else verb}")
    parse = module.parse

    def parse_only(verb: str, function: Callable[..., Any], words: Sequence[str]) -> None:
        @functools.wraps(function)
        def nothing(*given: Any, **flags: Any) -> None:
            raise Parsed

        parse(verb, nothing, words)

    monkeypatch.setattr(module, "parse", parse_only)
    with pytest.raises(Parsed):
        placecell(verb, *words)


def test_the_pages_show_every_verb() -> None:
    assert {shlex.split(line)[0] for _, line in commands()} >= VERBS.keys() - {"demo"}  # which is `make demo` there


@pytest.mark.slow
def test_the_readme_from_video_to_report(placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands under "To judge a map of your own", on a rendered video."""
    from placecell.synthetic import make_video

    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "kitchen.mp4", count=90)
    _, _, after = text_of("README.md").partition("To judge a map of your own:")
    block = after.split("```")[1]
    lines = COMMAND.findall(block)
    assert [line.split()[0] for line in lines] == ["scene", "build", "localize", "evaluate", "report"]
    for line in lines:
        said = placecell(*shlex.split(line))
        assert said.code == 0, said.err
    assert "<html" in (tmp_path / "report.html").read_text()
