"""Dropout whose draws are known: the passes of a map as a part of its network, batched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from placecell.families.regression.network import Maps, dropping


class Drawn(nn.Module):
    """Dropout that drops the same numbers every time: others in each of T passes.

    A map begins each picture with the same seed, so that its passes drop the same numbers of each; here they are
    written down.
    """

    def __init__(self, kept: Tensor, share: float, *, first: bool) -> None:
        """A layer for B pictures.

        Args:
            kept: (T, ...) bool, what each pass keeps.
            share: of the numbers that is dropped; the rest grows by what is missing.
            first: whether pictures come in once, (B, ...), and leave so often as there are passes, (B T, ...).
        """
        super().__init__()
        self.register_buffer("kept", kept)
        self.grown, self.first = 1 / (1 - share), first
        self.kept: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """(B T, ...)."""
        each = values.unsqueeze(1) if self.first else values.reshape(-1, len(self.kept), *values.shape[1:])
        return (each * self.kept * self.grown).flatten(0, 1)


def with_draws(head: nn.Module, maps: Maps, passes: int, seed: int) -> nn.Module:
    """A copy of a head, sharing its weights, whose dropout is that of `PoseNetwork.passes`.

    Args:
        maps: of any one picture: where in memory its numbers lie decides which draw is whose.
    """
    twin = dropping(head)
    names = [name for name, part in twin.named_modules() if isinstance(part, nn.Dropout) and part.p > 0]
    kept: dict[str, Tensor] = {}
    hooks = []
    for name in names:
        part = twin.get_submodule(name)
        hooks.append(part.register_forward_pre_hook(lambda _, given: torch.ones_like(given[0])))
        hooks.append(part.register_forward_hook(lambda _, __, out, name=name: kept.update({name: out != 0})))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin({tap: map_1CHW.repeat_interleave(passes, dim=0) for tap, map_1CHW in maps.items()})
    for hook in hooks:
        hook.remove()
    for name, mask in kept.items():  # in the order they were met
        above, _, own = name.rpartition(".")
        share = twin.get_submodule(name).p
        setattr(twin.get_submodule(above), own, Drawn(mask, float(share), first=name == next(iter(kept))))  # type: ignore[arg-type]
    return twin.eval()
