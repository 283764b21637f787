"""placecell export: a scene in the formats of others, and back again; a map as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from export import small
from export.conftest import small_map as small_map
from placecell.datasets import WRITERS
from placecell.pose import pose_error
from placecell.scene import Scene

Folder = Callable[[str], Path]


@pytest.mark.parametrize("format", WRITERS)
def test_the_next_command_brings_the_poses_back(
    format: str, room_scene: Scene, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "mine.txt").touch()
    said = placecell("export", room_scene.root, "out side", format)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"out side: {room_scene.root} for {format}\n")
    assert said.following == ["placecell", "scene", "out side", "again-2", "--format", format]
    assert placecell(*said.following[1:]).code == 0
    back = Scene.load(tmp_path / "again-2")
    assert len(back.posed) == len(room_scene.posed)
    for ours, theirs in zip(room_scene.posed, sorted_as(room_scene, back), strict=True):
        assert ours.world_from_cam is not None
        error = pose_error(theirs, ours.world_from_cam)
        assert error.distance < 1e-6 and error.angle_deg < 1e-5


def sorted_as(scene: Scene, back: Scene) -> list[object]:
    """Poses of the scene read back, in the order of the frames they came from, told by their pictures."""
    content = {back.image_path(frame).read_bytes(): frame.world_from_cam for frame in back.posed}
    return [content[scene.image_path(frame).read_bytes()] for frame in scene.posed]


def test_an_unknown_format_is_answered_with_the_known(placecell: Command, room_scene: Scene, tmp_path: Path) -> None:
    said = placecell("export", room_scene.root, tmp_path / "out", "bundler")
    assert (said.code, said.out) == (2, "")
    assert [name for name in WRITERS if name not in said.err] == []


def test_a_folder_that_lies_there_is_replaced_only_when_asked(
    placecell: Command, room_scene: Scene, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    said = placecell("export", room_scene.root, tmp_path / "out", "tum")
    assert said.code == 1 and "pass --overwrite" in said.err
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert placecell("export", room_scene.root, tmp_path / "out", "tum", "--overwrite").code == 0
    assert np.loadtxt(tmp_path / "out" / "groundtruth.txt").shape == (36, 8)


def test_copies_can_travel(placecell: Command, room_scene: Scene, tmp_path: Path) -> None:
    assert placecell("export", room_scene.root, tmp_path / "out", "tum", "--images", "copy").code == 0
    pictures = [path for path in (tmp_path / "out" / "rgb").rglob("*") if path.is_file()]
    assert len(pictures) == 36 and not any(path.is_symlink() for path in pictures)


@pytest.fixture
def patches() -> Iterator[None]:
    with small.patched():
        yield


@pytest.mark.usefixtures("patches")
class TestMaps:
    def test_a_map_is_exported_and_served_next(
        self, small_map: Folder, room_scene: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        out = tmp_path / "fast.map"
        told = ("--scene", room_scene.root, "--precision", "fp32", "--frames", 2)
        said = placecell("export", small_map("align"), out, *told)
        assert said.code == 0, said.err
        assert said.out.startswith(f"{out}: fp32, ") and said.following == ["placecell", "serve", str(out)]
        assert (out / "model.onnx").is_file()
        run = placecell("localize", out, room_scene.root, tmp_path / "run")
        assert run.code == 0 and run.following[1] == "evaluate"
        again = placecell("export", small_map("align"), out, *told)
        assert again.code == 1 and "--overwrite" in again.err

    def test_what_is_missing_is_told(
        self, small_map: Folder, room_scene: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        for words, told in (
            ((small_map("align"), tmp_path / "out"), "--scene"),
            ((room_scene.root, tmp_path / "out"), "colmap"),
            ((tmp_path, tmp_path / "out"), "not a map"),
            ((small_map("align"), tmp_path / "out", "--frames", 0), "--frames"),
            ((small_map("align"), tmp_path / "out", "tum"), "not a scene"),
        ):
            said = placecell("export", *words)
            assert said.code == 1 and told in said.err and len(said.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()
