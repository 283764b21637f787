"""A camera: the latest frame wins, and what was passed over is counted."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import pairwise

import cv2
import numpy as np
import pytest

from placecell.errors import ImageError
from placecell.live import live_frames


class Plugged:
    """A camera that gives `count` frames, the number of each in its blue channel, and then none."""

    def __init__(self, count: int = 10**9, every_s: float = 0.001) -> None:
        self.count, self.every_s = count, every_s
        self.given, self.released, self.asked = 0, False, threading.Event()

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(self.every_s)
        assert not self.released
        if self.given >= self.count:
            return False, None
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, :, 0], image[:, :, 2] = self.given % 256, 200
        self.given += 1
        return True, image

    def release(self) -> None:
        self.released = True


def plug(patch: pytest.MonkeyPatch, camera: Plugged) -> Plugged:
    patch.setattr(cv2, "VideoCapture", lambda number: camera)
    return camera


def test_the_latest_wins_and_the_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = plug(monkeypatch, Plugged())
    seen, frames = [], live_frames(0)
    for frame in frames:
        seen.append(frame)
        before = camera.given
        time.sleep(0.03)  # a slow map
        assert camera.given > before  # the camera does not wait for it
        if len(seen) == 6:
            break
    frames.close()
    assert camera.released
    indices = [frame.index for frame in seen]
    assert all(later > earlier + 1 for earlier, later in pairwise(indices))
    assert [frame.dropped for frame in seen] == [0, *(b - a - 1 for a, b in pairwise(indices))]
    assert [int(frame.image[0, 0, 2]) for frame in seen] == [index % 256 for index in indices]  # RGB of this very frame
    assert all(frame.image[0, 0, 0] == 200 for frame in seen)
    times = [frame.time_s for frame in seen]
    assert times[0] == 0 and times == sorted(times) and 0.1 < times[-1] < 10


def test_who_is_faster_misses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, Plugged(count=8, every_s=0.05))
    found = []
    with pytest.raises(ImageError, match="after 8"):
        for frame in live_frames(2):
            found.append(frame)
    assert [frame.index for frame in found] == list(range(8)) and {frame.dropped for frame in found} == {0}


def test_one_that_gives_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = plug(monkeypatch, Plugged(count=0))
    with pytest.raises(ImageError, match="camera 3: gives no picture"):
        next(live_frames(3))
    assert camera.released


def test_one_that_is_not_there_is_told_in_one_line() -> None:
    """In a process of its own, as the libraries below write to its standard error themselves."""
    code = "from placecell.live import live_frames\ntry:\n    next(live_frames(97))\nexcept Exception as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "" and done.stdout.startswith("camera 97: none there") and done.stdout.count("\n") == 1
