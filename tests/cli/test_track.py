"""placecell track: a line a frame, and a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from placecell.errors import ImageError
from placecell.estimate import Estimate
from placecell.pose import Pose
from placecell.scene import Scene
from placecell.track import Step


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

    @pytest.mark.parametrize(
        "words, told",
        [
            ((), "--camera 0"),
            (("photos", "--camera", "0"), "--camera 0"),
            (("camera:x",), "camera:0 is the first"),
            (("camera:0", "--camera", "1"), "--camera 0"),
            (("--camera", "-1"), "--camera 0"),
            (("camera:0", "--every", "2"), "--every"),
            (("--camera", "97"), "camera 97: none there"),
        ],
    )
    def test_cameras_that_cannot_be_are_told(
        self, words: tuple[str, ...], told: str, room_map_folder: Callable[[str], Path], placecell: Command
    ) -> None:
        said = placecell("track", room_map_folder("retrieval"), *words)
        assert said.code == 1 and told in said.err and len(said.err.splitlines()) == 1

    @pytest.mark.parametrize("flags", [("--every", "0"), ("--fps", "0"), ("--out", "a.csv"), ("--focal-px", "-1")])
    def test_what_cannot_be_is_told(
        self, flags: tuple[str, str], room_map_folder: Callable[[str], Path], placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("track", room_map_folder("structure"), tmp_path, *flags)
        assert said.code == 1 and len(said.err.splitlines()) == 1


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets the third frame end in something else than an answer."""

    def at_the_third(error: BaseException) -> None:
        def followed(localizer: object, found: object, *, live: bool = False) -> Iterator[tuple[Step, Estimate]]:
            for index in range(2):
                yield (
                    Step(f"{index}.jpg", index / 10, None, dropped=3 * index),
                    Estimate(f"{index}.jpg", Pose.exp([0, 0, 0, index, 0, 0])),
                )
            raise error

        monkeypatch.setattr("placecell.cli.track.followed", followed)

    return at_the_third


class TestStopped:
    def test_a_recording_that_is_stopped_leaves_what_was_answered(
        self, stops: Callable[..., None], room_map_folder: Callable[[str], Path], placecell: Command, tmp_path: Path
    ) -> None:
        stops(KeyboardInterrupt())
        out = tmp_path / "a.jsonl"
        said = placecell("track", room_map_folder("retrieval"), tmp_path, "--format", "jsonl", "--out", out)
        assert said.code == 130 and "stopped" in said.err
        assert [json.loads(row)["name"] for row in out.read_text().splitlines()] == ["0.jpg", "1.jpg"]
        assert said.out == out.read_text() and [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]

    def test_ctrl_c_is_how_a_camera_ends(
        self, stops: Callable[..., None], room_map_folder: Callable[[str], Path], placecell: Command, tmp_path: Path
    ) -> None:
        stops(KeyboardInterrupt())
        out = tmp_path / "a.tum"
        said = placecell("track", room_map_folder("retrieval"), "camera:0", "--out", out)
        assert (said.code, said.err) == (0, "")
        assert "2 of 2 frames placed" in said.out and "3 dropped as the camera is faster" in said.out
        assert np.loadtxt(out)[:, 1].tolist() == [0, 1]

    def test_a_camera_that_is_stopped_before_its_first_frame_leaves_nothing(
        self,
        monkeypatch: pytest.MonkeyPatch,
        room_map_folder: Callable[[str], Path],
        placecell: Command,
        tmp_path: Path,
    ) -> None:
        def followed(*_: object, **__: object) -> Iterator[tuple[Step, Estimate]]:
            raise KeyboardInterrupt
            yield  # a generator

        monkeypatch.setattr("placecell.cli.track.followed", followed)
        said = placecell("track", room_map_folder("retrieval"), "camera:0", "--out", tmp_path / "a.tum")
        assert said.code == 130 and list(tmp_path.iterdir()) == []

    def test_a_camera_that_breaks_leaves_what_was_answered(
        self, stops: Callable[..., None], room_map_folder: Callable[[str], Path], placecell: Command, tmp_path: Path
    ) -> None:
        stops(ImageError("camera 0: gave no more pictures"))
        out = tmp_path / "a.tum"
        said = placecell("track", room_map_folder("retrieval"), "--camera", "0", "--out", out)
        assert said.code == 1 and "no more pictures" in said.err and len(out.read_text().splitlines()) == 2

    @pytest.mark.slow
    def test_a_real_ctrl_c(self, room_map_folder: Callable[[str], Path], room_scene: Scene, tmp_path: Path) -> None:
        """In the midst of writing: every line is whole, in the pipe and in the file."""
        (tmp_path / "many").mkdir()
        picture = room_scene.image_path(room_scene.frames[0])
        for index in range(5_000):
            (tmp_path / "many" / f"{index}.jpg").symlink_to(picture)
        out = tmp_path / "a.jsonl"
        code = "import sys; from placecell.cli import main; sys.exit(main(sys.argv[1:]))"
        words = [
            "track",
            str(room_map_folder("retrieval")),
            str(tmp_path / "many"),
            "--format",
            "jsonl",
            "--out",
            str(out),
        ]
        with subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            try:
                assert child.stdout is not None
                lines = [child.stdout.readline() for _ in range(5)]
                os.kill(child.pid, signal.SIGINT)
                rest, said = child.communicate(timeout=60)
            finally:
                child.kill()
        lines += rest.splitlines(keepends=True)
        assert child.returncode == 130 and "Traceback" not in said
        assert all(text.endswith("\n") for text in lines)
        names = [json.loads(text)["name"] for text in lines]
        assert names == [f"{index}.jpg" for index in range(len(names))]  # no frame of a folder is left out
        written = [json.loads(text)["name"] for text in out.read_text().splitlines()]
        assert out.read_text().endswith("\n") and abs(len(written) - len(names)) <= 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "many"]
