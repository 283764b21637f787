"""How the weights of a network are kept in a map: in half precision, or a byte each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from placecell.errors import FormatError

Kept = Literal["half", "int8"]
N = TypeVar("N", bound=nn.Module)
_SCALE = ".scale"
_STEPS = 127


def rounded(network: N, kept: Kept) -> N:
    """The network itself, its weights rounded to what they are kept in, so that a map answers as it was judged.

    Buffers stay as they are: lengths in the unit of the scene may be beyond it, and training has built on them.
    """
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(_unpacked(*_packed(value.detach().cpu(), kept)))
    return network


def packed(network: nn.Module, name: str, kept: Kept) -> dict[str, NDArray[Any]]:
    """The tensors of a rounded network for a map's file, by `name.key`.

    With int8 a matrix or kernel is kept as whole numbers of steps from -127 to 127, with a step for each output
    (`name.key.scale`, float16); what has one axis stays in half precision.
    """
    parameters = {key for key, _ in network.named_parameters()}
    tensors: dict[str, NDArray[Any]] = {}
    for key, value in network.state_dict().items():
        if key not in parameters:
            tensors[f"{name}.{key}"] = value.cpu().numpy()
            continue
        weights, scale = _packed(value.cpu(), kept)
        tensors[f"{name}.{key}"] = weights.numpy()
        if scale is not None:
            tensors[f"{name}.{key}{_SCALE}"] = scale.numpy()
    return tensors


def fill(network: nn.Module, name: str, tensors: Mapping[str, NDArray[Any]], path: Path) -> set[str]:
    """Give a network its weights from the tensors of a map's file at `path`; returns which of them are its own.

    Raises:
        FormatError: one does not fit.
        KeyError: one is missing.
    """
    expected, used = network.state_dict(), set()
    given: dict[str, Tensor] = {}
    for key, value in expected.items():
        own = f"{name}.{key}"
        used.add(own)
        scale = tensors.get(own + _SCALE)
        if scale is not None:
            used.add(own + _SCALE)
        weights = torch.from_numpy(tensors[own])
        fits = weights.shape == value.shape and (scale is None or scale.shape == weights.shape[:1])
        if not fits:
            raise FormatError(f"{path}: tensor {own} does not fit map.json; build the map again")
        given[key] = _unpacked(weights, None if scale is None else torch.from_numpy(scale)).to(value.dtype)
    network.load_state_dict(given)
    return used


def _packed(value: Tensor, kept: Kept) -> tuple[Tensor, Tensor | None]:
    if kept == "half" or value.ndim < 2:
        return value.half(), None
    # Steps in half precision times a whole number are exact in float32, so packing again changes nothing.
    scale = (value.abs().flatten(1).amax(dim=1) / _STEPS).clamp_min(float(np.finfo(np.float16).tiny)).half()
    steps = (value / _along(scale, value)).round().clamp(-_STEPS, _STEPS)
    return steps.to(torch.int8), scale


def _unpacked(weights: Tensor, scale: Tensor | None) -> Tensor:
    return weights.float() if scale is None else weights.float() * _along(scale, weights)


def _along(scale: Tensor, value: Tensor) -> Tensor:
    return scale.float().view(-1, *(1 for _ in value.shape[1:]))
