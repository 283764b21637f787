"""A small network, a small task, and a program that trains them, for the tests of training."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from placecell.log import Log, Silent
from placecell.train.loop import Batch, Plan, Trained, fit
from placecell.train.optimizers import optimizer

SIZE = 64


class Net(nn.Module):
    """Everything that makes training hard to repeat: batch norm, dropout, a loss weight that is learned."""

    def __init__(self, *, dropout: float = 0.5, norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(3, 6, 3, stride=2, bias=not norm)  # else Adam would learn from rounding
            self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
            self.dropout = nn.Dropout(dropout)
            self.linear = nn.Linear(6, 2)
            self.s = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.relu(self.norm(self.convolution(images)))
        answer: Tensor = self.linear(self.dropout(maps.mean(dim=(2, 3))))
        return answer


class Toy:
    """Regress two means of random pictures; a batch is drawn anew at every step, and shared out among processes."""

    def __init__(
        self,
        batch: int = 8,
        at: Mapping[int, Callable[[], None]] | None = None,
        scale: Mapping[int, float] | None = None,
    ) -> None:
        rng = np.random.default_rng(0)
        self.images = torch.from_numpy(rng.normal(size=(SIZE, 3, 9, 9)).astype(np.float32))
        self.images += torch.from_numpy(rng.normal(size=(SIZE, 3, 1, 1)).astype(np.float32))
        self.size = batch
        self.at = dict(at or {})
        self.scale = dict(scale or {})

    def indices(self, step: int) -> list[int]:
        return np.random.default_rng((7, step)).integers(0, SIZE, self.size).tolist()

    def batch(self, step: int, rank: int, ranks: int) -> Batch:
        chosen = self.images[self.indices(step)][rank::ranks]
        return {"images": chosen, "wanted": chosen.mean(dim=(2, 3))[:, :2]}

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        answer = network(batch["images"])
        if step in self.at:
            self.at[step]()
        error = (answer - batch["wanted"]).abs().mean()
        s = network.s
        assert isinstance(s, Tensor)
        return {"loss": (error * torch.exp(-s) + s) * self.scale.get(step, 1.0), "error": error.detach()}

    def named(self, step: int) -> Sequence[str]:
        return [f"frame-{index}" for index in self.indices(step)]

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        assert not network.training
        error = (network(self.images) - self.images.mean(dim=(2, 3))[:, :2]).abs().mean()
        return {"cm": 100 * float(error)}


def onecycle(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW under torch's own schedule, which has a state of its own."""
    made, _ = optimizer(network, "adamw", 1e-2, 0.01, steps=steps)
    return made, OneCycleLR(made, 1e-2, total_steps=steps)


def train(
    task: Toy,
    *,
    work: Path | None = None,
    network: nn.Module | None = None,
    identity: Mapping[str, Any] | None = None,
    log: Log | None = None,
    make: Callable[[nn.Module, int], tuple[Optimizer, LRScheduler]] = onecycle,
    **plan: Any,
) -> Trained:
    """`fit` with everything that can go wrong in a resumed training turned on."""
    settings = {"steps": 10, "batch": task.size, "average": 0.9, "validate_every": 4, "checkpoint_every": 3, **plan}
    return fit(
        network or Net(),
        task,
        Plan(**settings),
        optimizer=make,
        work=work,
        identity={"scene": "toy"} if identity is None else identity,
        log=log or Silent(),
    )


def main(kind: str, work: Path) -> None:
    """Train in one of three ways.

    `interrupted`: wait at step 4 for a Ctrl-C, go on, and wait at step 8 to be killed. `both`: in two processes.
    `nan`: in two that fail.
    """

    def wait(name: str) -> Callable[[], None]:
        def until_released() -> None:
            (work / f"at-{name}").touch()
            while not (work / f"go-{name}").exists():
                time.sleep(0.01)

        return until_released

    if kind == "interrupted":
        trained = train(Toy(at={4: wait("4")}), work=work)
        (work / "stopped").write_text(f"{trained.steps} {trained.interrupted}")
        train(Toy(at={8: wait("8")}), work=work)
    elif kind == "both":
        from safetensors.torch import save_file

        trained = train(Toy(), network=Net(dropout=0, norm=False), devices=2, work=work)
        save_file(trained.network.state_dict(), work / f"done-{os.environ['LOCAL_RANK']}.safetensors")
        (work / "done.csv").write_text(trained.log_csv)
    elif kind == "nan":
        train(Toy(scale={2: float("nan")}), network=Net(dropout=0, norm=False), devices=2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
