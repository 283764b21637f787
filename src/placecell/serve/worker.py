"""The one thread that owns the cores: it decodes and answers, in the order requests came, several at once if it can."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from placecell.serve.limits import Limits, Problem

T = TypeVar("T")
Question = TypeVar("Question", contravariant=True)
Found = TypeVar("Found", covariant=True)


class Desk(Protocol[Question, Found]):
    """What answers several questions in one call."""

    @property
    def room(self) -> int:
        """How many questions of different requests are answered together; 1 where joining is of no use."""
        ...

    def __call__(self, questions: Sequence[Question], /) -> Sequence[Found | Exception]:
        """An answer or what went wrong for each; what is wrong with one does not touch the others."""
        ...


@dataclass(frozen=True, eq=False)
class _Alone:
    """Work that nothing can be joined with."""

    work: Callable[[], Any]
    room = 1

    def __call__(self, questions: Sequence[None], /) -> list[Any]:
        return [self.work()]


@dataclass(eq=False)
class _Job:
    desk: Desk[Any, Any]
    questions: Sequence[Any]
    until_s: float
    """Of the monotonic clock; work that begins later is of no use to anybody."""
    future: Future[Any] = field(default_factory=Future)

    def begins(self) -> bool:
        """Whether somebody still waits for it; to be asked once."""
        return time.monotonic() <= self.until_s and self.future.set_running_or_notify_cancel()


class Worker:
    """A thread with a bounded queue.

    Several threads would share two cores and starve each other. So there is one, and who has to wait knows it. What
    waits for the same desk when the first of it is taken is answered with it, as far as the desk has room.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="placecell-worker", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._jobs)

    async def answer(self, work: Callable[[], T]) -> T:
        """What the work returns, done by the thread.

        Raises:
            Problem: too many wait already, it takes too long, or the service is closing.
        """
        found: list[Any] = await self.answers(_Alone(work), [None])
        return found[0]  # type: ignore[no-any-return]

    async def answers(self, desk: Desk[Any, T], questions: Sequence[Any]) -> list[T | Exception]:
        """What the desk finds for each question of a request.

        Raises:
            Problem: as `answer`.
        """
        if self._closed:
            raise Problem(503, "closing", "the service is shutting down; ask another one")
        if self.waiting >= self._limits.queue:
            raise Problem(503, "busy", f"{self._limits.queue} requests wait already; come back in a second")
        job = _Job(desk, questions, time.monotonic() + self._limits.answer_s)
        self._put(job)
        try:
            found: list[T | Exception] = await asyncio.wait_for(asyncio.wrap_future(job.future), self._limits.answer_s)
        except TimeoutError:
            raise Problem(503, "too-slow", f"no answer within {self._limits.answer_s:g} s; come back later") from None
        return found

    def begin(self, work: Callable[[], object]) -> None:
        """Work that nobody waits for."""
        self._put(_Job(_Alone(work), [None], math.inf))

    def close(self) -> None:
        """Finish what has been accepted, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def _run(self) -> None:
        while (jobs := self._taken()) is not None:
            if jobs:
                _work(jobs)

    def _taken(self) -> list[_Job] | None:
        """The first of those that wait with what is answered together with it; None when there will be no more."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            first = self._jobs.popleft()
            if not first.begins():
                return []
            taken, room = [first], first.desk.room - len(first.questions)
            for job in [job for job in self._jobs if job.desk is first.desk]:
                if len(job.questions) <= room:
                    self._jobs.remove(job)
                    if job.begins():
                        taken.append(job)
                        room -= len(job.questions)
            return taken


def _work(jobs: Sequence[_Job]) -> None:
    try:
        found = jobs[0].desk([question for job in jobs for question in job.questions])
    except BaseException as error:  # it is the askers', who wait for it in another thread
        for job in jobs:
            job.future.set_exception(error)
        return
    begin = 0
    for job in jobs:
        end = begin + len(job.questions)
        job.future.set_result(list(found[begin:end]))
        begin = end
