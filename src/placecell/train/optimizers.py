"""Optimizers and schedules by name, with the habits of the papers: no decay where it makes no sense, faster biases."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

OptimizerName = Literal["adamw", "adam", "adagrad", "sgd", "muon"]
Schedule = Literal["constant", "onecycle", "step", "exponential"]

_EPS = {"adamw": 1e-8, "adam": 1e-8, "adagrad": 1e-8}
"""Caffe's AdaGrad divides by sqrt(sum of squares) + 1e-8."""


def optimizer(
    network: nn.Module,
    name: OptimizerName,
    learning_rate: float,
    weight_decay: float = 0.0,
    *,
    steps: int,
    schedule: Schedule = "constant",
    eps: float | None = None,
    momentum: float = 0.9,
    bias_multiplier: float = 1.0,
    bias_decay: float = 0.0,
    number_multiplier: float = 1.0,
    gamma: float = 1.0,
    every: int = 1,
    warmup: float = 0.3,
    spared: Collection[str] = (),
) -> tuple[Optimizer, LRScheduler]:
    """An optimizer over the weights that want gradients, and its schedule, to be stepped once a step.

    Weight decay holds for matrices and kernels only: what has fewer than two axes (norms, learned loss weights) has
    none, and biases have `bias_decay` of it. It is decoupled in `adamw` and added to the gradient in the others, as
    in Caffe.

    Args:
        eps: the optimizer's own (1e-8) when None.
        momentum: of `sgd`, and the first beta of `adam` and `adamw`; `adagrad` has none.
        bias_multiplier: learning rate of biases over that of the rest (Caffe's lr_mult).
        bias_decay: weight decay of biases over that of the rest (Caffe's decay_mult).
        number_multiplier: learning rate of single numbers (learned loss weights) over that of the rest.
        gamma, every, warmup: see `factor`.
        spared: names of matrices that `muon` leaves to AdamW, as that of the last layer.

    Raises:
        ValueError: the optimizer or the schedule is unknown.
    """
    groups = _groups(network, learning_rate, weight_decay, bias_multiplier, bias_decay, number_multiplier)
    eps = _EPS.get(name) if eps is None else eps
    made: Optimizer
    if name == "adamw":
        made = AdamW(groups, betas=(momentum, 0.999), eps=eps)  # type: ignore[arg-type]
    elif name == "adam":
        made = Adam(groups, betas=(momentum, 0.999), eps=eps)  # type: ignore[arg-type]
    elif name == "adagrad":
        made = Adagrad(groups, eps=eps)  # type: ignore[arg-type]
    elif name == "sgd":
        made = SGD(groups, momentum=momentum)
    elif name == "muon":
        made = MuonAndAdamW(*_matrices_apart(network, groups, spared), betas=(momentum, 0.999))
    else:
        raise ValueError(f"unknown optimizer {name!r}; known are adamw, adam, adagrad, sgd, muon")
    factor(schedule, 0, steps)
    return made, LambdaLR(made, lambda step: factor(schedule, step, steps, gamma=gamma, every=every, warmup=warmup))


class MuonAndAdamW(Optimizer):
    """Muon (Jordan et al. 2024) for matrices, AdamW for all the rest, as one optimizer with one state.

    Muon makes the running mean of a matrix's gradients orthogonal before it follows it, so that all its directions are
    learned alike fast; scaled to steps as long as AdamW's (Liu et al. 2025), one learning rate serves both.
    """

    def __init__(
        self, matrices: list[dict[str, Any]], rest: list[dict[str, Any]], *, betas: tuple[float, float]
    ) -> None:
        parts: list[Optimizer] = []
        if matrices:
            parts.append(Muon(matrices, adjust_lr_fn="match_rms_adamw"))
        if rest:
            parts.append(AdamW(rest, betas=betas))
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the state of this one, which are what schedules change and what is kept."""
        first = 0
        for part in self._parts:
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            first = last


def factor(
    schedule: Schedule, step: int, steps: int, *, gamma: float = 1.0, every: int = 1, warmup: float = 0.3
) -> float:
    """What the learning rate is multiplied by at a step, counted from 0.

    `constant`: 1. `step`: gamma ^ floor(step / every), Caffe's "step". `exponential`: gamma ^ (step / every).
    `onecycle`: half a cosine from 1/25 up to 1 over the share `warmup` of the steps, then another down to 1/250000
    (Smith & Topin 2018, with the numbers of torch's OneCycleLR; the momentum stays).

    Raises:
        ValueError: the schedule is unknown.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return float(gamma ** (step // every))
    if schedule == "exponential":
        return float(gamma ** (step / every))
    if schedule != "onecycle":
        raise ValueError(f"unknown schedule {schedule!r}; known are constant, onecycle, step, exponential")
    top, last = warmup * steps - 1, steps - 1
    if step <= top:
        return _cosine(1 / 25, 1.0, step / top if top > 0 else 1.0)
    return _cosine(1.0, 1 / 250_000, min(1.0, (step - top) / (last - top)))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _groups(
    network: nn.Module,
    learning_rate: float,
    weight_decay: float,
    bias_multiplier: float,
    bias_decay: float,
    number_multiplier: float,
) -> list[dict[str, Any]]:
    """Kernels; biases; norms; learned loss weights."""
    kernels: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    numbers: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_bias = name.rpartition(".")[2].startswith("bias")
            by_shape = numbers if parameter.ndim == 0 else kernels if parameter.ndim >= 2 else others
            (biases if is_bias else by_shape).append(parameter)
    groups = [
        {"params": kernels, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": biases, "lr": bias_multiplier * learning_rate, "weight_decay": bias_decay * weight_decay},
        {"params": others, "lr": learning_rate, "weight_decay": 0.0},
        {"params": numbers, "lr": number_multiplier * learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _matrices_apart(
    network: nn.Module, groups: list[dict[str, Any]], spared: Collection[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The groups of the matrices that Muon takes, and those of all the rest."""
    kept = {id(parameter) for name, parameter in network.named_parameters() if name in spared or parameter.ndim != 2}
    apart = [
        [{**group, "params": [p for p in group["params"] if (id(p) in kept) == spare]} for group in groups]
        for spare in (False, True)
    ]
    matrices, rest = ([group for group in part if group["params"]] for part in apart)
    return matrices, rest
