"""The exponential moving average of a network's weights, which is nearly always better than the last weights."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn


class Average:
    """A copy of a network that trails it: a ← d a + (1 - d) w after every step, for weights and running statistics.

    d is `decay`, but at most (1 + n) / (10 + n) at step n, so that the first weights are soon forgotten (as
    TensorFlow's ExponentialMovingAverage with num_updates). Whole numbers, such as counts of batches, are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights that `step` (from 0) led to."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for old, new in by_kind(_tensors(self.network), _tensors(network)):
            if old[0].is_floating_point():
                torch._foreach_lerp_(old, new, 1 - decay)
            else:
                torch._foreach_copy_(old, new)


def by_kind(old: Iterable[Tensor], new: Iterable[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Tensors and their counterparts, those of one dtype together: what torch handles in one go on a GPU."""
    pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for a, b in zip(old, new, strict=True):
        olds, news = pairs.setdefault(a.dtype, ([], []))
        olds.append(a)
        news.append(b)
    return list(pairs.values())


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
