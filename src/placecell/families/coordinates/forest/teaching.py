"""How the network in place of the trees learns: the same pixels and features, one head."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell.families.coordinates.forest.config import Forest
from placecell.families.coordinates.forest.features import GROUPS, Planes, Probes
from placecell.families.coordinates.forest.growing import Samples
from placecell.families.coordinates.forest.network import CLUSTERS, LOG_SPREAD, Network, new_head, responses
from placecell.families.coordinates.head import Head
from placecell.log import Log
from placecell.train.devices import require_device as require_device
from placecell.train.loop import Batch, Plan, fit
from placecell.train.optimizers import optimizer

BATCH = 4096
"""Pixels a step."""
_LEARNING_RATE, _WEIGHT_DECAY, _WARMUP = 3e-3, 0.01, 0.1
_TOLERANCE = (5.0, 0.05)
"""Errors count in full up to about this many units, at the beginning and at the end; it shrinks by the same factor each
step."""
_SPREAD_WEIGHT = 0.02
_FARTHEST = 10.0
"""Units; the spread of what is farther off is that."""
_SHOWN = 20_000
"""Pixels that tell the head what features are like and where the scene is."""
_PURPOSE = 5
"""Of the seed."""
_NAMED = 3


@dataclass(frozen=True, eq=False)
class PixelsTask:
    """A `placecell.train` task: the pixels drawn for the trees, shuffled anew each time all have had their turn."""

    planes: Planes
    samples: Samples
    probes: Probes
    names: Sequence[str]
    """Of the pictures."""
    steps: int
    seed: int
    unit: float
    """What tolerances are in, in the unit of the scene."""

    @property
    def batch_size(self) -> int:
        """Pixels a step: all there are where that is fewer than a batch."""
        return min(BATCH, len(self.samples.points))

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """What the pixels of a step answer, and where they look."""
        some = self.samples.take(self._chosen(step)[rank::ranks])
        return {
            "features": responses(self.planes, some.pixels, self.probes),
            "points": torch.from_numpy(some.points),
        }

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean of τ tanh(d / τ), d = |X̂ - X|, with a shrinking tolerance τ: a head has one answer to a pixel that may
        look at several places, and one of them is better than their mean. Beside it the spread s is learned as that of
        Laplace's distribution, d exp(-s) + s, which moves no point."""
        guess = network(batch["features"])
        away = torch.linalg.vector_norm(guess.points_N3 - batch["points"], dim=1) / self.unit
        first, last = _TOLERANCE
        tolerance = first * (last / first) ** (step / self.steps)
        spread = guess.spread_N.clamp(*LOG_SPREAD)
        off = away.detach().clamp_max(_FARTHEST)
        # Beyond its range a spread is drawn back to it: clamped alone it would never learn again.
        told = (off * torch.exp(-spread) + spread + (guess.spread_N - spread).abs()).mean()
        loss = (tolerance * torch.tanh(away / tolerance)).mean() + _SPREAD_WEIGHT * told
        return {"loss": loss, "error": self.unit * off.median()}

    def named(self, step: int) -> Sequence[str]:
        """Some of the frames whose pixels are in a step."""
        pictures = self.samples.pixels.picture[self._chosen(step)]
        return [self.names[picture] for picture in np.unique(pictures)[:_NAMED]]

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Nothing: no frame is held out, as for the trees."""
        return {}

    def _chosen(self, step: int) -> NDArray[np.intp]:
        count = len(self.samples.points)
        turn, place = divmod(step, count // self.batch_size)
        return _order(self.seed, turn, count)[place * self.batch_size :][: self.batch_size]


def taught(
    config: Forest,
    planes: Planes,
    samples: Samples,
    names: Sequence[str],
    *,
    unit: float,
    device: str,
    seed: int,
    log: Log,
) -> Network:
    """A network that has learned the samples; it trains on a device and answers on the processor.

    Raises:
        KeyboardInterrupt: Ctrl-C; minutes of work, of which nothing is kept.
    """
    probes = Probes.draw(GROUPS[config.features], config.probes, config.reach, np.random.default_rng([seed, 3]))
    head = new_head(config.probes, config.hidden, seed)
    task = PixelsTask(planes, samples, probes, names, config.steps, seed, unit)
    _begin(head, task)
    plan = Plan(task.steps, task.batch_size, device=device, seed=seed, channels_last=False)
    trained = fit(head, task, plan, optimizer=_optimized, work=None, identity={}, log=log)
    if trained.interrupted:
        raise KeyboardInterrupt
    with torch.no_grad():
        for value in head.parameters():  # as they are kept
            value.copy_(value.half().float())
    return Network(probes, head.eval(), unit)


def _begin(head: Head, task: PixelsTask) -> None:
    """Tell the head what features are like, and where the scene is."""
    rng = np.random.default_rng([task.seed, _PURPOSE])
    count = len(task.samples.points)
    some = task.samples.take(rng.choice(count, min(count, _SHOWN), replace=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters that stay empty, where many points are one
        centres, _ = kmeans2(some.points.astype(np.float64), min(CLUSTERS, len(some.points)), minit="++", rng=rng)
    size = float(f"{np.sqrt(some.points.var(axis=0).sum()):.3g}") or task.unit
    features = responses(task.planes, some.pixels, task.probes)
    head.begin(features, torch.from_numpy(np.resize(centres, (CLUSTERS, 3))).float(), size)


def _optimized(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
    return optimizer(network, "adamw", _LEARNING_RATE, _WEIGHT_DECAY, steps=steps, schedule="onecycle", warmup=_WARMUP)


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, _PURPOSE, turn]).permutation(count)
