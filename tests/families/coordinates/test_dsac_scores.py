from __future__ import annotations

import math

import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from placecell.families.coordinates.dsac.scores import ScoreNetwork, soft_inliers

INF = float("inf")


def test_soft_inliers_by_hand() -> None:
    errors = torch.tensor([[0.0, 10.0, INF], [5.0, 20.0, 10.0]], dtype=torch.float64)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    # 1 - sigmoid(β (e - τ)), β = 5 / τ, as DSAC* writes it.
    expected = [
        100 / 3 * sum(1 - sigmoid(0.5 * (e - 10)) for e in (0.0, 10.0)),
        100 / 3 * sum(1 - sigmoid(0.5 * (e - 10)) for e in (5.0, 20.0, 10.0)),
    ]
    assert_allclose(soft_inliers(errors, 10.0), expected, rtol=1e-12)


def test_a_smaller_error_scores_more_and_nothing_else_matters() -> None:
    errors = torch.linspace(0, 40, 9, dtype=torch.float64)[:, None]
    assert (soft_inliers(errors, 10.0).diff() < 0).all()
    assert_allclose(soft_inliers(errors / 100, 0.1), soft_inliers(errors, 10.0))
    assert_allclose(soft_inliers(errors, 10.0, alpha=7.0), 0.07 * soft_inliers(errors, 10.0))
    assert_allclose(soft_inliers(torch.zeros(1, 5), 10.0, beta=1e3), 100.0)


def test_gradients_of_the_soft_count() -> None:
    errors = (20 * torch.rand(3, 5, dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda e: soft_inliers(e, 10.0), errors)


@pytest.mark.parametrize("size", [(3, 5), (60, 80)])
def test_an_untrained_network_counts(size: tuple[int, int]) -> None:
    errors = 20 * torch.rand(4, size[0] * size[1], dtype=torch.float64)
    errors[0, 0] = INF
    assert_allclose(ScoreNetwork()(errors, 10.0, size=size).detach(), soft_inliers(errors, 10.0), rtol=1e-6)


def trained() -> ScoreNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ScoreNetwork(width=8)
        torch.nn.init.normal_(network.last.weight)
    return network


def test_a_network_sees_where_errors_are() -> None:
    network = trained()
    errors = torch.full((1, 6, 8), 30.0)
    left, right = errors.clone(), errors.clone()
    left[:, :, :4] = right[:, :, 4:] = 0.0
    scores = [network(picture.flatten(1), 10.0, size=(6, 8)).item() for picture in (left, right)]
    assert abs(scores[0] - scores[1]) > 1e-4


def test_gradients_of_a_network_by_the_errors() -> None:
    network = trained().double()
    errors = (5 + 20 * torch.rand(2, 12, dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda e: network(e, 10.0, size=(3, 4)), errors)


def test_errors_without_bound_have_finite_gradients() -> None:
    network, errors = trained(), torch.tensor([[1.0, INF, 1e-9, 5.0]]).requires_grad_()
    network(errors, 10.0, size=(2, 2)).sum().backward()
    assert errors.grad is not None and errors.grad.isfinite().all()
