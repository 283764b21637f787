"""Predicted errors grow with what speaks against answers, as far as errors do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from placecell.calibration.evidence import Scale
from placecell.calibration.widening import Widening, fit_widening
from placecell.estimate import Estimate
from placecell.pose import Array, Pose


def stated(distance: float, angle_rad: float, inliers: int | None = None) -> Estimate:
    deviation = np.array([angle_rad] * 3 + [distance] * 3) / np.sqrt(3)
    return Estimate("a", Pose.identity(), np.diag(np.square(deviation)), inliers=inliers)


class Drawn:
    """Answers whose errors grow with sigma to a power and with the distance to the training pictures."""

    def __init__(self, count: int, power: float, weight: float, *, outliers: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        size = np.exp(rng.normal(size=count))
        self.nearness = rng.normal(2.0, 0.5, size=count)
        strange = -(self.nearness - 2.0) / 0.5
        self.estimates = [stated(0.01 * own, 0.02 * own) for own in size]
        grown = np.clip(size, 0.05, 20) ** power * np.exp(weight * np.clip(strange, -4, 12))
        spread = np.linalg.norm(rng.normal(size=(count, 2, 3)), axis=2) / np.sqrt(3)
        self.errors = spread * grown[:, None] * [0.03, np.degrees(0.05)]
        self.errors[rng.random(count) < outliers] *= 100.0

    def fitted(self, taken: int | None = None) -> Widening:
        return fit_widening(self.estimates, self.nearness, self.errors, taken=taken or len(self.estimates))


class TestFit:
    @pytest.mark.parametrize("power, weight", [(1.0, 0.0), (1.0, 0.4), (1.5, 0.2), (1.2, 0.8)])
    @pytest.mark.parametrize("outliers", [0.0, 0.05])
    def test_finds_what_errors_grow_with(self, power: float, weight: float, outliers: float) -> None:
        found = Drawn(2000, power, weight, outliers=outliers).fitted()
        assert found.scale.kinds == ("features",)
        for k in range(2):
            assert found.power[k] == pytest.approx(power, abs=0.08)
            assert found.weights[k][0] == pytest.approx(weight, abs=0.08)

    def test_finds_that_errors_grow_where_a_small_share_of_the_matches_agrees(self) -> None:
        """Beside their number, which says nothing here."""
        drawn, rng = Drawn(2000, 1.0, 0.4), np.random.default_rng(1)
        inliers = rng.integers(50, 500, 2000)
        matches = (inliers + 1) * np.exp(5.0 - drawn.nearness) - 2.0
        told = [
            replace(estimate, inliers=int(agree), matches=round(of))
            for estimate, agree, of in zip(drawn.estimates, inliers, matches, strict=True)
        ]
        found = fit_widening(told, np.full(2000, np.nan), drawn.errors, taken=2000)
        assert found.scale.kinds == ("inliers", "ratio")
        for by_count, by_share in found.weights:
            assert by_count == pytest.approx(0.0, abs=0.05) and by_share == pytest.approx(0.4, abs=0.08)

    def test_evidence_that_says_the_opposite_is_not_believed(self) -> None:
        found = Drawn(1000, 1.0, -0.5).fitted()
        assert found.weights == ((0.0,), (0.0,))

    def test_differences_are_stretched_and_not_pressed_together(self) -> None:
        assert Drawn(1000, 0.6, 0.0).fitted().power == (1.0, 1.0)

    def test_a_handful_of_answers_changes_little(self) -> None:
        found = Drawn(8, 1.0, 0.0, seed=3).fitted()
        assert np.abs(np.array(found.power) - 1).max() < 0.4 and np.max(found.weights) < 0.5

    def test_what_is_usual_is_learned_from_the_first(self) -> None:
        few = Drawn(300, 1.0, 0.4)
        many = Drawn(300, 1.0, 0.4)
        far = [replace(e, covariance=e.covariance * 100) for e in many.estimates if e.covariance is not None]
        both = fit_widening(
            few.estimates + far,
            np.concatenate([few.nearness, many.nearness - 5]),
            np.concatenate([few.errors, many.errors * 30]),
            taken=300,
        )
        assert both.scale == few.fitted().scale and both.usual == few.fitted().usual

    def test_without_evidence_there_is_sigma_alone(self) -> None:
        drawn = Drawn(500, 1.0, 0.0)
        found = fit_widening(drawn.estimates, np.full(500, np.nan), drawn.errors, taken=500)
        assert found.weights == ((), ()) and found.scale.kinds == ()
        for before, after in zip(drawn.estimates[:3], found.apply(drawn.estimates[:3]), strict=True):
            assert before.sigma is not None and after.sigma is not None
            relative, power = np.array(before.sigma) / found.usual, np.array(found.power)
            np.testing.assert_allclose(after.sigma, np.array(before.sigma) * relative ** (power - 1.0))

    def test_answers_without_any_error_are_borne(self) -> None:
        drawn = Drawn(60, 1.0, 0.0)
        found = fit_widening(drawn.estimates, drawn.nearness, np.zeros((60, 2)), taken=60)
        assert np.isfinite([*found.power, *np.ravel(found.weights)]).all()


class TestApply:
    OWN = Widening(Scale(("features",), (2.0,), (0.5,)), (0.01, 1.0), (1.0, 1.0), ((0.5,), (0.25,)))

    def factors(self, nearness: float) -> Array:
        before = stated(0.02, 0.01)
        (after,) = self.OWN.apply([before], np.array([nearness]))
        assert before.covariance is not None and after.covariance is not None
        return np.asarray(np.sqrt(np.diag(after.covariance) / np.diag(before.covariance)))

    def test_each_block_by_its_own_weight(self) -> None:
        np.testing.assert_allclose(self.factors(1.0), [np.exp(0.5)] * 3 + [np.exp(1.0)] * 3)

    def test_usual_ones_stay_and_better_ones_narrow(self) -> None:
        np.testing.assert_allclose(self.factors(2.0), 1.0)
        assert (self.factors(2.5) < 1).all()

    def test_it_has_bounds(self) -> None:
        blind, far = self.factors(np.nan), self.factors(-1e6)
        np.testing.assert_allclose(blind, far)
        assert far.max() < 150

    def test_power_turns_about_the_usual(self) -> None:
        own = replace(self.OWN, power=(2.0, 1.0))
        for distance, factor in ((0.01, 1.0), (0.03, 3.0), (0.005, 0.5)):
            before = stated(distance, 0.01)
            (after,) = own.apply([before], np.array([2.0]))
            assert after.sigma is not None and before.sigma is not None
            assert after.sigma.distance == pytest.approx(factor * before.sigma.distance)
            assert after.sigma.angle_deg == pytest.approx(before.sigma.angle_deg)

    def test_what_has_no_usable_covariance_stays(self) -> None:
        for bad in (None, np.zeros((6, 6))):
            estimate = Estimate("a", Pose.identity(), bad)
            assert self.OWN.apply([estimate], np.array([1.0])) == [estimate]
        assert self.OWN.apply([]) == []
