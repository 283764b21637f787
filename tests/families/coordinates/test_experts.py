"""How looks are shared out among experts, and what the gate learns of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from placecell.anchor import Floats
from placecell.families.coordinates.experts import Gate, joined, joined_logs, learned_gate, shared_out


def shared(centres: Any, yaw_deg: Any, usual_depth: float, experts: int, seed: int = 0) -> NDArray[np.bool_]:
    """Which experts learn from looks at some places, turned about the vertical."""
    yaw = np.radians(yaw_deg)
    forward = np.stack([np.sin(yaw), 0 * yaw, np.cos(yaw)], axis=1).astype(np.float32)
    places = np.broadcast_to(np.asarray(centres, np.float32), forward.shape)
    return shared_out(places, forward, usual_depth, experts, seed)


def groups(belongs: NDArray[np.bool_]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(own).tolist()) for own in belongs.T}


class TestSharedOut:
    def test_rooms_apart_are_experts_apart(self) -> None:
        centres = [[x, 0.0, 0.1 * step] for x in (0.0, 30.0, 70.0) for step in range(4)]
        belongs = shared(centres, np.zeros(12), 2.0, 3)
        assert belongs.shape == (12, 3)
        assert groups(belongs) == {frozenset(range(4 * room, 4 * room + 4)) for room in range(3)}

    def test_what_is_seen_counts_where_all_stand_in_one_place(self) -> None:
        """A camera that turns about itself: those who look the same way are together."""
        belongs = shared([0.0, 0.0, 0.0], [-4, 0, 4, 176, 180, 184], 3.0, 2)
        assert groups(belongs) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}

    def test_neighbours_overlap(self) -> None:
        centres = [[float(x), 0.0, 0.0] for x in range(21)]
        belongs = shared(centres, np.zeros(21), 2.0, 2)
        both = np.flatnonzero(belongs.all(axis=1))
        assert 1 <= len(both) <= 5 and set(both.tolist()) <= set(range(8, 13))
        assert not belongs[0].all() and not belongs[20].all()

    @pytest.mark.parametrize("unit", [2.0**-10, 2.0**12])
    def test_is_the_same_in_another_unit(self, unit: float) -> None:
        rng = np.random.default_rng(3)
        centres, yaw = rng.normal(size=(40, 3)), rng.uniform(-180, 180, 40)
        one = shared(centres, yaw, 2.0, 4, seed=1)
        np.testing.assert_array_equal(shared(unit * centres, yaw, 2.0 * unit, 4, seed=1), one)

    @given(st.integers(1, 30), st.integers(2, 8), st.integers(0, 5), st.integers(0, 9))
    def test_nobody_is_left_without(self, looks: int, experts: int, places: int, seed: int) -> None:
        """However few looks there are, and however many of them are one."""
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(places + 1, 3))[rng.integers(0, places + 1, looks)]
        belongs = shared(centres, np.zeros(looks), 1.0, experts, seed)
        assert belongs.shape == (looks, experts)
        assert belongs.any(axis=0).all() and belongs.any(axis=1).all()


def pictures(rng: np.random.Generator, kinds: NDArray[np.intp]) -> Floats:
    """What pictures of some kinds look like: each kind about a place of its own, in features of unlike units."""
    middles = np.random.default_rng(0).normal(size=(3, 6))
    units = np.array([1e-2, 1.0, 1e2, 1.0, 10.0, 0.1])
    found: Floats = ((middles[kinds] + 0.2 * rng.normal(size=(len(kinds), 6))) * units + units).astype(np.float32)
    return found


class TestGate:
    def test_knows_pictures_like_those_it_has_seen(self) -> None:
        rng, kinds = np.random.default_rng(1), np.repeat(np.arange(3), 40)
        gate = learned_gate(pictures(rng, kinds), np.eye(3, dtype=bool)[kinds])
        new = pictures(rng, kinds)
        assert [gate.asked(torch.from_numpy(row))[0] for row in new] == kinds.tolist()
        shares = gate(torch.from_numpy(new)).exp()
        assert float(shares.detach().amax(dim=1).min()) > 0.8
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(120))

    def test_gives_those_that_overlap_equal_shares_and_asks_both(self) -> None:
        rng, kinds = np.random.default_rng(1), np.repeat(np.arange(3), 40)
        wanted = np.array([[True, True, False], [False, True, False], [False, False, True]])
        gate = learned_gate(pictures(rng, kinds), wanted[kinds])
        shares = gate(torch.from_numpy(pictures(rng, np.zeros(50, np.intp)))).exp().detach().mean(dim=0)
        torch.testing.assert_close(shares, torch.tensor([0.5, 0.5, 0.0]), atol=0.06, rtol=0)
        told = [set(gate.asked(torch.from_numpy(row))) for row in pictures(rng, np.zeros(50, np.intp))]
        assert sum(asked == {0, 1} for asked in told) > 45

    @pytest.mark.parametrize(
        "shares, asked",
        [
            ([0.05, 0.9, 0.05], [1]),
            ([0.15, 0.8, 0.05], [1, 0]),
            ([0.11, 0.2, 0.24, 0.25, 0.2], [3, 2, 1]),
            ([0.0999, 0.1001, 0.8], [2, 1]),
            ([1 / 20] * 20, [0]),
        ],
        ids=["one", "two", "three of five", "a tenth", "none likely"],
    )
    def test_asks_the_likeliest_and_who_is_likely_enough(self, shares: list[float], asked: list[int]) -> None:
        gate = Gate(2, len(shares))
        with torch.no_grad():
            gate.bias_E.copy_(torch.tensor(shares).log())
        assert gate.asked(torch.zeros(2)) == asked

    def test_features_that_never_vary_do_no_harm(self) -> None:
        gate = learned_gate(np.full((6, 4), 3.0, np.float32), np.tile([[True, False]], (6, 1)))
        assert gate.asked(torch.full((4,), 3.0)) == [0] and bool(gate(torch.zeros(1, 4)).isfinite().all())

    def test_learning_draws_from_no_generator(self) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        kinds = np.repeat(np.arange(3), 4)
        one, other = (
            learned_gate(pictures(np.random.default_rng(1), kinds), np.eye(3, dtype=bool)[kinds]) for _ in range(2)
        )
        assert torch.equal(torch.get_rng_state(), before) and torch.equal(one.weight_EG, other.weight_EG)


def test_heads_are_joined() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert joined([one]) is one
    assert list(joined([one, other]).children()) == [one, other]


def test_logs_are_joined() -> None:
    assert joined_logs(["step,loss\n1,0.5\n2,0.4\n", "step,loss\n1,0.7\n"]) == (
        "expert,step,loss\n1,1,0.5\n1,2,0.4\n2,1,0.7\n"
    )
    assert joined_logs(["step,loss\n1,0.5\n", "\n"]) == "expert,step,loss\n1,1,0.5\n"
