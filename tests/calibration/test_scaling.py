"""Covariances learn the size and shape of errors, whatever a few of them do."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.made import BOAST, answers, truths
from placecell.calibration.scaling import Scaling, fit_scaling, typical
from placecell.estimate import Estimate
from placecell.pose import Array
from placecell.reliability import reliability


def fitted(count: int = 1500, **how: float) -> Scaling:
    items = answers(count, **how)  # type: ignore[arg-type]
    return fit_scaling(residuals(items), [item.estimate.covariance for item in items])


def residuals(items: list[object]) -> Array:
    return np.array([(item.estimate.world_from_cam.inv @ item.truth).log() for item in items])  # type: ignore[attr-defined]


class TestFit:
    def test_finds_by_how_much_each_axis_boasts(self) -> None:
        np.testing.assert_allclose(fitted().factors, BOAST, rtol=0.1)

    def test_is_deaf_to_a_few_answers_that_are_far_off(self) -> None:
        np.testing.assert_allclose(fitted(outliers=0.05).factors, BOAST, rtol=0.25)

    def test_makes_covariances_of_new_answers_honest(self) -> None:
        scaling, new = fitted(), answers(1000, seed=9)
        before = reliability([item.estimate for item in new], truths(new))
        scaled = [
            Estimate(item.estimate.name, item.estimate.world_from_cam, scaling.apply(item.estimate.covariance))
            for item in new
        ]
        after = reliability(scaled, truths(new))
        assert before.calibration_error is not None and before.calibration_error > 0.3
        assert after.calibration_error is not None and after.calibration_error < 0.04

    def test_maps_that_state_none_get_the_usual_one(self) -> None:
        rng = np.random.default_rng(0)
        deviation = np.array([0.01, 0.02, 0.01, 0.3, 0.1, 0.2])
        errors = rng.normal(size=(900, 6)) * deviation
        for stated in ([None] * 900, [np.eye(6)] * 449 + [np.zeros((6, 6))] * 451):
            found = typical(errors, stated)
            assert found is not None
            np.testing.assert_allclose(found, deviation, rtol=0.12)
        assert typical(errors, [np.eye(6)] * 451 + [None] * 449) is None

    def test_heavy_tails_are_met_in_the_whole_not_in_the_middle_alone(self) -> None:
        """With errors of Student's t, the temperature widens what the median alone would find."""
        rng = np.random.default_rng(0)
        errors = rng.standard_t(2, size=(2000, 1)) * np.ones(6) * rng.normal(size=(2000, 6))
        stated = [np.eye(6)] * 2000
        new = np.square(errors / np.array(fit_scaling(errors, stated).factors)).sum(axis=1)
        from placecell.reliability import calibration_error

        middle = 1.4826 * np.median(np.abs(errors), axis=0)
        assert calibration_error(new) < calibration_error(np.square(errors / middle).sum(axis=1))

    def test_singular_covariances_teach_nothing(self) -> None:
        items = answers(300)
        stated: list[Array | None] = [item.estimate.covariance for item in items]
        want = fit_scaling(residuals(items[:200]), stated[:200])
        stated[200:] = [np.diag([1.0, 1, 1, 1, 1, 0])] * 50 + [None] * 50
        assert fit_scaling(residuals(items), stated) == want

    def test_an_axis_without_error_stays_above_zero(self) -> None:
        errors = np.random.default_rng(0).normal(size=(200, 6))
        errors[:, 2] = 0.0
        scaling = fit_scaling(errors, [np.eye(6)] * 200)
        found = scaling.apply(np.eye(6))
        assert scaling.factors[2] > 0 and found is not None and np.linalg.eigvalsh(found)[0] > 0

    def test_no_errors_at_all_leave_covariances_as_they_are(self) -> None:
        assert fit_scaling(np.zeros((60, 6)), [np.eye(6)] * 60).factors == (1.0,) * 6


class TestApply:
    def test_scales_axes_and_keeps_their_correlations(self) -> None:
        stated = answers(1)[0].estimate.covariance
        assert stated is not None
        scaled = Scaling((2.0, 1.0, 1.0, 3.0, 1.0, 1.0)).apply(stated)
        assert scaled is not None
        assert scaled[0, 0] == pytest.approx(4 * stated[0, 0]) and scaled[0, 3] == pytest.approx(6 * stated[0, 3])

        def correlation(matrix: Array) -> Array:
            return matrix / np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))

        np.testing.assert_allclose(correlation(scaled), correlation(stated))

    @pytest.mark.parametrize("bad", [None, np.zeros((6, 6)), np.diag([1.0, 1, 1, 1, 1, -1]), np.ones((6, 6))])
    def test_what_cannot_be_inverted_is_unknown(self, bad: Array | None) -> None:
        assert Scaling((2.0,) * 6).apply(bad) is None
