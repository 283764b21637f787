"""What the routes share: the maps, the worker, the limits, the counters; and how a picture is answered."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from placecell.serve.counters import Counters
from placecell.serve.desk import Asked, MapDesk, Question
from placecell.serve.limits import Limits, Problem
from placecell.serve.pictures import Sent
from placecell.serve.served import Served
from placecell.serve.trajectory import Trajectory
from placecell.serve.worker import Worker


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


@dataclass(frozen=True, eq=False)
class Service:
    """Everything that lives as long as the service."""

    maps: Mapping[str, Served]
    limits: Limits
    worker: Worker
    held: Held
    token: str | None = None
    trajectory: Trajectory | None = None
    counters: Counters = field(default_factory=Counters)
    warmed: threading.Event = field(default_factory=threading.Event)
    desks: dict[Served, MapDesk] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.desks.update({served: MapDesk(served, self.limits, self.counters) for served in self.maps.values()})

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
        came_s = time.perf_counter()
        questions = [Question(picture, asked, came_s) for picture in pictures]
        answers = []
        for picture, found in zip(pictures, await self.worker.answers(self.desks[served], questions), strict=True):
            if isinstance(found, Problem) and len(pictures) > 1:
                found = {"name": picture.name, **found.shape}
            if isinstance(found, Exception):
                raise found
            answers.append(found)
        return answers
