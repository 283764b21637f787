"""Figures of uncertainty, against scipy, against brute force, and on answers whose honesty is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from placecell.estimate import Estimate, Radii
from placecell.metrics import Threshold
from placecell.pose import Pose
from placecell.reliability import (
    LEVELS,
    auroc,
    ause,
    calibration_error,
    confidence_bins,
    confidence_error,
    is_hit,
    rank_correlation,
    reliability,
    sparsification,
    within_quantiles,
)

LIMIT = Threshold("10cm/5deg", 0.10, 5.0)
some = st.lists(st.integers(0, 6), min_size=3, max_size=30)


def honest(count: int, *, boast: float = 1.0, seed: int = 0) -> tuple[list[Estimate], dict[str, Pose]]:
    """Answers whose errors are drawn from the covariance they state, or from one `boast` times as wide in deviation."""
    rng = np.random.default_rng(seed)
    answers, truths = [], {}
    for index in range(count):
        size = np.exp(rng.normal(0, 0.8))
        root = np.diag([0.004, 0.01, 0.006, 0.01, 0.02, 0.03]) @ (np.eye(6) + 0.3 * rng.normal(size=(6, 6))) * size
        pose = Pose.exp(rng.normal(size=6))
        answers.append(Estimate(str(index), pose, root @ root.T))
        truths[str(index)] = pose @ Pose.exp(boast * (root @ rng.normal(size=6)))
    return answers, truths


class TestRankCorrelation:
    @given(some, some)
    def test_is_spearmans(self, first: list[int], second: list[int]) -> None:
        a, b = first[: len(second)], second[: len(first)]
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
        else:
            assert rank_correlation(a, b) == 0.0


class TestSparsification:
    def test_by_hand(self) -> None:
        curve = sparsification([1.0, 4.0, 2.0, 5.0], [0.1, 0.2, 0.4, 0.3])
        np.testing.assert_allclose(curve.removed, [0, 0.25, 0.5, 0.75])
        np.testing.assert_allclose(curve.by_sigma, [3.0, 10 / 3, 2.5, 1.0])  # 2 goes first, then 5, then 4
        np.testing.assert_allclose(curve.oracle, [3.0, 7 / 3, 1.5, 1.0])
        assert ause([1.0, 4.0, 2.0, 5.0], [0.1, 0.2, 0.4, 0.3]) == pytest.approx(2.0 / (12 - 47 / 6))

    def test_the_oracle_is_0_and_random_order_is_1(self) -> None:
        rng = np.random.default_rng(0)
        errors = rng.exponential(size=400)
        assert ause(errors, errors**2) == 0.0
        shuffled = [ause(errors, rng.permutation(400)) for _ in range(300)]
        assert np.mean(shuffled) == pytest.approx(1.0, abs=0.02)
        assert ause(errors, -errors) > 1.5

    def test_predictions_all_alike_are_random_order(self) -> None:
        assert ause([1.0, 2.0, 9.0], [5.0, 5.0, 5.0]) == pytest.approx(1.0)

    @given(some, st.integers(0, 1000))
    def test_ties_count_as_their_average_over_orders(self, sigma: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        errors = rng.exponential(size=len(sigma))
        jitter = [ause(errors, np.array(sigma) + 1e-6 * rng.random(len(sigma))) for _ in range(400)]
        spread = np.std(jitter) / 20
        assert ause(errors, sigma) == pytest.approx(np.mean(jitter), abs=5 * spread + 1e-9)

    def test_errors_all_alike_leave_no_room(self) -> None:
        assert ause([0.1] * 7, range(7)) == 0.0

    @given(some)
    def test_only_the_order_of_predictions_counts(self, sigma: list[int]) -> None:
        errors = np.random.default_rng(1).exponential(size=len(sigma))
        assert ause(errors, np.exp(sigma)) == pytest.approx(ause(errors, sigma))


class TestCovariances:
    def test_honest_ones(self) -> None:
        answers, truths = honest(3000)
        found = reliability(answers, truths)
        assert found.frames == 3000 and found.singular == 0
        assert found.calibration_error is not None and found.calibration_error < 0.015
        assert found.nees_median == pytest.approx(5.35, abs=0.2)
        assert found.rank_distance is not None and 0.5 < found.rank_distance < 0.95
        assert found.ause_distance is not None and 0 < found.ause_distance < 0.5
        assert found.confidence_error is None and found.covered_distance is None

    def test_boasting_ones_leave_their_quantiles(self) -> None:
        found = reliability(*honest(800, boast=3.0))
        assert found.calibration_error is not None and found.calibration_error > 0.3
        assert found.nees_median == pytest.approx(9 * 5.35, rel=0.1)

    def test_the_shares_are_those_of_chi_squared(self) -> None:
        squared = np.square(np.random.default_rng(0).normal(size=(20000, 6))).sum(axis=1)
        np.testing.assert_allclose(within_quantiles(squared), LEVELS, atol=0.012)
        assert calibration_error(np.full(5, 1e9)) == pytest.approx(0.5)
        assert calibration_error(np.zeros(5)) == pytest.approx(0.5)

    def test_rotation_and_position_are_judged_apart(self) -> None:
        """Rotations known to be ever worse, positions said to be ever better while they are not."""
        answers, truths = [], {}
        for index in range(1, 40):
            sigma = np.array([0.001 * index] * 3 + [0.1 / index] * 3)
            answers.append(Estimate(str(index), Pose.identity(), np.diag(sigma**2)))
            truths[str(index)] = Pose.exp([0.001 * index, 0, 0, 0.01 * index, 0, 0])
        found = reliability(answers, truths)
        assert found.rank_angle == pytest.approx(1.0) and found.ause_angle == pytest.approx(0.0, abs=1e-9)
        assert found.rank_distance == pytest.approx(-1.0)
        assert found.ause_distance is not None and found.ause_distance > 1.5

    def test_singular_ones_are_counted_and_left_out(self) -> None:
        answers, truths = honest(30)
        flat = np.diag([1.0, 1, 1, 1, 1, 0])
        answers += [Estimate("flat", Pose.identity(), flat), Estimate("none", Pose.identity())]
        truths |= {"flat": Pose.identity(), "none": Pose.identity()}
        found = reliability(answers, truths)
        assert (found.frames, found.singular) == (30, 1)
        assert found.nees_median is not None and np.isfinite(found.nees_median)

    def test_of_no_covariances_nothing_is_said(self) -> None:
        found = reliability([Estimate("a", Pose.identity()), Estimate.refusal("b", "dark")], {"a": Pose.identity()})
        assert found.frames == 0 and found.rank_distance is None and found.calibration_error is None


class TestSigma:
    def test_is_the_root_of_the_traces(self) -> None:
        sigma = np.array([0.01, 0.02, 0.02, 0.3, 0.4, 1.2])
        found = Estimate("a", Pose.identity(), np.diag(sigma**2)).sigma
        assert found is not None
        assert found.distance == pytest.approx(1.3) and found.angle_deg == pytest.approx(np.degrees(0.03))

    @pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e9])
    def test_no_covariance_is_made_of_a_singular_one(self, scale: float) -> None:
        root = np.random.default_rng(0).normal(size=(6, 5))
        assert Estimate("a", Pose.identity(), root @ root.T * scale).sigma is None
        assert Estimate("a", Pose.identity(), np.zeros((6, 6))).sigma is None
        assert Estimate("a", Pose.identity(), -np.eye(6) * scale).sigma is None
        assert Estimate("a", Pose.identity()).sigma is None

    def test_axes_of_very_different_size_are_no_singularity(self) -> None:
        assert Estimate("a", Pose.identity(), np.diag([1e-14, 1e-14, 1e-14, 1e4, 1e4, 1e4])).sigma is not None


class TestConfidence:
    def test_hits_are_below_both_limits_strictly(self) -> None:
        def hit(distance: float, angle_deg: float) -> bool:
            truth = Pose.exp([np.radians(angle_deg), 0, 0, 0, 0, 0])
            answer = Pose(np.eye(3), np.array([distance, 0, 0]))
            return is_hit(Estimate("a", answer), truth, LIMIT)

        assert hit(0.09, 4.9)
        assert not hit(0.10, 0.0) and not hit(0.09, 5.1) and not hit(0.2, 0.0)
        assert not is_hit(Estimate.refusal("a", "dark"), Pose.identity(), LIMIT)
        assert not is_hit(Estimate("a", Pose.identity()), None, LIMIT)

    def test_error_by_hand(self) -> None:
        stated, hits = [0.05, 0.02, 0.92, 0.98, 1.0], [0, 1, 1, 1, 0]
        bins = confidence_bins(stated, hits)
        assert [part.frames for part in bins] == [2, 3]
        assert confidence_error(stated, hits) == pytest.approx((2 * (0.5 - 0.035) + 3 * (2.9 / 3 - 2 / 3)) / 5)

    def test_is_judged_over_answers_that_state_one(self) -> None:
        near, far = Pose.identity(), Pose(np.eye(3), np.array([1.0, 0, 0]))
        answers = [Estimate("a", near, confidence=1.0), Estimate("b", far, confidence=0.0), Estimate("c", far)]
        truths = dict.fromkeys("abc", near)
        assert reliability(answers, truths, LIMIT).confidence_error == 0.0
        answers[1] = Estimate("b", far, confidence=1.0)
        assert reliability(answers, truths, LIMIT).confidence_error == pytest.approx(0.5)


def test_coverage_is_the_share_of_truths_within_the_radii() -> None:
    answers = [Estimate(str(i), Pose.identity(), radii=Radii(0.9, 0.1 * i, 2.0)) for i in range(1, 5)]
    truths = {str(i): Pose.exp([np.radians(i), 0, 0, 0, 0, 0]) for i in range(1, 5)}
    moved = {name: Pose(pose.rotation, np.array([0.25, 0, 0])) for name, pose in truths.items()}
    found = reliability(answers, moved)
    assert (found.covered_distance, found.covered_angle) == (0.5, 0.5)


class TestAuroc:
    @given(some, some)
    def test_is_the_share_of_pairs_in_order(self, first: list[int], second: list[int]) -> None:
        pairs = [(a > b) + 0.5 * (a == b) for a in first for b in second]
        assert auroc(first, second) == pytest.approx(np.mean(pairs))

    @pytest.mark.parametrize("scores", [([], [1.0]), ([1.0], []), ([float("nan")], [1.0])])
    def test_needs_scores_on_both_sides(self, scores: tuple[list[float], list[float]]) -> None:
        with pytest.raises(ValueError, match="some of each"):
            auroc(*scores)
