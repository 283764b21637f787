"""The training loop of every family with a network: repeatable to the bit, and resumable at every step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from placecell.log import Log, Silent
from placecell.train.ahead import ahead
from placecell.train.checkpoint import LIVE
from placecell.train.devices import launched, touching_all
from placecell.train.failures import naming, plain_memory_errors, require_finite
from placecell.train.history import History, summary
from placecell.train.interrupt import Stop, interruptible
from placecell.train.state import MakeOptimizer, State, place

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Batch = Mapping[str, Tensor]
"""Any tensors, first axis = samples."""


@dataclass(frozen=True)
class Plan:
    """How long to train, on what, and what to keep."""

    steps: int
    batch: int
    """Samples a step, over all devices together."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network's forward pass; weights, losses and what the network returns are always float32."""
    device: str = "cpu"
    devices: int = 1
    seed: int = 0
    average: float = 0.0
    """Decay of the moving average of the weights, which is validated and returned; 0: the weights themselves are."""
    clip_norm: float = 0.0
    """Longest gradient; 0: any."""
    validate_every: int = 0
    """Steps; 0: never."""
    checkpoint_every: int = 200
    """Steps; 0: only when training ends or is interrupted."""
    channels_last: bool = True
    """Memory order of pictures and kernels; faster for convolutions."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.devices) < 1 or min(self.validate_every, self.checkpoint_every) < 0:
            raise ValueError(f"a plan counts steps, batch and devices from 1: {self}")
        if not (0 <= self.average < 1 and self.clip_norm >= 0 and self.seed >= 0):
            raise ValueError(f"average is within 0 and 1, clip_norm and seed are not negative: {self}")


_IDENTITY = ("steps", "batch", "precision", "devices", "seed", "average", "clip_norm", "channels_last")
"""What of a plan changes the weights."""


class Task(Protocol):
    """What is trained: where batches come from and what their loss is. Steps count from 0."""

    def batch(self, step: int, rank: int, ranks: int) -> Batch:
        """The share of process `rank` of `ranks` in a batch: a function of its arguments, called in other threads."""
        ...

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Scalars: `loss`, a mean over the samples, is learned from; others are logged.

        `network` stands for the network to train: it calls it in the precision of the plan, and has its attributes.
        """
        ...

    def named(self, step: int) -> Sequence[str]:
        """The frames in the batch of a step, for error messages."""
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """How good a network in eval mode is, as {unit: number}, `{"cm": 13.2, "deg": 3.4}`; {} when unknown."""
        ...


@dataclass(frozen=True, eq=False)
class Trained:
    """What training made."""

    network: nn.Module
    """The network given to `fit`, with the averaged weights, in eval mode, on the CPU."""
    steps: int
    interrupted: bool
    """Ctrl-C stopped it before the last step."""
    log_csv: str
    """One line a step: step, loss, its parts, learning_rate, val_…; equal for equal trainings."""
    validation: dict[str, float]
    """The last one."""


def fit(
    network: nn.Module,
    task: Task,
    plan: Plan,
    *,
    optimizer: MakeOptimizer,
    work: Path | None,
    identity: Mapping[str, Any],
    log: Log,
) -> Trained:
    """Train a network, in place, for the steps of a plan.

    A step is a function of the weights, the optimizer and the step's number: what is random in the network draws from
    a generator seeded with (seed, step, rank). So the same seed gives the same weights on one device, bit by bit, and
    a training that goes on from its checkpoint gives those of one that was never interrupted.

    The first Ctrl-C lets the running step end and keeps a checkpoint; the second stops at once.

    Args:
        optimizer: makes the optimizer, and its schedule over a number of steps, which is stepped once a step.
        work: folder for the checkpoint and `training.csv`, made when needed; a checkpoint that lies there is gone on
            from. None keeps nothing.
        identity: JSON values that tell this training from others (scene, settings); the plan is added.

    Raises:
        PlacecellError: the loss or the gradient is not finite (the text names the step, its frames and the checkpoint
            left), memory or disk is full, a batch cannot be made, the checkpoint is damaged or of another training,
            or a device is missing.
    """
    with launched(plan.device, plan.devices, plan.precision) as fabric, interruptible() as stop:
        training = _Training(network, task, plan, fabric, stop, log if fabric.is_global_zero else Silent())
        training.start(optimizer, work, identity)
        with closing(training.batches()) as batches:
            try:
                for step in training.log.track(range(training.state.step, plan.steps), "training"):
                    with (
                        _seeded(plan.seed, step, fabric),
                        _memory_errors(step, plan),
                    ):
                        row = training.learn(next(batches), step)
                        try:
                            if training.due(plan.validate_every):
                                row |= training.validation()
                        finally:  # the step counts, even if its validation was interrupted
                            training.state.history.add(row)
                    if training.due(plan.validate_every or plan.checkpoint_every):
                        training.speak()
                    if training.due(plan.checkpoint_every):
                        training.keep()
                    if training.stopping:
                        break
            except KeyboardInterrupt:  # not from a terminal, or for the second time
                if stop.asked:
                    raise
        training.keep()
        return training.result()


class _Training:
    """What `fit` works on: the parts of a step, in the order of their use."""

    def __init__(self, network: nn.Module, task: Task, plan: Plan, fabric: Fabric, stop: Stop, log: Log) -> None:
        self.network, self.task, self.plan, self.fabric, self.stop, self.log = network, task, plan, fabric, stop, log
        self.stopping = False

    def start(self, make: MakeOptimizer, work: Path | None, identity: Mapping[str, Any]) -> None:
        """Everything on its device, in the state that `work` keeps."""
        plan, fabric = self.plan, self.fabric
        place(self.network, fabric.device, channels_last=plan.channels_last)
        self.state = State.begin(self.network, make, plan.steps, plan.average)
        self.identity = {**identity, **{name: getattr(plan, name) for name in _IDENTITY}}
        self.kept: int | None = None
        if work is not None and self.state.read(work, self.identity):
            self.kept = self.state.step
            self.log.say(f"{work}: goes on after step {self.kept} of {plan.steps}")
        self.work = work if fabric.is_global_zero else None
        self.state.history = History(self.state.history.rows, self.work and self.work / LIVE)
        self.said = self.state.step
        self.began = time.monotonic() - self.state.history.seconds
        self.model, self.optimizer = fabric.setup(self.network, self.state.optimizer, move_to_device=False)

    def batches(self) -> Generator[Batch, None, None]:
        """The batches still to come, made in the background."""
        fabric, task = self.fabric, self.task

        def make(step: int) -> Batch:
            with naming(step, task.named):
                batch = task.batch(step, fabric.global_rank, fabric.world_size)
            return {name: self._prepared(tensor) for name, tensor in batch.items()}

        threads = 2 if fabric.device.type == "cpu" else min(8, os.cpu_count() or 2)
        return ahead(make, range(self.state.step, self.plan.steps), threads=threads)

    def _prepared(self, tensor: Tensor) -> Tensor:
        if self.plan.channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor.pin_memory() if self.fabric.device.type == "cuda" else tensor

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """One step; returns its row of the history. An interruption or a failure leaves everything as it was."""
        self.state.remember()
        try:
            batch = {name: tensor.to(self.fabric.device, non_blocking=True) for name, tensor in batch.items()}
            losses = self.task.loss(self.model, batch, step)
            loss = losses["loss"] if self.fabric.world_size == 1 else touching_all(losses["loss"], self.network)
            self.fabric.backward(loss)
            norm = clip_grad_norm_(self.network.parameters(), self.plan.clip_norm or math.inf)
            values = self._agreed({**losses, "gradient norm": norm})
            require_finite(values, step, self.task.named, self._kept())
        except BaseException:
            self.state.undo()
            raise
        del values["gradient norm"]
        return {"step": step + 1, **values, **self._advance()}

    def _agreed(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The values, and whether to stop, as means over all processes: the one time that a step waits for them."""
        asked = torch.tensor(float(self.stop.asked), device=self.fabric.device)
        seen = torch.stack([*(value.detach().float() for value in values.values()), asked])
        if self.fabric.world_size > 1:
            seen = cast(Tensor, self.fabric.all_reduce(seen, reduce_op="mean"))
        *numbers, wish = seen.tolist()
        self.stopping = wish > 0
        return dict(zip(values, numbers, strict=True))

    def _advance(self) -> dict[str, float]:
        state = self.state
        rate = state.scheduler.get_last_lr()[0]
        self.optimizer.step()
        state.scheduler.step()
        self.optimizer.zero_grad()
        if state.average is not None:
            state.average.update(self.network, state.step)
        state.step += 1
        return {"learning_rate": float(rate), "seconds": time.monotonic() - self.began}

    def due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and after the last one, is to be done now."""
        return every > 0 and (self.state.step % every == 0 or self.state.step == self.plan.steps)

    def validation(self) -> dict[str, float]:
        """How good the network is now, as columns of the history.

        Raises:
            Diverged: its answers are no numbers.
        """
        if not self.fabric.is_global_zero:
            return {}
        average = self.state.average
        candidate = deepcopy(self.network).eval() if average is None else average.network
        with torch.no_grad():
            values = {f"val_{unit}": float(number) for unit, number in self.task.validate(candidate).items()}
        require_finite(values, self.state.step - 1, self.task.named, self._kept())
        return values

    def speak(self) -> None:
        """A line on how it goes."""
        self.log.say(summary(self.state.history, self.said, self.plan.steps, self.plan.batch))
        self.said = self.state.step

    def keep(self) -> None:
        """A checkpoint, where there is a folder and it has not this one.

        Raises:
            Diverged: the last step has broken the weights, which its loss and gradient, taken before, could not show.
        """
        whole = all(bool(parameter.isfinite().all()) for parameter in self.network.parameters())
        values = {"a weight": 0.0 if whole else math.nan}
        require_finite(values, self.state.step - 1, self.task.named, self._kept())
        if self.work is not None and self.kept != self.state.step:
            self.state.write(self.work, self.identity)
        self.kept = self.state.step

    def _kept(self) -> str:
        if self.work is None or self.kept is None:
            return "no earlier weights are kept"
        return f"the weights of step {self.kept} are kept in {self.work}"

    def result(self) -> Trained:
        """What was made so far."""
        state = self.state
        interrupted = state.step < self.plan.steps
        if interrupted:
            self.log.say(f"stopped after step {state.step} of {self.plan.steps}")
        return Trained(state.finished(), state.step, interrupted, state.history.csv(), state.history.validation)


def _memory_errors(step: int, plan: Plan) -> AbstractContextManager[None]:
    return plain_memory_errors(f"at step {step + 1} with {plan.batch} pictures a step", "--batch or --short-side")


@contextmanager
def _seeded(seed: int, step: int, fabric: Fabric) -> Iterator[None]:
    """Within the block, torch's own generators are at a place that depends on seed, step and rank only."""
    number = int(np.random.SeedSequence((seed, step, fabric.global_rank)).generate_state(1, np.uint64)[0])
    on_gpu = fabric.device.type == "cuda"
    with torch.random.fork_rng(devices=[fabric.device] if on_gpu else []):
        torch.default_generator.manual_seed(number)
        if on_gpu:
            torch.cuda.manual_seed(number)
        yield
