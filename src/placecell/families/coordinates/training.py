"""How a head learns where cells lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell.families.coordinates.buffer import Buffer
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.losses import Cells, cell_loss, tolerance_px
from placecell.log import Log
from placecell.train.loop import Batch, Plan, Trained, fit
from placecell.train.optimizers import optimizer

_PURPOSE = 5
"""Of the seed."""
_NAMED = 3
_WARMUP = 0.1
"""Share of the steps over which the one-cycle schedule rises to the peak."""
_LOOKS = 10
"""How often a training is judged by its held-out frames on the way."""


@dataclass(frozen=True, eq=False)
class CoordinatesTask:
    """The buffer, shuffled across all pictures anew each time it has been gone through."""

    config: Coordinates
    buffer: Buffer
    steps: int
    seed: int
    usual_depth: float
    judge: Callable[[nn.Module], dict[str, float]] | None
    """What a head is worth on held-out frames."""

    @property
    def batch_size(self) -> int:
        """Cells a step: all there are where that is fewer than a batch."""
        return min(self.config.batch, len(self.buffer))

    def batch(self, step: int, rank: int, ranks: int) -> Batch:
        """The cells of a step that one of several processes learns from."""
        buffer = self.buffer
        cells, look = buffer.at(self._chosen(step)[rank::ranks])
        parts = {
            "features": cells["feature"].astype(np.float32),
            "rays": cells["ray"],
            "depth": cells["depth"],
            "rotations": buffer.rotations[look],
            "centres": buffer.centres[look],
            "focals": buffer.focals_px[look],
        }
        if self.config.context:
            parts["overall"] = buffer.overall[look]
        return {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """The reprojection loss of the step, its tolerance shrinking with the steps."""
        context = (batch["overall"],) if self.config.context else ()
        guess = network(batch["features"], *context)
        cells = Cells(*(batch[name] for name in ("rays", "depth", "rotations", "centres", "focals")))
        tolerance = tolerance_px(step / self.steps, *self.config.tolerance_px)
        return cell_loss(guess, cells, tolerance, self.usual_depth, self.config.surface_weight)

    def named(self, step: int) -> Sequence[str]:
        """Some of the frames whose cells are in a step."""
        _, looks = self.buffer.at(self._chosen(step))
        return [self.buffer.names[look] for look in np.unique(looks)[:_NAMED]]

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Median errors on the held-out frames; {} where none are."""
        return {} if self.judge is None else self.judge(network)

    def _chosen(self, step: int) -> NDArray[np.intp]:
        """Which cells a step learns from."""
        size, count = self.batch_size, len(self.buffer)
        per_round = count // size
        order = _order(self.seed, step // per_round, count)
        begin = step % per_round * size
        return order[begin : begin + size]


def trained_head(
    head: nn.Module, task: CoordinatesTask, device: str, work: Path | None, identity: dict[str, Any], log: Log
) -> Trained:
    """Train a head, in place, from where `work` keeps it.

    Raises:
        PlacecellError: as `placecell.train.loop.fit`.
    """
    config = task.config
    plan = Plan(
        steps=task.steps,
        batch=task.batch_size,
        precision=config.precision,
        device=device,
        devices=config.devices,
        seed=task.seed,
        validate_every=max(1, task.steps // _LOOKS) if task.judge is not None else 0,
        channels_last=False,
    )

    def optimized(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        return optimizer(
            network,
            "muon",
            config.learning_rate,
            config.weight_decay,
            steps=steps,
            schedule="onecycle",
            warmup=_WARMUP,
            spared=("leave.weight",),
        )

    return fit(head, task, plan, optimizer=optimized, work=work, identity=identity, log=log)


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, _PURPOSE, turn]).permutation(count)
