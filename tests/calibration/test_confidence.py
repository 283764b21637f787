"""Confidence rises with the evidence, is as often right as it says, and promises no more than was seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from placecell.calibration.confidence import accept_at, fit_confidence
from placecell.pose import Array
from placecell.reliability import confidence_error


def drawn(count: int, seed: int, offset: float = 1.0) -> tuple[Array, Array]:
    """Evidence of two kinds that matter and one that does not, and hits by a logistic law that is not linear."""
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(count, 3))
    logit = offset + 2.0 * evidence[:, 0] + np.where(evidence[:, 1] < 0, 2.0, 0.2) * evidence[:, 1]
    return evidence, (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(float)


class TestFit:
    def test_is_as_often_right_as_it_says(self) -> None:
        model = fit_confidence(*drawn(1500, 0))
        evidence, hits = drawn(6000, 1)
        stated = model.apply(evidence)
        assert confidence_error(stated, hits) < 0.04
        assert np.mean(hits[stated > 0.9]) > 0.88 and np.mean(hits[stated < 0.1]) < 0.12

    def test_more_evidence_never_makes_it_less_sure(self) -> None:
        model = fit_confidence(*drawn(300, 0))
        assert min(model.weights) >= 0
        evidence, _ = drawn(500, 2)
        better = evidence + np.abs(np.random.default_rng(3).normal(size=evidence.shape))
        assert (model.apply(better) >= model.apply(evidence)).all()

    def test_evidence_that_speaks_the_wrong_way_is_not_turned_round(self) -> None:
        evidence, hits = drawn(800, 0)
        model = fit_confidence(np.column_stack([evidence[:, 0], -evidence[:, 1]]), hits)
        assert model.weights[1] < 0.05 < model.weights[0]

    @given(st.integers(1, 400))
    def test_n_right_answers_promise_no_certainty(self, count: int) -> None:
        model = fit_confidence(np.random.default_rng(0).normal(size=(count, 2)), np.ones(count))
        assert model.apply(np.full((1, 2), 99.0))[0] == pytest.approx((count + 0.5) / (count + 1))
        assert model.apply(np.full((1, 2), 1.0))[0] > (0.9 if count > 20 else 0.5)

    def test_far_below_everything_seen_there_is_no_confidence(self) -> None:
        evidence = np.random.default_rng(0).normal(size=(200, 2))
        model = fit_confidence(evidence, np.ones(200))
        assert model.apply(np.full((1, 2), -12.0))[0] < 0.1
        assert model.apply(evidence).min() > 0.9

    def test_a_single_wrong_answer_among_many_does_not_make_it_wild(self) -> None:
        rng = np.random.default_rng(0)
        evidence, hits = rng.normal(size=(300, 2)), np.ones(300)
        evidence[0], hits[0] = (-4.0, 0.1), 0.0
        model = fit_confidence(evidence, hits)
        assert 0.1 < model.weights[1] <= model.weights[0] < 4
        assert 0 < model.apply(evidence[:1])[0] < np.median(model.apply(evidence))

    @given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=60))
    def test_confidence_rises_and_stays_below_1(self, rows: list[tuple[int, bool]]) -> None:
        evidence = np.array([[float(value)] for value, _ in rows])
        model = fit_confidence(evidence, np.array([float(hit) for _, hit in rows]))
        found = model.apply(np.linspace(-12, 4, 40)[:, None])
        assert (np.diff(found) >= 0).all() and found.min() >= 0 and found.max() < 1

    def test_without_any_evidence_all_answers_are_alike(self) -> None:
        model = fit_confidence(np.zeros((9, 0)), np.array([1.0] * 6 + [0.0] * 3))
        np.testing.assert_allclose(model.apply(np.zeros((2, 0))), 6 / 9, atol=0.01)


class TestAccept:
    def test_is_the_lowest_that_keeps_the_promise(self) -> None:
        stated = np.linspace(0, 1, 1001)
        hits = (stated > 0.4).astype(float)
        hits[[700, 800]] = 0.0
        at = accept_at([(stated, hits)])
        for limit, kept in ((at, True), (at - 0.0011, False)):
            right, wrong = hits[stated >= limit].sum(), (1 - hits[stated >= limit]).sum()
            assert (beta.ppf(0.05, right + 0.5, wrong + 0.5) >= 0.99) == kept

    def test_holds_in_each_group(self) -> None:
        stated = np.linspace(0, 1, 500)
        easy, hard = (stated, np.ones(500)), (stated, (stated > 0.6).astype(float))
        assert accept_at([easy]) == 0.0
        assert accept_at([easy, hard]) == pytest.approx(accept_at([hard]), abs=0.01)
        assert accept_at([hard]) > 0.55
        wrong = (np.linspace(0, 0.7, 50), np.zeros(50))  # none of this kind is ever right: none may be accepted
        assert accept_at([easy, wrong]) > 0.7

    def test_a_handful_of_a_kind_promises_nothing_of_that_kind(self) -> None:
        many, few = (np.full(400, 0.9), np.ones(400)), (np.full(60, 0.9), np.ones(60))
        assert accept_at([many]) == 0.9
        assert accept_at([many, few]) == 1.0

    def test_answers_of_one_confidence_are_accepted_together(self) -> None:
        stated = np.repeat([0.9, 0.5], 300)
        hits = np.ones(600)
        hits[300:330] = 0.0
        assert accept_at([(stated, hits)]) == 0.9
        assert accept_at([(stated[300:], np.sort(hits[300:])[::-1])]) == 1.0

    def test_too_few_answers_accept_nothing(self) -> None:
        assert accept_at([(np.full(190, 0.97), np.ones(190))]) == 1.0
        assert accept_at([(np.full(191, 0.97), np.ones(191))]) == 0.97
        assert accept_at([]) == 1.0
