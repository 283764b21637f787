"""Videos are read upright, whole or with a warning, and the frames kept are sharp and evenly apart."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import Remembering
from placecell.errors import ImageError, PlacecellError
from placecell.images import read_image
from placecell.video import Selected, choose, extract_frames, frames, probe, select_frames, write_video

T = TypeVar("T")

WIDTH, HEIGHT, LENGTH = 160, 120, 30


def ramp(index: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Red grows to the right, green downwards, blue with time: every flip, turn and exchange shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([180 * x + 30, 180 * y + 30, np.full_like(x, 20 + 7 * index)], axis=-1).astype(np.uint8)


def close(image: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    return image.shape == expected.shape and float(np.abs(image.astype(int) - expected).mean()) < 4


@pytest.fixture(scope="module")
def ramp_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vidéo 廊下") / "une vidéo.mp4"
    write_video(path, (ramp(index) for index in range(LENGTH)), fps=25.0)
    return path


def test_probe(ramp_video: Path) -> None:
    info = probe(ramp_video)
    assert (info.width, info.height, info.frames, info.rotation_deg) == (WIDTH, HEIGHT, LENGTH, 0)
    assert info.fps == pytest.approx(25.0)


def test_frames_are_rgb_in_order_with_times(ramp_video: Path) -> None:
    read = list(frames(ramp_video))
    assert [frame.index for frame in read] == list(range(LENGTH))
    assert [frame.time_s for frame in read] == pytest.approx([index / 25 for index in range(LENGTH)], abs=1e-6)
    for frame in read:
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert close(frame.image, ramp(frame.index))


def test_start_and_step_name_the_right_frames(ramp_video: Path) -> None:
    read = list(frames(ramp_video, start=4, step=7))
    assert [frame.index for frame in read] == [4, 11, 18, 25]
    assert all(close(frame.image, ramp(frame.index)) for frame in read)
    with pytest.raises(ValueError, match="step"):
        next(frames(ramp_video, step=0))


def turned(content: bytes, rotation_deg: int) -> bytes:
    """The same MP4 with the display matrix of a phone held so that the picture has to be turned clockwise."""
    one, zero = 1 << 16, 0
    a, b = {0: (one, zero), 90: (zero, one), 180: (-one, zero), 270: (zero, -one)}[rotation_deg]
    at = content.index(b"tkhd") + 44  # version 0: flags, times, id, duration, layer, volume come before
    matrix = struct.pack(">9i", a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    assert content[at : at + 36] == struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    return content[:at] + matrix + content[at + 36 :]


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_the_rotation_flag_is_applied_once(ramp_video: Path, rotation_deg: int, tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    path.write_bytes(turned(ramp_video.read_bytes(), rotation_deg))
    info = probe(path)
    expected = np.rot90(ramp(0), -rotation_deg // 90)
    assert info.rotation_deg == rotation_deg
    assert (info.height, info.width) == expected.shape[:2]
    first = next(frames(path))
    assert close(first.image, expected)
    # OpenCV's own turning is what we rely on; without it the stored picture has to come out.
    raw = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    raw.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    read, stored = raw.read()
    raw.release()
    assert read
    assert close(stored[..., ::-1], ramp(0))


def moov_first(content: bytes) -> bytes:
    """The same MP4 with its index before its frames, as cameras that stream write it."""
    boxes = []
    at = 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        boxes.append((content[at + 4 : at + 8], content[at : at + size]))
        at += size
    moov = bytearray(dict(boxes)[b"moov"])
    table = moov.index(b"stco") + 8
    for entry in range(int.from_bytes(moov[table : table + 4], "big")):
        where = table + 4 + 4 * entry
        moov[where : where + 4] = (int.from_bytes(moov[where : where + 4], "big") + len(moov)).to_bytes(4, "big")
    rest = b"".join(box for kind, box in boxes if kind not in (b"moov", b"ftyp"))
    return dict(boxes)[b"ftyp"] + bytes(moov) + rest


def test_a_video_that_ends_early_yields_what_is_there_and_warns(ramp_video: Path, tmp_path: Path) -> None:
    content = moov_first(ramp_video.read_bytes())
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    whole.write_bytes(content)
    cut.write_bytes(content[: int(0.6 * len(content))])
    log = Remembering()
    assert len(list(frames(whole, log=log))) == LENGTH
    assert log.warned == []
    read = list(frames(cut, log=log))
    assert 3 < len(read) < LENGTH - 3
    assert all(close(frame.image, ramp(frame.index)) for frame in read[:-1])
    assert len(log.warned) == 1
    assert f"{len(read)} of {LENGTH}" in log.warned[0]
    assert str(cut) in log.warned[0]


def test_what_is_not_a_video(ramp_video: Path, tmp_path: Path) -> None:
    text, empty, half = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "half.mp4"
    text.write_text("hello " * 100)
    empty.write_bytes(b"")
    half.write_bytes(ramp_video.read_bytes()[:3000])  # the index of this one is at its end
    for path in (text, empty, half, tmp_path, tmp_path / "missing.mp4"):
        for read in (probe, lambda path: list(frames(path)), select_frames):
            with pytest.raises(ImageError) as error:
                read(path)
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)


def wallpaper() -> NDArray[np.uint8]:
    rng = np.random.default_rng(3)
    noise = sum(
        cv2.resize(rng.normal(size=(240 // cell, 1600 // cell, 3)) * cell, (1600, 240), interpolation=cv2.INTER_CUBIC)
        for cell in (2, 4, 8, 16, 40)
    )
    return np.clip(128 + 4 * np.asarray(noise), 0, 255).astype(np.uint8)


PAN_START, PAN_END, PAN_STEP_PX = 20, 80, 16


def pan_offset(index: int) -> int:
    return PAN_STEP_PX * (min(max(index, PAN_START), PAN_END) - PAN_START)


def blurred(index: int) -> bool:
    return PAN_START < index < PAN_END and index % 4 != 0


@pytest.fixture(scope="module")
def pan_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames at rest with sensor noise, 60 frames of steady pan of which three in four are blurred, 20 at rest."""
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    wall, rng = wallpaper(), np.random.default_rng(0)

    def picture(index: int) -> NDArray[np.uint8]:
        view = wall[:, pan_offset(index) : pan_offset(index) + 320]
        if blurred(index):
            view = cv2.GaussianBlur(view, (0, 0), 3)
        noisy = view + rng.normal(size=view.shape) * 3
        return np.clip(noisy, 0, 255).astype(np.uint8)

    write_video(path, (picture(index) for index in range(100)), fps=15.0)
    return path


def test_selection_is_sharp_evenly_apart_and_rests_once(pan_video: Path) -> None:
    chosen = select_frames(pan_video, count=100, overlap=0.8)
    indices = [frame.index for frame in chosen]
    assert indices == sorted(set(indices))
    assert sum(index <= PAN_START for index in indices) == 1
    assert sum(index >= PAN_END for index in indices) == 1
    assert not any(blurred(index) for index in indices)
    # 60 frames of 16 px are 3 widths: 15 steps of a fifth of the 320 px.
    apart = np.diff([pan_offset(index) / 320 for index in indices])
    assert len(chosen) == 16
    assert apart.min() >= 0.09
    assert apart.max() <= 0.31
    assert chosen[-1].travelled == pytest.approx(3.0, rel=0.05)
    assert [frame.time_s for frame in chosen] == pytest.approx([index / 15 for index in indices], abs=1e-6)


def test_selection_keeps_to_the_count(pan_video: Path) -> None:
    chosen = select_frames(pan_video, count=6, overlap=0.9)
    apart = np.diff([pan_offset(frame.index) / 320 for frame in chosen])
    assert len(chosen) == 6
    assert apart.min() > 0.4
    assert apart.max() < 0.8


def test_every_takes_each_nth_frame_unmeasured(ramp_video: Path) -> None:
    chosen = select_frames(ramp_video, every=10, count=1)
    assert [frame.index for frame in chosen] == [0, 10, 20]
    assert all(frame.sharpness is None for frame in chosen)


def test_a_resting_camera_and_a_dark_video_give_one_frame(tmp_path: Path) -> None:
    rng, wall = np.random.default_rng(1), wallpaper()[:, :320]
    pictures = [np.clip(wall + rng.normal(size=wall.shape) * 4, 0, 255).astype(np.uint8) for _ in range(40)]
    pictures[0] = np.zeros_like(pictures[0])
    write_video(tmp_path / "rest.mp4", pictures, fps=15.0)
    chosen = select_frames(tmp_path / "rest.mp4")
    assert len(chosen) == 1
    assert chosen[0].index > 0
    write_video(tmp_path / "dark.mp4", [np.zeros_like(wall)] * 10, fps=15.0)
    assert len(select_frames(tmp_path / "dark.mp4")) == 1


def test_a_slow_drift_adds_up(tmp_path: Path) -> None:
    # A fifth of a pixel a frame: less than the noise of a resting camera, but it goes on.
    wall = wallpaper()
    shifts = (np.array([[1.0, 0.0, -0.2 * index], [0.0, 1.0, 0.0]]) for index in range(150))
    write_video(tmp_path / "slow.mp4", (cv2.warpAffine(wall, shift, (320, 240)) for shift in shifts), fps=15.0)
    chosen = select_frames(tmp_path / "slow.mp4", overlap=0.97)
    assert len(chosen) == 4
    assert chosen[-1].travelled == pytest.approx(0.2 * 149 / 320, rel=0.1)


def test_choose_by_hand() -> None:
    def measured(*rows: tuple[float, float]) -> list[Selected]:
        return [Selected(index, 0.0, sharp, way) for index, (sharp, way) in enumerate(rows)]

    assert choose([], 10, 0.1) == []
    # The sharpest of all when nothing moved; within a quarter step of each point otherwise; the nearest in a gap.
    assert [f.index for f in choose(measured((1, 0), (9, 0), (5, 0)), 10, 0.1)] == [1]
    rows = measured((1, 0.0), (2, 0.02), (99, 0.05), (3, 0.09), (4, 0.1), (1, 0.17), (1, 0.3))
    assert [f.index for f in choose(rows, 10, 0.1)] == [1, 4, 5, 6]
    assert [f.index for f in choose(rows, 2, 0.1)] == [2, 6]
    assert len(choose(rows, 1, 0.1)) == 1


def test_extract_names_frames_and_goes_on_where_it_stopped(ramp_video: Path, tmp_path: Path) -> None:
    selection = select_frames(ramp_video, every=9)
    paths = extract_frames(ramp_video, selection, tmp_path / "out")
    names = ["frame-000000.jpg", "frame-000009.jpg", "frame-000018.jpg", "frame-000027.jpg"]
    assert [path.name for path in paths] == names == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert all(close(read_image(path), ramp(int(path.stem[-6:]))) for path in paths)
    paths[1].unlink()
    stamp = paths[0].stat().st_mtime_ns
    assert extract_frames(ramp_video, selection, tmp_path / "out") == paths
    assert paths[1].is_file()
    assert paths[0].stat().st_mtime_ns == stamp


def test_extract_of_a_frame_that_is_not_there(ramp_video: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="frame 400 cannot"):
        extract_frames(ramp_video, [Selected(3, 0.0), Selected(400, 13.0)], tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov"])
def test_write_video_round_trip(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    write_video(path, [ramp(index) for index in range(5)], fps=10.0)
    read = list(frames(path))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert len(read) == 5
    assert all(close(frame.image, ramp(frame.index)) for frame in read)


def test_write_video_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with pytest.raises(ImageError, match="one size"):
        write_video(path, [ramp(0), ramp(1, 80, 60)])
    with pytest.raises(ImageError, match="no pictures"):
        write_video(path, [])
    with pytest.raises(ImageError, match="suffix"):
        write_video(tmp_path / "v.gif", [ramp(0)])
    assert list(tmp_path.iterdir()) == []
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(PlacecellError):
        write_video(blocked / "v.mp4", [ramp(0)])
