"""All that a training step changes: made, kept in a checkpoint, and brought back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell.errors import FormatError
from placecell.train import checkpoint
from placecell.train.average import Average, by_kind
from placecell.train.checkpoint import Checkpoint, optimizer_state, restore_optimizer
from placecell.train.history import History

MakeOptimizer = Callable[[nn.Module, int], tuple[Optimizer, LRScheduler]]


@dataclass
class State:
    """A training after `step` steps."""

    network: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    average: Average | None
    history: History = field(default_factory=History)
    step: int = 0
    remembered: list[Tensor] = field(default_factory=list)
    """The buffers of the network as `remember` found them."""

    @classmethod
    def begin(cls, network: nn.Module, make: MakeOptimizer, steps: int, decay: float) -> State:
        """The state before the first step of a network that is on its device already."""
        optimizer, scheduler = make(network.train(), steps)
        return cls(network, optimizer, scheduler, Average(network, decay) if decay else None)

    def remember(self) -> None:
        """Note the running statistics: a forward pass changes them, and may not lead to a step."""
        if not self.remembered:
            self.remembered = [buffer.clone() for buffer in self.network.buffers()]
        for old, new in by_kind(self.remembered, self.network.buffers()):
            torch._foreach_copy_(old, new)

    def undo(self) -> None:
        """Put the running statistics back to where they were at `remember`."""
        for old, new in by_kind(self.remembered, self.network.buffers()):
            torch._foreach_copy_(new, old)

    def write(self, work: Path, identity: Mapping[str, Any]) -> None:
        """Keep all of it in a folder.

        Raises:
            PlacecellError: as `checkpoint.write`.
        """
        tensors, values = optimizer_state(self.optimizer)
        parts: dict[str, Mapping[str, Tensor]] = {"network": self.network.state_dict(), "optimizer": tensors}
        if self.average is not None:
            parts["average"] = self.average.network.state_dict()
        flat = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        plain = {"optimizer": values, "scheduler": self.scheduler.state_dict(), "history": self.history.rows}
        checkpoint.write(work, Checkpoint(self.step, flat, plain), identity)

    def read(self, work: Path, identity: Mapping[str, Any]) -> bool:
        """Go to the state kept in a folder; false when it keeps none.

        Raises:
            PlacecellError: as `checkpoint.read`.
        """
        found = checkpoint.read(work, identity)
        if found is None:
            return False
        try:
            self.network.load_state_dict(_part(found, "network"))
            if self.average is not None:
                self.average.network.load_state_dict(_part(found, "average"))
            restore_optimizer(self.optimizer, _part(found, "optimizer"), found.values["optimizer"])
            self.scheduler.load_state_dict(found.values["scheduler"])
            self.history = History(found.values["history"])
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise FormatError(f"{work} keeps another network ({why}); delete it to train from the start") from error
        self.step = found.step
        return True

    @torch.no_grad()
    def finished(self) -> nn.Module:
        """The network with its averaged weights, in eval mode, on the CPU."""
        if self.average is not None:
            self.network.load_state_dict(self.average.network.state_dict())
        self.optimizer.zero_grad()
        return place(self.network, torch.device("cpu"), channels_last=False).eval()


def place(network: nn.Module, device: torch.device, *, channels_last: bool) -> nn.Module:
    """The network itself, moved to a device, its kernels in the given memory order."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    network.to(device=device, memory_format=order)  # type: ignore[call-overload]
    return network


def _part(found: Checkpoint, part: str) -> dict[str, Tensor]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tensor for name, tensor in found.tensors.items() if name.startswith(prefix)}
