from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placecell.scene import Frame
from placecell.train.holdout import held_out


def frames(*lengths: int) -> list[Frame]:
    return [
        Frame(f"{s}/{i}", "x.png", "phone", sequence=str(s)) for s, length in enumerate(lengths) for i in range(length)
    ]


def sequences_of(chosen: frozenset[int], given_frames: list[Frame]) -> list[str]:
    return sorted({given_frames[index].sequence for index in chosen})


def test_whole_sequences_spread_over_the_list() -> None:
    seven = frames(*[100] * 7)
    assert held_out(seven, 0.1) == frozenset(range(300, 400))
    assert sequences_of(held_out(seven, 0.3), seven) == ["1", "5"]
    assert len(held_out(seven, 0.3)) == 200


def test_the_tails_of_one_or_two_sequences() -> None:
    assert held_out(frames(20), 0.1) == {18, 19}
    assert held_out(frames(10, 20), 0.2) == {8, 9, 26, 27, 28, 29}
    assert held_out(frames(1), 0.5) == frozenset()
    assert held_out(frames(2), 0.01) == {1}


def test_frames_of_sequences_that_are_mixed_in_the_list() -> None:
    mixed = [Frame(str(i), "x.png", "phone", sequence="ab"[i % 2]) for i in range(20)]
    assert held_out(mixed, 0.2) == {16, 17, 18, 19}


def test_a_long_sequence_is_passed_over() -> None:
    assert held_out(frames(5, 100, 7), 0.3) == frozenset(range(5))


@given(st.lists(st.integers(1, 30), max_size=8), st.floats(0, 1))
def test_never_more_than_half_and_never_a_part_of_one_of_many(lengths: list[int], share: float) -> None:
    everything = frames(*lengths)
    chosen = held_out(everything, share)
    assert len(chosen) <= len(everything) / 2
    assert chosen <= set(range(len(everything)))
    if share == 0:
        assert chosen == frozenset()
    elif len(lengths) >= 3:
        assert chosen
        assert {i for i, frame in enumerate(everything) if frame.sequence in sequences_of(chosen, everything)} == chosen


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        held_out(frames(3), share)
