"""A network in place of the trees: what random features say of a pixel, to where it looks (Massiceti et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from placecell.errors import FormatError
from placecell.families.coordinates.forest.features import Pixels, Planes, Probes, respond
from placecell.families.coordinates.forest.leaves import Remembered
from placecell.families.coordinates.head import Head

BLOCKS, CLUSTERS = 2, 50
"""Residual blocks of the head, and points of the scene between which it chooses, as in the family `coordinates`."""
LOG_SPREAD = (-7.0, 3.0)
"""Of how far off a point is expected to be, by `Network.unit`."""
_MEAN_OF_3D = float(np.sqrt(8.0 / np.pi))
"""Mean length of a vector of three independent normal numbers."""


@dataclass(frozen=True, eq=False)
class Network:
    """A head on the values of features that are the same for all pixels; on the processor."""

    probes: Probes
    """(F,)."""
    head: Head
    """In eval mode."""
    unit: float
    """What the spread of its answers is in, in the unit of the scene."""

    def modes(self, planes: Planes, pixels: Pixels) -> Remembered:
        """Where M pixels look, in the frame of the map: one mode each, alike in all directions; no weight where the
        answer is no number."""
        with torch.inference_mode():
            guess = self.head(responses(planes, pixels, self.probes))
        points = guess.points_N3.numpy().astype(np.float32)
        sigma = self.unit * np.exp(np.clip(guess.spread_N.numpy(), *LOG_SPREAD)) / _MEAN_OF_3D
        known = np.isfinite(points).all(axis=1) & np.isfinite(sigma)
        variance = np.where(known, sigma, 1.0).astype(np.float32) ** 2
        covariance = variance[:, None, None] * np.eye(3, dtype=np.float32)
        return Remembered(points[:, None], known[:, None].astype(np.float32), covariance[:, None])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the map folder keeps: weights in half precision, which they are rounded to already."""
        halves = {key for key, _ in self.head.named_parameters()}
        kept: dict[str, NDArray[Any]] = {"offset": self.probes.offset, "plane": self.probes.plane}
        for key, value in self.head.state_dict().items():
            kept[f"head.{key}"] = value.numpy().astype(np.float16) if key in halves else value.numpy()
        return kept

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[Any]], hidden: int, unit: float, path: Path) -> Self:
        """Inverse of `tensors`, which came from the file at `path`.

        Raises:
            FormatError: one is missing, or of another shape.
        """
        probes = Probes(tensors["offset"], tensors["plane"])
        head = new_head(len(probes.plane), hidden)
        expected = head.state_dict()
        given = {key: torch.from_numpy(tensors[f"head.{key}"]).to(value.dtype) for key, value in expected.items()}
        strange = [key for key, value in expected.items() if given[key].shape != value.shape]
        if strange:
            raise FormatError(f"{path}: tensor head.{strange[0]} does not fit map.json; build the map again")
        head.load_state_dict(given)
        return cls(probes, head.eval(), unit)


def responses(planes: Planes, pixels: Pixels, probes: Probes) -> Tensor:
    """(M, F) float32: what each pixel answers to each feature."""
    values = respond(planes, pixels, probes.take((slice(None), None)))
    return torch.from_numpy(np.ascontiguousarray(values.T, np.float32))


def new_head(features: int, hidden: int, seed: int = 0) -> Head:
    """A head with random weights; torch's own generators stay where they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(features, hidden, BLOCKS, CLUSTERS)
