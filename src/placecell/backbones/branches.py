"""Blocks of parallel linear branches, which training likes, that are one convolution when in use."""

from __future__ import annotations

from copy import deepcopy
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Sum(nn.Module):
    """What its branches make of the same input, added."""

    def __init__(self, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to what each of the branches gives."""
        total: Tensor = reduce(add, (branch(features) for branch in self.children()))
        return total


class Branches(Sum):
    """A `Sum` of convolutions with batch norm, and batch norms alone, followed by a ReLU."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, entering, h, w) to (B, leaving, h / stride, w / stride)."""
        return F.relu(super().forward(features), inplace=True)

    def merged(self) -> nn.Sequential:
        """The same function in eval mode as one convolution and a ReLU (RepVGG, section 3.3)."""
        widest = max(
            (module for module in self.modules() if isinstance(module, nn.Conv2d)), key=lambda conv: conv.kernel_size
        )
        return nn.Sequential(_as_conv(self, widest), nn.ReLU(inplace=True))


class ConvNorm(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(leaving)

    def forward(self, features: Tensor) -> Tensor:
        """(B, entering, h, w) to (B, leaving, h / stride, w / stride)."""
        out: Tensor = self.bn(self.conv(features))
        return out


@torch.no_grad()
def _as_conv(branch: nn.Module, like: nn.Conv2d) -> nn.Conv2d:
    """The convolution, of the size and stride of `like`, that does what a branch does in eval mode."""
    if isinstance(branch, Sum):
        parts = [_as_conv(part, like) for part in branch.children()]
        return _filled(like, reduce(add, [part.weight for part in parts]), reduce(add, [_bias(part) for part in parts]))
    if isinstance(branch, nn.BatchNorm2d):
        identity = nn.init.dirac_(torch.empty_like(like.weight), like.groups)
        return fuse_conv_bn_eval(_filled(like, identity, like.weight.new_zeros(like.out_channels)), branch)
    if isinstance(branch, ConvNorm):
        conv = fuse_conv_bn_eval(branch.conv, branch.bn)
        border = (like.kernel_size[0] - conv.kernel_size[0]) // 2
        return _filled(like, F.pad(conv.weight, [border] * 4), _bias(conv))
    raise TypeError(f"a {type(branch).__name__} is no branch")


def _filled(like: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution shaped as `like`; copied, as making a new one would draw random numbers."""
    conv = deepcopy(like).eval()
    conv.weight, conv.bias = nn.Parameter(kernel), nn.Parameter(bias)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
