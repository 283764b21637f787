"""The one thread that owns the cores: it decodes and answers, one request after the other, in the order they came."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from placecell.serve.limits import Limits, Problem

T = TypeVar("T")


@dataclass
class _Job:
    work: Callable[[], Any]
    until_s: float
    """Of the monotonic clock; work that begins later is of no use to anybody."""
    future: Future[Any] = field(default_factory=Future)


class Worker:
    """A thread with a bounded queue.

    Several threads would share two cores and starve each other, and several pictures in one run of a model take as long
    as one after the other. So there is one, and who has to wait knows it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="placecell-worker", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return self._jobs.qsize()

    async def answer(self, work: Callable[[], T]) -> T:
        """What the work returns, done by the thread.

        Raises:
            Problem: too many wait already, it takes too long, or the service is closing.
        """
        if self._closed:
            raise Problem(503, "closing", "the service is shutting down; ask another one")
        if self.waiting >= self._limits.queue:
            raise Problem(503, "busy", f"{self._limits.queue} requests wait already; come back in a second")
        job = _Job(work, time.monotonic() + self._limits.answer_s)
        self._jobs.put(job)
        try:
            found: T = await asyncio.wait_for(asyncio.wrap_future(job.future), self._limits.answer_s)
        except TimeoutError:
            raise Problem(503, "too-slow", f"no answer within {self._limits.answer_s:g} s; come back later") from None
        return found

    def begin(self, work: Callable[[], object]) -> None:
        """Work that nobody waits for."""
        self._jobs.put(_Job(work, math.inf))

    def close(self) -> None:
        """Finish what has been accepted, and end."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if time.monotonic() > job.until_s or not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(job.work())
            except BaseException as error:  # it is the asker's, who waits for it in another thread
                job.future.set_exception(error)
