"""placecell report: one page, of the map it says, over nothing that lies there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Command
from placecell.catalog import load_map
from placecell.localizer import map_fingerprint
from placecell.scene import Scene
from test_verdict import off, write_run

Maps = Callable[[str], Path]


@pytest.fixture
def run(room_scene: Scene, room_map_folder: Maps, tmp_path: Path) -> Path:
    fingerprint = map_fingerprint(room_map_folder("retrieval"))
    return write_run(
        tmp_path / "run", room_scene, off(room_scene), change=lambda row: row["map"].update(fingerprint=fingerprint)
    )


def test_writes_a_page_that_says_what_it_is_of(
    run: Path, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
) -> None:
    page = tmp_path / "my page.html"
    said = placecell("report", run, room_scene.root, page, "--map", room_map_folder("retrieval"))
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"{page}: 6 frames, ") and "open it in a browser" in said.out
    text = page.read_text()
    assert room_scene.fingerprint in text and map_fingerprint(room_map_folder("retrieval")) in text


def test_the_next_command_works_when_pasted(
    run: Path, room_scene: Scene, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    following = placecell("report", run, room_scene.root, "page.html").following
    assert placecell(*following[1:]).code == 0


def test_a_file_that_lies_there_is_replaced_only_when_asked(
    run: Path, room_scene: Scene, placecell: Command, tmp_path: Path
) -> None:
    page = tmp_path / "holiday.jpg"
    page.write_text("mine")
    said = placecell("report", run, room_scene.root, page)
    assert said.code == 1 and said.err.startswith(f"placecell report: {page} exists already; ")
    assert page.read_text() == "mine"
    assert placecell("report", run, room_scene.root, page, "--overwrite").code == 0
    assert "<html" in page.read_text()
    said = placecell("report", run, room_scene.root, tmp_path, "--overwrite")  # a folder
    assert said.code == 1 and run.is_dir()


def test_the_map_has_to_be_that_of_the_run(
    run: Path, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
) -> None:
    words = ("report", run, room_scene.root, tmp_path / "page.html", "--map")
    said = placecell(*words, room_map_folder("structure"))
    assert said.code == 1 and "not the map that the run was made with" in said.err
    said = placecell(*words, tmp_path)
    assert said.code == 1 and "is not a map" in said.err
    assert not (tmp_path / "page.html").exists()


def test_a_scene_without_points_is_drawn_with_those_of_the_map(
    room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
) -> None:
    bare, structure = replace(room_scene, points=None), room_map_folder("structure")
    bare.save(tmp_path / "bare")
    fingerprint = map_fingerprint(structure)
    run = write_run(tmp_path / "run", bare, off(bare), change=lambda row: row["map"].update(fingerprint=fingerprint))
    sizes = []
    for words in ((), ("--map", structure)):
        page = tmp_path / f"page{len(words)}.html"
        said = placecell("report", run, tmp_path / "bare", page, *words)
        assert (said.code, said.err) == (0, "")
        sizes.append(page.stat().st_size)
    assert sizes[1] - sizes[0] > 9 * len(load_map(structure).cloud())  # type: ignore[attr-defined]
