"""Where long work reports to: a protocol, and the silent one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Log(Protocol):
    """Progress and remarks of long work. The command line draws them; libraries pass `Silent()`."""

    def say(self, text: str) -> None:
        """A remark worth a line."""

    def warn(self, text: str) -> None:
        """Something the user should look at; the work goes on."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items, showing how many of `total` are done."""
        ...


class Silent:
    """A `Log` that says nothing."""

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        yield from items
