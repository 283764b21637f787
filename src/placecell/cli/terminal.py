"""What the verbs share: how they read their arguments, and how they talk."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import count
from pathlib import Path
from typing import TypeVar

import tyro

T = TypeVar("T")

_EVERY_S = 10.0
"""How often work tells where it is when there is no terminal to draw a bar on."""


def parse(verb: str, function: Callable[..., T], words: Sequence[str]) -> T:
    """Call the function of a verb with the arguments on the command line."""
    if {"-h", "--help"} & set(words):
        words = ["--help"]  # tyro leaves out of its help the arguments that it has read before
    style = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    return tyro.cli(function, prog=f"placecell {verb}", args=list(words), config=style)


class Terminal:
    """A `placecell.log.Log` on standard error: bars on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console  # here, as importing it draws random numbers

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """A remark."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A remark that stands out."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """A bar with what is done, what is left and how long that takes; elsewhere a line every ten seconds."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        return self._bar(items, what, total) if self._bars else self._lines(items, what, total)

    def _bar(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self._console) as bar:
            yield from bar.track(items, total=total, description=what)

    def _lines(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        spoken = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - spoken >= _EVERY_S:
                self.say(f"{what}: {done}" + ("" if total is None else f" of {total}"))
                spoken = time.monotonic()


def finish(made: str, following: str | Sequence[object]) -> None:
    """The last lines of a verb: what it made, and the command to type next, as text or as its words."""
    print(made)
    print(f"next: {following if isinstance(following, str) else shlex.join(map(str, following))}")


def unused(path: Path) -> Path:
    """The path, or the first of `path-2`, `path-3`, … where nothing lies: for commands that shall work when pasted."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return path if not path.exists() else next(other for other in others if not other.exists())


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of aligned columns, figures to the right and words to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def cell(text: str, width: int) -> str:
        return text.rjust(width) if text[:1].isdecimal() or text[:1] == "." else text.ljust(width)

    return ["  ".join(cell(text, width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
