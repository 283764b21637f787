from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from placecell.train.checkpoint import optimizer_state, restore_optimizer
from placecell.train.optimizers import factor, optimizer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.rows = nn.LSTM(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.s = nn.Parameter(torch.zeros(()))


def settings(network: nn.Module, made: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) by the name of the weight."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in made.param_groups
        for parameter in group["params"]
    }


def test_only_kernels_decay_unless_biases_are_asked_for() -> None:
    network = Net()
    made, _ = optimizer(network, "adamw", 0.1, 0.01, steps=5)
    found = settings(network, made)
    kernels = {"convolution.weight", "rows.weight_ih_l0", "rows.weight_hh_l0"}
    assert {name for name, (_, decay) in found.items() if decay} == kernels
    assert {rate for rate, _ in found.values()} == {0.1}
    assert found.keys() == {name for name, weight in network.named_parameters() if weight.requires_grad}


def test_biases_as_in_caffe() -> None:
    network = Net()
    made, _ = optimizer(network, "sgd", 0.1, 0.01, steps=5, bias_multiplier=2, bias_decay=0.5)
    found = settings(network, made)
    biases = {"convolution.bias", "norm.bias", "rows.bias_ih_l0", "rows.bias_hh_l0"}
    assert {name for name, values in found.items() if values == (0.2, 0.005)} == biases
    assert found["s"] == found["norm.weight"] == (0.1, 0.0)


def trajectory(name: Literal["adagrad", "sgd", "adam", "adamw"], **more: Any) -> NDArray[np.float64]:
    """Weight and bias of a line that is fitted to one point by |w x + b - y|^2 / 2, over 30 steps."""
    line = nn.Linear(1, 1).double()
    line.weight.data.fill_(0.5)
    line.bias.data.fill_(-0.2)
    made, schedule = optimizer(line, name, 0.1, 0.3, steps=30, **more)
    found = []
    for _ in range(30):
        made.zero_grad()
        (0.5 * (line(torch.full((1, 1), 2.0).double()) - 3) ** 2).sum().backward()
        made.step()
        schedule.step()
        found.append([line.weight.item(), line.bias.item()])
    return np.array(found)


def test_single_numbers_may_learn_faster() -> None:
    network = nn.Linear(2, 2)
    network.weigh = nn.Parameter(torch.tensor(0.5))
    made, _ = optimizer(network, "sgd", 0.1, 0.01, steps=5, number_multiplier=20)
    kernels, _, numbers = made.param_groups
    assert (kernels["lr"], kernels["weight_decay"]) == (0.1, 0.01)
    assert (numbers["lr"], numbers["weight_decay"]) == (2.0, 0.0)
    assert numbers["params"] == [network.weigh]


def test_adagrad_is_that_of_caffe() -> None:
    w, b, squares, expected = 0.5, -0.2, np.zeros(2), []
    for step in range(30):
        residual = 2 * w + b - 3
        gradient = np.array([2 * residual + 0.3 * w, residual])  # base decay 0.3; decay_mult of biases 0
        squares += gradient**2
        rate = 0.1 * 0.5 ** (step // 10)
        change = rate * np.array([1.0, 2.0]) * gradient / (np.sqrt(squares) + 1e-8)  # lr_mult of biases 2
        w, b = w - change[0], b - change[1]
        expected.append([w, b])
    found = trajectory("adagrad", bias_multiplier=2, schedule="step", gamma=0.5, every=10)
    assert np.allclose(found, expected, atol=1e-9)


def test_sgd_has_momentum_and_coupled_decay() -> None:
    w, b, velocity, expected = 0.5, -0.2, np.zeros(2), []
    for _ in range(30):
        residual = 2 * w + b - 3
        velocity = 0.9 * velocity + np.array([2 * residual + 0.3 * w, residual])
        w, b = w - 0.1 * velocity[0], b - 0.1 * velocity[1]
        expected.append([w, b])
    assert np.allclose(trajectory("sgd"), expected, atol=1e-9)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw(name: Literal["adam", "adamw"]) -> None:
    weights, first, second, expected = np.array([0.5, -0.2]), np.zeros(2), np.zeros(2), []
    for step in range(1, 31):
        residual = 2 * weights[0] + weights[1] - 3
        decay = 0.3 * weights * [1, 0]
        gradient = np.array([2 * residual, residual]) + (decay if name == "adam" else 0)
        first, second = 0.8 * first + 0.2 * gradient, 0.999 * second + 0.001 * gradient**2
        change = first / (1 - 0.8**step) / (np.sqrt(second / (1 - 0.999**step)) + 1.0)
        weights = weights - 0.1 * change - (0.1 * decay if name == "adamw" else 0)
        expected.append(weights)
    assert np.allclose(trajectory(name, eps=1.0, momentum=0.8), expected, atol=1e-9)


@pytest.mark.parametrize("steps", [7, 50, 300])
def test_onecycle_is_that_of_torch(steps: int) -> None:
    made = AdamW([torch.zeros(1, requires_grad=True)], 0.2)
    theirs, rates = OneCycleLR(made, 0.2, total_steps=steps, cycle_momentum=False), []
    for _ in range(steps):
        rates.append(made.param_groups[0]["lr"])
        made.step()
        theirs.step()
    assert np.allclose([0.2 * factor("onecycle", step, steps) for step in range(steps)], rates, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_shortest_cycles_are_finite(steps: int) -> None:
    assert all(0 < factor("onecycle", step, steps) <= 1 for step in range(steps + 1))


def test_schedules() -> None:
    assert [factor("constant", step, 9) for step in (0, 8)] == [1, 1]
    assert [factor("step", step, 9, gamma=0.1, every=3) for step in (0, 2, 3, 8)] == pytest.approx([1, 1, 0.1, 0.01])
    assert factor("step", 1000, 9, gamma=1.0, every=3) == 1
    assert [factor("exponential", step, 9, gamma=0.81, every=2) for step in (0, 1, 2)] == pytest.approx([1, 0.9, 0.81])


def test_the_schedule_moves_every_group() -> None:
    network = Net()
    made, schedule = optimizer(network, "sgd", 1.0, steps=5, schedule="step", gamma=0.5, every=2, bias_multiplier=2)
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in made.param_groups])
        made.step()
        schedule.step()
    assert rates == [[1, 2, 1, 1], [1, 2, 1, 1], [0.5, 1, 0.5, 0.5], [0.5, 1, 0.5, 0.5], [0.25, 0.5, 0.25, 0.25]]


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="known are adamw"):
        optimizer(Net(), "lion", 0.1, steps=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="known are constant"):
        optimizer(Net(), "sgd", 0.1, steps=5, schedule="cosine")  # type: ignore[arg-type]


class TestMuon:
    @staticmethod
    def made(network: nn.Module, spared: tuple[str, ...] = ("4.weight",)) -> Any:
        return optimizer(network, "muon", 5e-3, 0.01, steps=10, schedule="onecycle", spared=spared)

    @staticmethod
    def network() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    @staticmethod
    def train(network: nn.Module, made: Any, steps: range) -> None:
        chosen, schedule = made
        for step in steps:
            chosen.zero_grad()
            network(torch.linspace(-1, 1 + step, 32).reshape(4, 8)).square().mean().backward()
            chosen.step()
            schedule.step()

    def test_takes_the_matrices_that_are_not_spared(self) -> None:
        """Muon moves by 0.2 √16 times the rate in every direction, AdamW each entry by the rate."""
        network = self.network()
        before = [parameter.detach().clone() for parameter in network.parameters()]
        chosen, _ = optimizer(network, "muon", 5e-3, steps=1, schedule="constant", spared=("4.weight",))
        torch.manual_seed(1)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        chosen.step()
        moved = [after.detach() - old for after, old in zip(network.parameters(), before, strict=True)]
        for step in (moved[0], moved[2]):
            lengths = torch.linalg.svdvals(step) / (5e-3 * 0.2 * 4)
            assert float(lengths.min()) > 0.5 and float(lengths.max()) < 1.5
        for step in (moved[1], moved[3], moved[4], moved[5]):
            torch.testing.assert_close(step.abs(), torch.full_like(step, 5e-3))

    def test_goes_on_from_its_state_bit_by_bit(self) -> None:
        whole, half = self.network(), self.network()
        self.train(whole, self.made(whole), range(10))
        made = self.made(half)
        self.train(half, made, range(5))
        tensors, plain = optimizer_state(made[0])
        other = self.network()
        other.load_state_dict(half.state_dict())
        again = self.made(other)
        restore_optimizer(again[0], tensors, json.loads(json.dumps(plain)))
        again[1].load_state_dict(made[1].state_dict())
        self.train(other, again, range(5, 10))
        for one, two in zip(whole.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)

    def test_follows_the_schedule_with_all_groups(self) -> None:
        chosen, schedule = self.made(network := self.network())
        self.train(network, (chosen, schedule), range(4))
        assert {group["lr"] for group in chosen.param_groups} == {5e-3 * factor("onecycle", 4, 10)}

    @pytest.mark.parametrize("spared", [(), ("0.weight", "2.weight", "4.weight")])
    def test_works_with_only_one_kind(self, spared: tuple[str, ...]) -> None:
        network = nn.Sequential(nn.Linear(8, 16, bias=bool(spared)), nn.Linear(16, 2, bias=bool(spared)))
        self.train(network, self.made(network, spared), range(3))
