"""VLAD: one vector a picture, for finding the pictures most like it (Jegou et al. 2010; intra-normalised, whitened)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from placecell.sift import as_unit

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Vlad:
    """A vocabulary of K visual words and a projection to D dimensions, trained on a scene's own descriptors.

    v_k = Σ_{i: nn(x_i) = k} (x_i - c_k), each v_k scaled to length one (Arandjelovic and Zisserman 2013), all
    concatenated, scaled to length one, and projected by PCA onto D axes without whitening.
    """

    words: Vectors
    """(K, 128)."""
    mean: Vectors
    """(K * 128,)."""
    axes: Vectors
    """(D, K * 128)."""

    @classmethod
    def train(
        cls, descriptors: Sequence[NDArray[np.uint8]], *, words: int = 64, dimensions: int = 256, seed: int = 0
    ) -> Vlad:
        """Train on one (N_i, 128) array a picture; k-means on at most 40 000 of the descriptors."""
        rng = np.random.default_rng(seed)
        total = sum(len(block) for block in descriptors)
        share = min(1.0, 40_000 / max(total, 1))
        sample = [block[rng.random(len(block)) < share] for block in descriptors]
        pool = as_unit(np.concatenate(sample)) if sample else np.zeros((0, 128), np.float32)
        if len(pool) == 0:
            pool = np.zeros((1, 128), np.float32)
        if len(pool) < 2 * words:
            words = max(1, len(pool) // 2)
        start = pool[rng.choice(len(pool), words, replace=False)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="One of the clusters is empty")  # such a word stays where it was
            centres, _ = kmeans2(pool, start, iter=12, minit="matrix", missing="warn")
        bare = cls(centres.astype(np.float32), np.zeros(words * 128, np.float32), np.zeros((0, 0), np.float32))
        raw = np.stack([bare._aggregate(block) for block in descriptors])
        mean = raw.mean(axis=0)
        _, _, axes = np.linalg.svd(raw - mean, full_matrices=False)
        trained = cls(bare.words, mean, axes[: min(dimensions, len(axes))].astype(np.float32))
        return cls.from_tensors(trained.tensors())  # as a map keeps it, so that a map answers the same before and after

    def describe(self, descriptors: NDArray[np.uint8]) -> Vectors:
        """(D,) unit vector of a picture with descriptors (N, 128); zeros without any descriptor."""
        if len(descriptors) == 0:
            return np.zeros(len(self.axes), np.float32)
        vector = self.axes @ (self._aggregate(descriptors) - self.mean)
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

    def _aggregate(self, descriptors: NDArray[np.uint8]) -> Vectors:
        count = len(self.words)
        vector = np.zeros((count, 128), np.float32)
        if len(descriptors):
            unit = as_unit(descriptors)
            distances = (self.words**2).sum(axis=1) - 2.0 * unit @ self.words.T
            word = distances.argmin(axis=1)
            members = np.zeros((count, len(unit)), np.float32)
            members[word, np.arange(len(unit))] = 1.0
            vector = members @ unit - members.sum(axis=1, keepdims=True) * self.words
            vector /= np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-12)
        flat = vector.ravel()
        return (flat / max(float(np.linalg.norm(flat)), 1e-12)).astype(np.float32)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays a map keeps, in half precision."""
        return {
            "vlad.words": self.words.astype(np.float16),
            "vlad.mean": self.mean.astype(np.float16),
            "vlad.axes": self.axes.astype(np.float16),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Vlad:
        """Inverse of `tensors`."""
        words, mean, axes = (tensors[f"vlad.{key}"].astype(np.float32) for key in ("words", "mean", "axes"))
        return cls(words, mean, axes)
