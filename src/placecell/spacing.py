"""So many of a row, evenly from its first to its last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, in their order."""
    return [items[place] for place in even_places(len(items), most)]


def even_places(count: int, most: int) -> NDArray[np.intp]:
    """(min(count, most),) which of so many `evenly` takes, all different."""
    taken = min(count, most)
    return np.arange(taken, dtype=np.intp) * (count - 1) // max(1, taken - 1)
