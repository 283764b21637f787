"""How training fails: one line that says what, where, and which flag to turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from placecell.errors import PlacecellError

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "insufficient memory", "alloc_failed")


Named = Callable[[int], Sequence[str]]
"""The frames in the batch of a step."""


class Diverged(PlacecellError):
    """The loss or the gradient is no number any more; every process of a training finds out at the same step."""


def require_finite(values: Mapping[str, float], step: int, named: Named, kept: str) -> None:
    """See that no number of a step, counted from 0, is NaN or infinite.

    Raises:
        Diverged: one is.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(
                f"{name} is {value} at step {step + 1} ({_some(named(step))}); {kept}; lower --learning-rate"
            )


@contextmanager
def plain_memory_errors(where: str, flags: str) -> Iterator[None]:
    """Within the block, running out of memory is one line that says where, and which flags to lower.

    Raises:
        PlacecellError: there was not enough memory.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise PlacecellError(f"out of memory {where}; lower {flags}") from error


@contextmanager
def naming(step: int, named: Named) -> Iterator[None]:
    """Within the block, an error that is not made for users gets a note that tells the step and its frames."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, PlacecellError):
            error.add_note(f"while making the batch of step {step + 1} ({_some(named(step))})")
        raise


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return not isinstance(error, PlacecellError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _some(frames: Sequence[str]) -> str:
    more = f" and {len(frames) - 3} more" if len(frames) > 3 else ""
    return f"frames {', '.join(frames[:3])}{more}"
