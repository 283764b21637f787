"""Where the pictures of one map are answered, those of several requests in one call."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from placecell.estimate import Estimate, Query
from placecell.serve.answers import answer_of, ros_of
from placecell.serve.counters import Counters
from placecell.serve.limits import Limits, Problem
from placecell.serve.pictures import Lens, Sent, query_of
from placecell.serve.served import Served

Shape = Literal["placecell", "ros"]

_TOGETHER_S = 0.05
"""Pictures are joined while all of them take no longer than that: the first waits for the last."""
_TOGETHER_PIXELS = 8_000_000
"""Decoded pictures that are held at once, unless one alone is larger."""


@dataclass(frozen=True)
class Asked:
    """How the answer is wanted."""

    shape: Shape = "placecell"
    nearest: bool = False


class Question(NamedTuple):
    """A picture of a request."""

    picture: Sent
    asked: Asked
    came_s: float
    """Of `time.perf_counter`."""


class _Read(NamedTuple):
    place: int
    question: Question
    query: Query
    lens: Lens
    wait_s: float
    decode_s: float


class MapDesk:
    """Decodes pictures, lets one map place those that came together, and tells each its own answer."""

    def __init__(self, served: Served, limits: Limits, counters: Counters) -> None:
        self._served, self._limits, self._counters = served, limits, counters
        self._lately_s: deque[float] = deque(maxlen=8)

    @property
    def room(self) -> int:
        """By the quickest of the last calls: a slow map answers one at a time, as joining would only add waiting."""
        if not self._lately_s:
            return 1
        return max(1, min(self._limits.together, int(_TOGETHER_S / max(min(self._lately_s), 1e-6))))

    def __call__(self, questions: Sequence[Question], /) -> list[dict[str, Any] | Exception]:
        """An answer, or what went wrong, for each."""
        found: dict[int, dict[str, Any] | Exception] = {}
        for together in self._portions(self._read(questions, found)):
            for read, outcome in zip(together, self._placed(together), strict=True):
                found[read.place] = outcome
        return [found[index] for index in range(len(questions))]

    def _read(self, questions: Sequence[Question], failed: dict[int, Any]) -> Iterator[_Read]:
        for index, question in enumerate(questions):
            began = time.perf_counter()
            try:
                query, lens = query_of(question.picture, self._served.camera, self._served.localizer, self._limits)
            except Exception as error:  # of this picture, and so of its sender alone
                failed[index] = error
                continue
            yield _Read(index, question, query, lens, began - question.came_s, time.perf_counter() - began)

    def _portions(self, pictures: Iterable[_Read]) -> Iterator[list[_Read]]:
        room, held, pixels = self.room, list[_Read](), 0
        for read in pictures:
            size = read.query.image.shape[0] * read.query.image.shape[1]
            if held and (len(held) >= room or pixels + size > _TOGETHER_PIXELS):
                yield held
                held, pixels = [], 0
            held.append(read)
            pixels += size
        if held:
            yield held

    def _placed(self, together: Sequence[_Read]) -> list[dict[str, Any] | Exception]:
        """One call for all; where that fails, one for each, so that the failure is only of who caused it."""
        began = time.perf_counter()
        try:
            estimates = self._served.localizer.localize([read.query for read in together])
        except Exception as error:
            if len(together) == 1:
                return [error]
            return [outcome for read in together for outcome in self._placed([read])]
        took = time.perf_counter() - began
        placed = [estimate.world_from_cam is not None for estimate in estimates]
        if all(placed):  # refusals are quick, and say nothing of what the next one takes
            self._lately_s.append(took / len(together))
        self._counters.called(self._served.name, took, placed)
        return [self._told(read, estimate, took) for read, estimate in zip(together, estimates, strict=True)]

    def _told(self, read: _Read, estimate: Estimate, took: float) -> dict[str, Any] | Exception:
        asked, camera = read.question.asked, read.query.camera
        told = {
            "lens": read.lens,
            "camera": {key: getattr(camera, key) for key in ("width", "height", "fx", "fy", "cx", "cy")},
            "timings": {"wait_s": read.wait_s, "decode_s": read.decode_s, "localize_s": took},
        }
        try:
            if asked.shape == "ros":
                return ros_of(estimate, self._served.name)
            return answer_of(estimate, self._served, told, nearest=asked.nearest)
        except Problem as problem:
            return problem
