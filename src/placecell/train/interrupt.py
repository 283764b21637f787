"""Ctrl-C as a wish that is granted between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether Ctrl-C was pressed."""

    asked: bool = False


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Within the block the first Ctrl-C sets `asked` and nothing else; the second does what it always does.

    Outside the main thread, where Python delivers no signals, and where the process ignores Ctrl-C (`nohup`), the
    block changes nothing.
    """
    stop = Stop()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)
