from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import SceneMaker
from placecell import datasets
from placecell.errors import SceneError
from placecell.scene import Scene

from . import (
    test_bundler,
    test_cambridge,
    test_colmap,
    test_kapture,
    test_kitti,
    test_nerfstudio,
    test_nvm,
    test_posenet,
    test_seven_scenes,
    test_tum,
    test_twelve_scenes,
)
from .known import CAM_FROM_WORLD_QUAT_WXYZ

MAKERS: dict[str, Callable[[Path], Path]] = {
    "7scenes": test_seven_scenes.make,
    "12scenes": test_twelve_scenes.make,
    "cambridge": test_cambridge.make,
    "posenet": lambda root: test_posenet.make(root, "seq1/frame00001.png", CAM_FROM_WORLD_QUAT_WXYZ),
    "tum": test_tum.make,
    "kitti": test_kitti.make,
    "nerfstudio": lambda root: test_nerfstudio.make(root, dict(test_nerfstudio.PINHOLE)),
    "kapture": test_kapture.make,
    "colmap": test_colmap.make,
    "nvm": test_nvm.make,
    "bundler": test_bundler.make,
}
OPTIONS: dict[str, dict[str, Any]] = {"kitti": {"camera": 0}}


@pytest.mark.parametrize("name", list(datasets.READERS))
def test_every_format_is_told_from_its_files_and_makes_a_scene_that_saves(tmp_path: Path, name: str) -> None:
    root = MAKERS[name](tmp_path / "data")
    assert datasets.detect(root) == name
    scene = datasets.read(root, **OPTIONS.get(name, {}))
    assert scene.root.is_absolute()
    assert scene.frames
    saved: Scene = scene.save(tmp_path / "scene")
    assert saved.fingerprint == scene.fingerprint


def test_a_relative_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_tum.make(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    scene = datasets.read(Path())
    assert (scene.root, scene.name) == (tmp_path / "data", "data")


def test_unknown_folders_formats_and_options(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"none of the known formats \(7scenes, 12scenes, cambridge, "):
        datasets.detect(tmp_path)
    with pytest.raises(SceneError, match="not a folder"):
        datasets.read(tmp_path / "nowhere")
    with pytest.raises(SceneError, match="unknown format 'blender'; known are 7scenes"):
        datasets.read(tmp_path, "blender")
    with pytest.raises(SceneError, match="the reader of tum has no option 'labels'; it has camera, max_gap_s"):
        datasets.read(tmp_path, "tum", labels="sfm")


@pytest.mark.parametrize("name", list(datasets.WRITERS))
def test_every_writer_writes_what_its_reader_detects(tmp_path: Path, scene_of: SceneMaker, name: str) -> None:
    folder = datasets.WRITERS[name](scene_of(), tmp_path / "out")
    assert datasets.detect(folder) == name


@pytest.mark.parametrize("name", ["colmap", "nerfstudio"])
def test_a_scene_without_poses_is_not_exported(tmp_path: Path, scene_of: SceneMaker, name: str) -> None:
    scene = scene_of()
    bare = replace(scene, frames=tuple(replace(frame, world_from_cam=None) for frame in scene.frames))
    with pytest.raises(SceneError, match="no frame has a pose"):
        datasets.WRITERS[name](bare, tmp_path / "out")


def test_import_is_light() -> None:
    code = "import sys, placecell.datasets; print([m for m in ('pycolmap', 'cv2', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
