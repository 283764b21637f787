"""A fused backbone is the same function with fewer modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.patterns import pictures
from placecell.backbones import NAMES, Backbone, backbone, fused
from placecell.backbones.branches import Branches, ConvNorm, Sum


def used(name: str) -> Backbone:
    """A network whose batch norms have seen other pictures and have weights and biases of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = backbone(name).train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
                module.momentum = 0.5
        for _ in range(3):
            network(torch.randn(3, 3, 33, 33))
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_answers_as_before_without_batch_norms_and_branches(name: str) -> None:
    network = used(name)
    copied = fused(network)
    before, after = network(pictures()), copied(pictures())
    assert list(before) == list(after)
    for key, wanted in before.items():
        torch.testing.assert_close(after[key], wanted, rtol=1e-5, atol=2e-5 * float(wanted.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d | Sum | ConvNorm) for module in copied.modules())


@pytest.mark.parametrize(
    ("name", "count"), [("repvgg_a0", 8_309_384 - 1_281_000), ("mobileone_s0", 2_078_504 - 1_025_000)]
)
def test_has_the_published_number_of_parameters_in_use(name: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in fused(backbone(name)).parameters()) == count


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2", "mobileone_s0"])
def test_leaves_the_network_and_the_random_numbers_alone(name: str) -> None:
    network = backbone(name).train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    copied = fused(network)
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training and not copied.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in copied.parameters()}


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 4])
def test_branches_of_all_kinds_merge(groups: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        copies = Sum({str(i): ConvNorm(8, 8, 3, groups=groups) for i in range(2)})
        block = Branches({"many": copies, "small": ConvNorm(8, 8, 1, groups=groups), "itself": nn.BatchNorm2d(8)})
        for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, -1, 1)
        features = torch.randn(2, 8, 6, 7)
    block.eval()
    merged = block.merged()
    assert [type(module) for module in merged] == [nn.Conv2d, nn.ReLU]
    torch.testing.assert_close(merged(features), block(features))


def test_a_branch_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="a ReLU is no branch"):
        Branches({"a": ConvNorm(4, 4, 3), "b": nn.ReLU()}).eval().merged()
