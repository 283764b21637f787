"""The batches of coordinate networks: which pictures, in which order, varied how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from placecell.families.coordinates.dsac.shots import STILL, Shots, Variation, batch_of

_EPOCHS, _SAMPLES, _DRAWS = 1, 2, 3
"""Purposes of the seeds."""


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the tasks share. Batches are a function of (seed, step) alone, so a training can go on anywhere."""

    shots: Shots
    learned: Sequence[int]
    """Which shots are learned from; each epoch goes through all of them in an order of its own."""
    held: Sequence[int] = ()
    """Which shots a training is judged by."""
    stride: int = 8
    """Pixels of a cell's side."""
    batch_size: int = 1
    """Pictures a step."""
    variation: Variation = STILL
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.learned) or self.batch_size < 1:
            raise ValueError(f"{len(self.learned)} pictures to learn from, {self.batch_size} a step")

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> dict[str, Tensor]:
        """This rank's share of a step, as `batch_of`, and `draw` (B,), the seeds of what is drawn for each picture."""
        places = range(rank, self.batch_size, ranks)
        chosen = [self._chosen(step, place) for place in places]
        rngs = [np.random.default_rng([self.seed, _SAMPLES, step, place]) for place in places]
        draws = [np.random.SeedSequence((self.seed, _DRAWS, step, place)).generate_state(1)[0] for place in places]
        batch = batch_of(self.shots, chosen, self.variation, self.stride, rngs)
        return {**batch, "draw": torch.tensor(np.array(draws, np.int64))}

    def named(self, step: int) -> list[str]:
        """The frames of a step."""
        return [self.shots.names[self._chosen(step, place)] for place in range(self.batch_size)]

    def _chosen(self, step: int, place: int) -> int:
        epoch, index = divmod(step * self.batch_size + place, len(self.learned))
        return int(self.learned[_order(len(self.learned), self.seed, epoch)[index]])


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, _EPOCHS, epoch]).permutation(count)
