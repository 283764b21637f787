"""What is strange to a map: p-values that hold for the place's own pictures, and are small for others."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.calibration.familiarity import fit_familiarity, strangeness_of


def test_own_pictures_get_p_values() -> None:
    """Of pictures like those calibrated on, a share p or a little less is as strange as p says."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(150):
        model = fit_familiarity(rng.normal(size=(99, 3)))
        shares.append([np.mean(model.apply(rng.normal(size=(200, 3))) <= p) for p in (0.02, 0.1, 0.5)])
    np.testing.assert_allclose(np.mean(shares, axis=0), [0.02, 0.1, 0.5], atol=0.012)


def test_one_kind_of_evidence_is_enough_to_be_strange() -> None:
    np.testing.assert_allclose(strangeness_of(np.array([[3.0, -7.0, 2.0], [-1.0, 0.5, -0.5]])), [7.0, 1.0])
    model = fit_familiarity(np.random.default_rng(0).normal(size=(199, 3)))
    assert model.apply(np.array([[2.0, 2.0, -9.0]]))[0] == pytest.approx(1 / 200)
    assert model.apply(np.array([[2.0, 2.0, 2.0]]))[0] > 0.99


@pytest.mark.parametrize("count, known_at", [(50, 2 / 51), (199, 0.01), (1000, 0.01)])
def test_the_least_familiar_is_never_known(count: int, known_at: float) -> None:
    model = fit_familiarity(np.random.default_rng(0).normal(size=(count, 2)))
    assert model.known_at == pytest.approx(known_at)
    assert model.apply(np.full((1, 2), -12.0))[0] < model.known_at <= model.apply(np.zeros((1, 2)))[0]


def test_many_are_kept_as_quantiles() -> None:
    evidence = np.random.default_rng(0).normal(size=(5000, 1))
    model = fit_familiarity(evidence)
    assert len(model.strangeness) == 500 and model.answers == 5000
    asked = np.linspace(-2, 2, 9)[:, None]
    exact = [(1 + np.sum(evidence[:, 0] <= value)) / 5001 for value in asked[:, 0]]
    np.testing.assert_allclose(model.apply(asked), exact, atol=0.005)


def test_without_evidence_nothing_is_strange() -> None:
    model = fit_familiarity(np.zeros((60, 0)))
    assert model.apply(np.zeros((2, 0))).tolist() == [1.0, 1.0]
