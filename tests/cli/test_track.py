"""placecell track: a line a frame, and a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from placecell.scene import Scene


class TestCommand:
    def test_a_line_a_frame_and_a_file(
        self, room_map_folder: Callable[[str], Path], room_scene: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        pictures = room_scene.root / "images"
        out = tmp_path / "answers.tum"
        said = placecell("track", room_map_folder("structure"), pictures, "--every", 12, "--out", out)
        assert (said.code, said.err) == (0, "")
        *lines, made, _ = said.out.splitlines()
        assert len(lines) == 3 and all(" s  " in told for told in lines)
        assert made.startswith(f"{out}: 3 of 3 frames placed")
        rows = np.loadtxt(out)
        truths = np.array([frame.world_from_cam.translation for frame in room_scene.posed if frame.world_from_cam])
        assert all(np.linalg.norm(truths - row[1:4], axis=1).min() < 0.05 for row in rows)
        assert placecell("track", room_map_folder("structure"), pictures, "--out", out).code == 1

    @pytest.mark.parametrize("flags", [("--every", "0"), ("--fps", "0"), ("--out", "a.csv"), ("--focal-px", "-1")])
    def test_what_cannot_be_is_told(
        self, flags: tuple[str, str], room_map_folder: Callable[[str], Path], placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("track", room_map_folder("structure"), tmp_path, *flags)
        assert said.code == 1 and len(said.err.splitlines()) == 1
