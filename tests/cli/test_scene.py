"""`placecell scene`: what it prints, and the one line for every bad input."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dolly
from placecell.images import write_jpeg
from placecell.scene import Scene
from placecell.video import write_video


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video."""
    folder = tmp_path_factory.mktemp("walk")
    write_video(folder / "walk.avi", dolly.images(dolly.poses(12)), 10.0)
    return folder


def test_says_what_was_made_and_what_to_type_next(placecell: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "my room"
    said = placecell("scene", made / "walk.avi", out, "--every", 1, "--focal-px", 270, "--holdout", 0.2)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{out}: 12 of 12 frames have a pose, ")
    assert "for the test" in lines[0]
    assert lines[1].startswith("camera of 320x240 px: focal length 270.0 px")
    assert "no metric scale: lengths are in an arbitrary unit" in lines
    assert lines[-2].split(": ")[1].startswith("pictures ")
    assert said.following == ["placecell", "build", str(out), f"{out}.map", "structure"]
    assert len(Scene.load(out).posed) == 12
    again = placecell("scene", made / "walk.avi", out, "--every", 1)
    assert (again.code, again.out) == (1, "")
    assert "exists already" in again.err


def test_check_judges_a_scene_and_a_data_set(
    placecell: Callable[..., Any], scene_of: Callable[..., Scene], tmp_path: Path, made: Path
) -> None:
    scene_of().save(tmp_path / "room")
    said = placecell("scene", "--check", tmp_path / "room")
    assert said.code == 0
    assert said.out.startswith("room: poses ")
    assert "1 of 4 frames have no pose" in said.out
    for words, text in (
        ((tmp_path / "room", tmp_path / "other"), "drop one of them"),
        ((made / "walk.avi",), "no poses to check"),
    ):
        refused = placecell("scene", "--check", *words)
        assert refused.code == 1
        assert text in refused.err
    assert "name the scene folder to make" in placecell("scene", tmp_path / "room").err


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("one", "1 picture is too few"),
        ("black", "nothing to see on 4 of 4 pictures"),
        ("text", "not a picture"),
        ("truncated", "damaged or cut short"),
        ("empty file", "empty"),
        ("no pictures", "holds no pictures"),
        ("nothing", "no such file or folder"),
        ("not a video", "not a video"),
        ("still video", "1 picture is too few"),
    ],
)
def test_bad_input_is_one_line(placecell: Callable[..., Any], tmp_path: Path, what: str, text: str) -> None:
    source = bad_source(tmp_path / "source", what)
    said = placecell("scene", source, tmp_path / "out")
    lines = [line for line in said.err.splitlines() if line.startswith("placecell scene: ")]
    assert said.code == 1
    assert said.out == ""
    assert len(lines) == 1
    assert text in lines[0]
    assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


def bad_source(folder: Path, what: str) -> Path:
    if what == "nothing":
        return folder
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (4, 240, 320, 3)).astype(np.uint8)
    if what == "not a video":
        (folder / "walk.mp4").write_text("hello")
        return folder / "walk.mp4"
    if what == "still video":
        write_video(folder / "walk.avi", [noise[0]] * 8, 10.0)
        return folder / "walk.avi"
    if what == "no pictures":
        return folder
    for index in range(1 if what == "one" else 4):
        write_jpeg(folder / f"{index}.jpg", np.zeros_like(noise[0]) if what == "black" else noise[index])
    if what == "text":
        (folder / "2.jpg").write_text("hello")
    if what == "truncated":
        (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes()[:3000])
    if what == "empty file":
        (folder / "2.jpg").write_bytes(b"")
    return folder


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_found_out_first(placecell: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    said = placecell("scene", made / "walk.avi", tmp_path / "locked" / "room")
    assert said.code == 1
    assert "could not be written" in said.err
