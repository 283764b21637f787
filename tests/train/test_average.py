from __future__ import annotations

import numpy as np
import torch
from torch import nn

from placecell.train.average import Average


def test_it_is_the_recursion_with_a_decay_that_grows() -> None:
    network = nn.Linear(1, 1, bias=False)
    weights = np.random.default_rng(0).normal(size=40)
    network.weight.data.fill_(0.0)
    average, expected = Average(network, 0.8), 0.0
    for step, weight in enumerate(weights):
        network.weight.data.fill_(weight)
        average.update(network, step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert np.isclose(float(average.network.weight), expected, atol=1e-6)


def test_it_takes_in_running_statistics_and_copies_counts() -> None:
    network = nn.BatchNorm1d(2)
    average = Average(network, 0.5)
    network(torch.full((4, 2), 3.0) + torch.arange(4.0)[:, None])
    average.update(network, 100)
    assert network.running_mean is not None and average.network.running_mean is not None
    assert torch.allclose(average.network.running_mean, 0.5 * network.running_mean)
    assert int(average.network.num_batches_tracked) == 1


def test_it_is_a_copy_for_use() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    average = Average(network, 0.9)
    assert network.training and not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    network[0].weight.data.add_(1)
    assert not torch.equal(average.network[0].weight, network[0].weight)
