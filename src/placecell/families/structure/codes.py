"""Short codes for descriptors: product quantisation with asymmetric distances (Jegou, Douze and Schmid 2011)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from placecell.sift import UNIT, as_unit

Bytes = NDArray[np.uint8]

_WORDS = 256
"""Centroids of a part of the descriptor: as many as a byte can name."""
_SAMPLE = 20_000
_ROUNDS = 10


@dataclass(frozen=True, eq=False)
class Codes:
    """The descriptors of N points in B bytes each.

    A descriptor is cut into B parts of 128 / B values; each part is stored as the number of the nearest of 256
    centroids, k-means of the map's own descriptors. SIFT's values lie cell by cell, so 16 bytes are one a cell.
    With B = 128 the code is the descriptor itself and there are no centroids.
    """

    code: Bytes
    """(N, B)."""
    books: Bytes
    """(B, K, 128 / B) centroids, scaled as stored descriptors are; K = 0 where codes are descriptors."""

    @classmethod
    def train(cls, descriptors: Bytes, size: int, *, seed: int) -> Self:
        """Codes of `size` bytes for stored descriptors (N, 128), their centroids trained on at most 20 000 of them."""
        if size == 128:
            return cls(descriptors, np.zeros((128, 0, 1), np.uint8))
        rng = np.random.default_rng(seed)
        parts = as_unit(descriptors).reshape(len(descriptors), size, 128 // size) * np.float32(UNIT)
        pool = parts[np.sort(rng.choice(len(parts), min(len(parts), _SAMPLE), replace=False))]
        books = [_centroids(np.ascontiguousarray(pool[:, part]), rng) for part in range(size)]
        code = [vq(np.ascontiguousarray(parts[:, part]), book)[0] for part, book in enumerate(books)]
        return cls(np.stack(code, axis=1).astype(np.uint8), np.stack(books).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.code)

    def vectors(self, points: NDArray[np.integer]) -> NDArray[np.float32]:
        """(n, 128) such that the product with a unit descriptor is its cosine with the point's, or the mean of it.

        A centroid is the mean of the descriptors it stands for, so the product with the bare centroid is the expected
        cosine; scaled to length one it would be too large, the more so the coarser the code.
        """
        code = self.code[points]
        if self.books.shape[1] == 0:
            return as_unit(code)
        chosen = self.books[np.arange(code.shape[1]), code].reshape(len(code), 128)
        found: NDArray[np.float32] = chosen.astype(np.float32) / np.float32(UNIT)
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays a map keeps."""
        return {"codes": self.code, "codes.books": self.books}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `tensors`."""
        return cls(tensors["codes"], tensors["codes.books"])


def _centroids(pool: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(K, d) rounded to whole numbers; K is 256, or fewer for fewer descriptors."""
    start = pool[rng.choice(len(pool), min(_WORDS, len(pool)), replace=False)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # such a centroid stays where it was
        found, _ = kmeans2(pool, start, iter=_ROUNDS, minit="matrix", missing="warn")
    return np.clip(np.rint(found), 0, 255).astype(np.float32)
