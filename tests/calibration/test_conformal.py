"""Radii that hold: the finite-sample quantile, and coverage on draws of all kinds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from placecell.calibration.conformal import fit_conformal, left_out, quantile
from placecell.pose import PoseError


class TestQuantile:
    @pytest.mark.parametrize(
        "count, coverage, rank", [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (19, 0.95, 19), (99, 0.9, 90), (1, 0.5, 1)]
    )
    def test_is_the_ranked_score(self, count: int, coverage: float, rank: int) -> None:
        scores = np.random.default_rng(0).permutation(np.arange(1, count + 1))
        assert quantile(scores, coverage) == rank

    @pytest.mark.parametrize("count, coverage", [(8, 0.9), (18, 0.95), (0, 0.5)])
    def test_is_infinite_where_no_score_can_bound(self, count: int, coverage: float) -> None:
        assert quantile(np.arange(count), coverage) == math.inf


class TestRadii:
    @pytest.mark.parametrize("draw", ["exponential", "cauchy", "two sizes"])
    @pytest.mark.parametrize("coverage", [0.5, 0.9])
    def test_cover_what_comes_later(self, draw: str, coverage: float) -> None:
        """At least `coverage` on average over calibrations, and by no more than 1 / (n + 1) above it."""
        rng = np.random.default_rng(0)

        def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
            sigma = np.exp(rng.normal(size=(count, 2)))
            unit = {
                "exponential": rng.exponential(size=(count, 2)),
                "cauchy": np.abs(rng.standard_cauchy(size=(count, 2))),
                "two sizes": np.where(rng.random((count, 2)) < 0.8, 1, 20) * rng.random((count, 2)),
            }[draw]
            return unit * sigma, sigma

        shares = []
        for _ in range(400):
            found = fit_conformal(*drawn(49), coverage)
            errors, sigma = drawn(100)
            radii = [found.radii(PoseError(*row)) for row in sigma]
            within = [(e[0] <= r.distance, e[1] <= r.angle_deg) for e, r in zip(errors, radii, strict=True) if r]
            shares.append(np.mean(within, axis=0))
        np.testing.assert_allclose(np.mean(shares, axis=0), math.ceil(50 * coverage) / 50, atol=0.012)

    def test_grow_with_the_predicted_error(self) -> None:
        errors = np.column_stack([np.arange(1.0, 100), 2 * np.arange(1.0, 100)])
        found = fit_conformal(errors, np.ones_like(errors), 0.9)
        near, far = found.radii(PoseError(1.0, 1.0)), found.radii(PoseError(2.0, 3.0))
        assert near == (0.9, 90.0, 180.0) and far == (0.9, 180.0, 540.0)
        assert found.radii(None) is None

    def test_too_few_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"60 frames bound no radius of 99.9 % coverage"):
            fit_conformal(np.ones((60, 2)), np.ones((60, 2)), 0.999)


class TestLeftOut:
    def test_each_sequence_is_asked_of_the_radii_of_the_others(self) -> None:
        """One of four sequences is twice as far off as predicted, one half."""
        rng = np.random.default_rng(0)
        names = [f"s{index // 500}" for index in range(2000)]
        factor = np.repeat([1.0, 2.0, 1.0, 0.5], 500)[:, None]
        sigma = rng.uniform(0.5, 2.0, size=(2000, 2))
        errors = sigma * factor * np.abs(rng.normal(size=(2000, 2)))
        found = left_out(errors, sigma, names, 0.9)
        assert found is not None and found.sequences == 4
        for k, part in enumerate((found.distance, found.angle)):
            rest = np.sort((errors / sigma)[500:1000, k])
            others = (errors / sigma)[[name != "s1" for name in names], k]
            assert part.least == pytest.approx(np.mean(rest <= quantile(others, 0.9)))
            assert part.least < 0.75 and part.most > 0.98

    def test_of_like_sequences_it_is_near_what_was_promised(self) -> None:
        rng = np.random.default_rng(0)
        found = left_out(np.abs(rng.normal(size=(4000, 2))), np.ones((4000, 2)), ["a", "b", "c", "d"] * 1000, 0.9)
        assert found is not None and 0.87 < found.distance.least <= found.distance.most < 0.93

    def test_of_two_sequences_there_is_no_range(self) -> None:
        assert left_out(np.ones((80, 2)), np.ones((80, 2)), ["a", "b"] * 40, 0.9) is None
