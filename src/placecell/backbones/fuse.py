"""A backbone made ready for use: batch norms folded into convolutions, parallel branches into one."""

from __future__ import annotations

from copy import deepcopy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from placecell.backbones.branches import Branches
from placecell.backbones.contract import Backbone
from placecell.backbones.timm import TimmBackbone


def fused(network: Backbone) -> Backbone:
    """A copy in eval mode, of the same function to rounding, with fewer and larger steps.

    Networks of timm are copied as they are: their modules need not run in the order they are listed.
    """
    copied = deepcopy(network).eval()
    if not isinstance(copied, TimmBackbone):
        _fuse(copied)
    return copied


def _fuse(module: nn.Module) -> None:
    """Fold every batch norm that is listed right behind a convolution: in our networks it then also runs there."""
    before: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None:
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        elif isinstance(child, Branches):
            setattr(module, name, child.merged())
        else:
            _fuse(child)
        before = (name, child) if isinstance(child, nn.Conv2d) else None
