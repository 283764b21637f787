"""What the verbs share: how they read their arguments, and how they talk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def parse(verb: str, function: Callable[..., T], words: Sequence[str]) -> T:
    """Call the function of a verb with the arguments on the command line."""
    return tyro.cli(function, prog=f"placecell {verb}", args=list(words))


class Terminal:
    """A `placecell.log.Log` on standard error: bars on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A remark."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A remark that stands out."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """A bar with what is done, what is left and how long that takes."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=not self._console.is_terminal) as progress:
            yield from progress.track(items, total=total, description=what)


def finish(made: str, following: str) -> None:
    """The last lines of a verb: what it made, and the command to type next."""
    print(made)
    print(f"next: {following}")
