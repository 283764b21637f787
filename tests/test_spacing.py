"""So many of a row: all different, from the first to the last, as far apart as can be."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from placecell.spacing import even_places, evenly


@given(st.integers(0, 400), st.integers(1, 400))
def test_from_the_first_to_the_last_and_evenly(count: int, most: int) -> None:
    found = even_places(count, most)
    assert len(found) == min(count, most)
    if len(found) > 1:
        steps = np.diff(found)
        assert (found[0], found[-1]) == (0, count - 1)
        assert steps.min() >= 1 and steps.max() - steps.min() <= 1


def test_of_any_sequence() -> None:
    assert evenly("abcdefg", 3) == ["a", "d", "g"]
    assert evenly(("a", "b"), 9) == ["a", "b"]
    assert evenly([1, 2, 3], 1) == [1]
    assert evenly([], 4) == []
