"""Frames of a camera that is plugged in, as they come: who is slower than the camera gets the latest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell.errors import ImageError

_FAREWELL_S = 2.0
"""How long a camera that is stuck is waited for at the end."""


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame of a camera."""

    index: int
    """Of all frames that the camera gave, from 0."""
    time_s: float
    """When it came, since the first."""
    image: NDArray[np.uint8]
    """RGB (H, W, 3)."""
    dropped: int
    """Frames that came after the one before and were passed over."""


def live_frames(camera: int) -> Iterator[LiveFrame]:
    """The latest frame of a camera each time it is asked for, none twice; without end.

    A thread takes every frame from the camera, so that none waits in the driver and is old when it is seen.

    Args:
        camera: its number, from 0, as the system counts cameras.

    Raises:
        ImageError: there is no such camera, another program holds it, or it stops giving pictures.
    """
    with _opened(camera) as capture:
        latest = _Latest(capture)
        index, began_s = -1, 0.0
        try:
            while (found := latest.after(index)) is not None:
                last, (index, came_s, image) = index, found
                began_s = began_s if last >= 0 else came_s
                rgb: Any = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                yield LiveFrame(index, came_s - began_s, rgb, index - last - 1 if last >= 0 else 0)
        finally:
            latest.close()
    if index < 0:
        raise ImageError(f"camera {camera}: gives no picture; see whether another program shows one")
    raise ImageError(f"camera {camera}: gave no more pictures after {index + 1}; is it still plugged in?")


@contextmanager
def _opened(camera: int) -> Iterator[Any]:
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # what its backends say of cameras that are not there
    try:
        capture = cv2.VideoCapture(camera)
        opened = capture.isOpened()
    finally:
        logging.setLogLevel(level)
    try:
        if not opened:
            raise ImageError(f"camera {camera}: none there, or held by another program; try another --camera")
        yield capture
    finally:
        capture.release()


class _Latest:
    """The newest frame of a camera, kept by a thread."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture
        self._changed = threading.Condition()
        self._frame: tuple[int, float, Any] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._keep, name="placecell-camera", daemon=True)
        self._thread.start()

    def after(self, index: int) -> tuple[int, float, Any] | None:
        """The newest frame with its number and when it came, once it is newer than `index`; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (self._frame is not None and self._frame[0] > index))
            return self._frame if self._frame is not None and self._frame[0] > index else None

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            self._ended = True
        self._thread.join(_FAREWELL_S)

    def _keep(self) -> None:
        index = 0
        while not self._ended:
            read, image = self._capture.read()
            with self._changed:
                if read:
                    self._frame = (index, time.monotonic(), image)
                else:
                    self._ended = True
                self._changed.notify_all()
            index += 1
