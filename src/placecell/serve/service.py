"""What the routes share: the maps, the worker, the limits, the counters; and how a picture is answered."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from placecell.estimate import Estimate
from placecell.serve.answers import answer_of, ros_of
from placecell.serve.counters import Counters
from placecell.serve.limits import Limits, Problem
from placecell.serve.pictures import Sent, query_of
from placecell.serve.served import Served
from placecell.serve.worker import Worker

Shape = Literal["placecell", "ros"]


class Held:
    """How many bytes of requests the process holds; of the event loop's thread alone."""

    def __init__(self, most: int) -> None:
        self._most, self.bytes = most, 0

    @contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """Within the block, a function to say of bytes that they came; they count until the block ends.

        Raises:
            Problem: all requests together hold too many.
        """
        own = 0

        def came(count: int) -> None:
            nonlocal own
            own += count
            self.bytes += count
            if self.bytes > self._most:
                raise Problem(503, "busy", "too many pictures are on their way; come back in a second")

        try:
            yield came
        finally:
            self.bytes -= own


@dataclass(frozen=True)
class Asked:
    """How the answer is wanted."""

    shape: Shape = "placecell"
    nearest: bool = False


@dataclass(frozen=True, eq=False)
class Service:
    """Everything that lives as long as the service."""

    maps: Mapping[str, Served]
    limits: Limits
    worker: Worker
    held: Held
    token: str | None = None
    counters: Counters = field(default_factory=Counters)
    warmed: threading.Event = field(default_factory=threading.Event)

    def map_of(self, name: str | None) -> Served:
        """The map of a name; the only one where there is no name.

        Raises:
            Problem: there is no such map, or several to choose from.
        """
        known = ", ".join(self.maps)
        if name is None:
            if len(self.maps) > 1:
                raise Problem(400, "which-map", f"several maps are served; name one: {known}")
            return next(iter(self.maps.values()))
        if name not in self.maps:
            raise Problem(404, "no-such-map", f"no map is called {name[:100]!r}; known are {known}")
        return self.maps[name]

    def admit(self, authorization: str | None) -> None:
        """Refuse those who do not know the token, where there is one.

        Raises:
            Problem: the header is missing or wrong.
        """
        if self.token is None:
            return
        given = (authorization or "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise Problem(401, "no-token", "this service asks for its token: Authorization: Bearer TOKEN")

    def warm(self) -> None:
        """Let every map answer once; the worker's first task."""
        for served in self.maps.values():
            served.warm()
        self.warmed.set()

    async def answers(self, served: Served, pictures: Sequence[Sent], asked: Asked) -> list[dict[str, Any]]:
        """An answer a picture; of several, one that cannot be read is answered with its problem, and the rest goes on.

        Raises:
            Problem: the only picture cannot be read, or the service is too busy.
        """
        came = time.perf_counter()
        alone = len(pictures) == 1

        def work() -> list[dict[str, Any]]:
            waited = time.perf_counter() - came
            found = []
            for picture in pictures:
                try:
                    found.append(self._answer(served, picture, asked, waited))
                except Problem as problem:
                    if alone:
                        raise
                    found.append({"name": picture.name, **problem.shape})
            return found

        return await self.worker.answer(work)

    def _answer(self, served: Served, picture: Sent, asked: Asked, waited: float) -> dict[str, Any]:
        began = time.perf_counter()
        query, lens = query_of(picture, served.camera, served.localizer, self.limits)
        decoded = time.perf_counter()
        estimate: Estimate = served.localizer.localize([query])[0]
        done = time.perf_counter()
        self.counters.answered(served.name, done - began, placed=estimate.world_from_cam is not None)
        if asked.shape == "ros":
            return ros_of(estimate, served.name)
        camera = query.camera
        told = {
            "lens": lens,
            "camera": {key: getattr(camera, key) for key in ("width", "height", "fx", "fy", "cx", "cy")},
            "timings": {"wait_s": waited, "decode_s": decoded - began, "localize_s": done - decoded},
        }
        return answer_of(estimate, served, told, nearest=asked.nearest)
