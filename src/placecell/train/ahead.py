"""Work that background threads do ahead of its use, handed over in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of the items, with up to two results a thread made or begun beforehand.

    An error comes out where the result would have come. The threads end with the generator: exhaust it, or close it
    (`contextlib.closing`).
    """
    remaining = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="placecell-ahead") as pool:
        begun: deque[Future[R]] = deque()
        try:
            begun.extend(pool.submit(function, item) for item in islice(remaining, 2 * threads))
            while begun:
                result = begun.popleft().result()
                begun.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in begun:
                future.cancel()
