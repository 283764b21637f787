"""What a head's numbers mean without torch is what they mean with it."""

from __future__ import annotations

import pytest
import torch
from numpy.testing import assert_allclose

from placecell.families.coordinates.decoding import SPREAD, points_of
from placecell.families.coordinates.head import Head


@pytest.mark.parametrize("clusters", [0, 7])
def test_points_are_those_of_the_head(clusters: int) -> None:
    torch.manual_seed(0)
    head = Head(6, 16, 1, clusters).eval()
    with torch.no_grad():
        head.leave.weight.mul_(30)
    head.begin(torch.randn(50, 6), torch.randn(max(clusters, 1), 3), 3.0)
    said = []
    head.leave.register_forward_hook(lambda *given: said.append(given[2]))
    with torch.no_grad():
        guess = head(torch.randn(40, 6))
    numbers = said[0].numpy()
    assert_allclose(points_of(numbers, head.centres_K3.numpy(), 3.0), guess.points_N3, rtol=1e-4, atol=1e-4)
    assert_allclose(numbers[:, SPREAD], guess.spread_N)
