"""Trees that sort pixels until those together look at one place: grown level by level, all nodes of a level at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from placecell.families.coordinates.forest.features import Group, Pixels, Planes, Probes, respond
from placecell.parallel import in_parallel

Indices = NDArray[np.intp]
Floats = NDArray[np.float32]

_NONE = np.iinfo(np.int32).max
_BINS = 16
"""A feature's values in a node are told apart in so many steps of its range there."""
_CHUNK = 32_768
"""Samples judged at a time: their arrays stay in the processor's cache."""
_AT_ONCE = 8
"""Candidates answered at a time, for the same reason."""


@dataclass(frozen=True)
class Growing:
    """How trees are grown."""

    groups: Sequence[Group]
    """What features compare."""
    reach: float
    """How far from a pixel they look, see `Probes`."""
    candidates: int
    """Features tried at a node."""
    levels: int
    """Questions between the root and a leaf, at most."""
    least_samples: int
    """No node is divided into parts of fewer."""
    judged: int = 4096
    """Samples of a node, at most, that its question is chosen by."""


@dataclass(frozen=True, eq=False)
class Tree:
    """A binary tree as flat arrays. Nodes are numbered level by level; of those that divide, the k-th has the children
    2 k + 1 and 2 k + 2, so which nodes divide is all of its shape."""

    probes: Probes
    """Features of all levels."""
    divides: NDArray[np.bool_]
    """(N,) whether a node asks a question; the others are leaves, numbered in this order."""
    probe: NDArray[np.uint16]
    """(I,) which feature each dividing node asks."""
    threshold: NDArray[np.int16]
    """(I,) a pixel with at least this value goes to the second child."""

    def fall(self, planes: Planes, pixels: Pixels) -> NDArray[np.intp]:
        """(M,) the leaf that each pixel ends in."""
        node, active = np.zeros(len(pixels), np.intp), np.arange(len(pixels))
        while True:
            active = active[self.divides[node[active]]]
            if not len(active):
                return node - self._inner[node]
            inner = self._inner[node[active]]
            values = respond(planes, pixels.take(active), self.probes.take(self.probe[inner]))
            node[active] = 2 * inner + 1 + (values >= self.threshold[inner])

    @cached_property
    def _inner(self) -> Indices:
        """(N,) dividing nodes before each."""
        return np.cumsum(self.divides) - self.divides


class Samples(NamedTuple):
    """Labelled pixels to learn from."""

    pixels: Pixels
    points: Floats
    """(M, 3) where they look, in the frame of the map."""

    def take(self, index: Indices) -> Samples:
        """Some of them."""
        return Samples(self.pixels.take(index), self.points[index])


class Grown(NamedTuple):
    """A tree, and which samples ended in which leaf."""

    tree: Tree
    order: Indices
    """(M,) samples, those of leaf 0 first, in random order within a leaf."""
    border: Indices
    """(L + 1,) where each leaf's samples begin in `order`."""


def grow(planes: Planes, samples: Samples, how: Growing, rng: np.random.Generator, *, threads: int = 1) -> Grown:
    """A tree that sorts the samples by where they look.

    Every node takes, of `candidates` features, new ones each level, and of `_BINS` - 1 thresholds the pair that leaves
    the least variance: it maximises Q = V(S) − Σ |S_d|/|S| V(S_d), V the mean squared distance to the mean (Shotton et
    al. 2013, eq. 5). As |S| V(S) = Σ|x|² − |Σx|²/|S|, that is the pair with the largest Σ_d |Σ_d x|²/|S_d|. All nodes
    of a level try the same features, our economy: which one a node takes is its own choice all the same.
    """
    probes = Probes.draw(how.groups, how.candidates * how.levels, how.reach, rng)
    order = rng.permutation(len(samples.pixels)).astype(np.intp)
    border = np.array([0, len(order)], np.intp)
    levels, ended, sizes = [], [], []
    for first in range(0, how.candidates * (how.levels + 1), how.candidates):
        tried = probes.take(slice(first, first + how.candidates))
        asked = _questions(planes, samples, order, border, tried, how, threads)
        second, divides = _sides(planes, samples, order, border, tried, asked, how.least_samples)
        levels.append((divides, first + asked.probe[divides], asked.threshold[divides]))
        counts = np.diff(border)
        going = np.repeat(divides, counts)
        ended.append(order[~going])
        sizes.append(counts[~divides])
        if not divides.any():
            break
        side = (2 * np.repeat(np.arange(len(counts)), counts) + second)[going]
        order = order[going][np.argsort(side, kind="stable")]
        border = _borders(np.bincount(side, minlength=2 * len(counts)).reshape(-1, 2)[divides].ravel())
    divides, probe, threshold = (np.concatenate(part) for part in zip(*levels, strict=True))
    tree = Tree(probes, divides, probe.astype(np.uint16), threshold.astype(np.int16))
    return Grown(tree, np.concatenate(ended), _borders(np.concatenate(sizes)))


def _borders(counts: Indices) -> Indices:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)


class _Questions(NamedTuple):
    """What nodes ask; threshold `_NONE` where nothing tells their samples apart."""

    probe: NDArray[np.intp]
    threshold: NDArray[np.int32]


def _sides(
    planes: Planes, samples: Samples, order: Indices, border: Indices, probes: Probes, asked: _Questions, least: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples go to the second child, and which nodes divide: those with enough samples on both sides."""
    counts = np.diff(border)
    second = np.zeros(len(order), bool)
    asking = np.repeat(asked.threshold != _NONE, counts)
    probe, threshold = np.repeat(asked.probe, counts)[asking], np.repeat(asked.threshold, counts)[asking]
    values = respond(planes, samples.pixels.take(order[asking]), probes.take(probe))
    second[asking] = values >= threshold
    seconds = np.add.reduceat(second, border[:-1], dtype=np.intp)
    return second, np.minimum(seconds, counts - seconds) >= least


def _questions(
    planes: Planes, samples: Samples, order: Indices, border: Indices, probes: Probes, how: Growing, threads: int
) -> _Questions:
    """The best question of every node of a level, judged by at most `how.judged` of its samples."""
    counts = np.diff(border)
    found = _Questions(np.zeros(len(counts), np.intp), np.full(len(counts), _NONE, np.int32))
    large = np.flatnonzero(counts >= 2 * how.least_samples) if len(probes.plane) else np.zeros(0, np.intp)
    judged = np.minimum(counts[large], how.judged)
    part = np.cumsum(judged) // _CHUNK
    parts = [large[part == index] for index in np.unique(part)]

    def best(nodes: Indices) -> _Questions:
        begins, sizes = border[:-1][nodes], np.minimum(counts[nodes], how.judged)
        chosen = order[np.repeat(begins - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())]
        chosen = chosen[np.lexsort((chosen, np.repeat(nodes, sizes)))]  # by picture: what is near in memory is fast
        return _best_questions(planes, samples.take(chosen), sizes, probes, how.least_samples)

    for nodes, chosen in zip(parts, in_parallel(best, parts, threads), strict=True):
        found.probe[nodes], found.threshold[nodes] = chosen
    return found


def _best_questions(planes: Planes, samples: Samples, counts: Indices, probes: Probes, least: int) -> _Questions:
    """The best question of nodes whose samples lie one node after the other."""
    begins = np.cumsum(counts) - counts
    moments = np.column_stack([np.ones(len(samples.points), np.float32), samples.points])
    total = np.add.reduceat(moments, begins)
    best = np.full(len(counts), -np.inf, np.float32)
    found = _Questions(np.zeros(len(counts), np.intp), np.full(len(counts), _NONE, np.int32))
    for first in range(0, len(probes.plane), _AT_ONCE):
        values = respond(planes, samples.pixels, probes.take((slice(first, first + _AT_ONCE), None)))
        low = np.minimum.reduceat(values, begins, axis=1)
        span = np.maximum.reduceat(values, begins, axis=1) - low + 1
        scores = _scores(_histograms(values, low, span, counts, moments), total, least)
        flat = scores.transpose(1, 0, 2).reshape(len(counts), -1)
        winner = flat.argmax(axis=1)
        score = flat[np.arange(len(counts)), winner]
        better = score > best
        probe, step = np.divmod(winner[better], scores.shape[2])
        best[better] = score[better]
        found.probe[better] = first + probe
        # Rounded up: values are whole, and those of the next bin are at least this.
        rise = -((-(step + 1) * span[probe, better]) // _BINS)
        found.threshold[better] = low[probe, better] + rise
    return found


def _histograms(
    values: NDArray[np.int32], low: NDArray[np.int32], span: NDArray[np.int32], counts: Indices, moments: Floats
) -> Floats:
    """(F, n, _BINS, 4) of every probe and node: the sums of the moments (1 x y z) of the samples in each bin."""
    probes, nodes = low.shape
    steps = values - np.repeat(low, counts, axis=1)
    bins = (steps * np.repeat(np.float32(_BINS) / span.astype(np.float32), counts, axis=1)).astype(np.int32)
    np.minimum(bins, _BINS - 1, out=bins)  # rounding may reach the end of the range
    bins += np.repeat(_BINS * np.arange(nodes, dtype=np.int32), counts)
    bins += (nodes * _BINS * np.arange(probes, dtype=np.int32))[:, None]
    cells = bins.reshape(-1)
    # A product with a matrix of one 1 a column: what np.add.at does, in a tenth of the time.
    ones, columns = np.ones(len(cells), np.float32), np.arange(len(cells) + 1, dtype=np.int32)
    put = csc_array((ones, cells, columns), (probes * nodes * _BINS, len(cells)))
    sums: Floats = put @ np.tile(moments, (probes, 1))
    return sums.reshape(probes, nodes, _BINS, 4)


def _scores(histograms: Floats, total: Floats, least: int) -> Floats:
    """(F, n, _BINS - 1) Σ_d |Σ_d x|²/|S_d| for every border between bins; -inf where a side has too few samples."""
    first = np.cumsum(histograms, axis=2)[:, :, :-1]
    second = total[:, None] - first
    smaller = np.minimum(first[..., 0], second[..., 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = [(side[..., 1:] ** 2).sum(axis=-1) / side[..., 0] for side in (first, second)]
    scores: Floats = np.where(smaller >= least, squares[0] + squares[1], np.float32(-np.inf))
    return scores
