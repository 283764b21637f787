"""Evidence to the probability that an answer is right: a monotone model that does not promise what it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from placecell.pose import Array

SURE = 0.99
"""Share of the accepted answers that have to be right."""
_PULL = 1.0
"""Variance⁻¹ of the weights about their prior."""


@dataclass(frozen=True)
class Confidence:
    """A weighted sum of the evidence, and a rising line through `knots` from that sum to a probability."""

    weights: tuple[float, ...]
    """(K,), none below zero: more evidence never makes an answer less sure."""
    scores: tuple[float, ...]
    """Rising."""
    levels: tuple[float, ...]
    """Probability at each of `scores`, rising; beyond the ends it stays."""

    def apply(self, evidence: Array) -> Array:
        """(N,) probabilities of evidence (N, K)."""
        return np.asarray(np.interp(_weighed(evidence, self.weights), self.scores, self.levels), dtype=np.float64)


def fit_confidence(evidence: Array, hits: Array) -> Confidence:
    """Learn from answers that were right (1) or wrong (0), (N,), N >= 1.

    The weights are those of logistic regression, kept from below zero, with a normal prior about equal ones, so that a
    few wrong answers do not make them wild. The weighed sum is then made a probability by isotonic regression, whose
    blocks say (hits + ½) / (frames + 1), the mean under Jeffreys' prior: n right answers and no wrong one promise
    1 - 1/(2n + 2), never 1. Below everything seen it falls to 0 within one standard deviation of the sums.
    """
    weights = _weights(evidence, hits)
    scores = _weighed(evidence, weights)
    blocks = _blocks(scores, hits)
    width = max(float(scores.std()), 1e-3)
    at = [float(scores.min()) - width]
    level = [0.0]
    for low, high, value in blocks:  # flat over a block, a slope between two
        ends = [low, high] if high > low else [low]
        at += ends
        level += [value] * len(ends)
    return Confidence(tuple(weights.tolist()), tuple(at), tuple(level))


def accept_at(groups: Sequence[tuple[Array, Array]], sure: float = SURE) -> float:
    """The lowest confidence at which answers can be accepted: of those as confident or more, `sure` are right.

    That has to hold in each group that has any so confident, and in all together by the mean under Jeffreys' prior, as in
    `fit_confidence`, so that a handful of right answers is not enough.

    Args:
        groups: (confidence, hits) of answers to pictures of a kind.

    Returns 1 where no confidence is enough, which accepts nothing.
    """
    stated = np.concatenate([group[0] for group in groups]) if groups else np.zeros(0)
    limits = np.unique(stated)  # rising
    counts = [_accepted(limits, *group) for group in groups]
    good = np.ones(len(limits), dtype=bool)
    for count, right in counts:
        good &= right >= sure * count
    total, right = np.sum([c for c, _ in counts], axis=0), np.sum([r for _, r in counts], axis=0)
    good &= (right + 0.5) / (total + 1.0) >= sure
    return float(limits[good][0]) if good.any() else 1.0


def _accepted(limits: Array, stated: Array, hits: Array) -> tuple[Array, Array]:
    """How many answers are accepted at each of the limits, and how many of these are right."""
    order = np.argsort(stated, kind="stable")
    begin = np.searchsorted(stated[order], limits, side="left")
    right = np.append(np.cumsum(hits[order][::-1])[::-1], 0.0)
    return (len(stated) - begin).astype(np.float64), right[begin]


def _weighed(evidence: Array, weights: Sequence[float] | Array) -> Array:
    return np.asarray(evidence @ np.asarray(weights, np.float64), dtype=np.float64)


def _weights(evidence: Array, hits: Array) -> Array:
    if not (kinds := evidence.shape[1]):
        return np.zeros(0)
    prior = np.full(kinds, 1.0 / kinds)

    def cost(values: Array) -> tuple[float, Array]:
        weights, offset = values[:-1], values[-1]
        logit = evidence @ weights + offset
        off = weights - prior
        loss = np.sum(np.logaddexp(0.0, logit) - hits * logit) + 0.5 * _PULL * off @ off + 0.5 * 1e-3 * offset**2
        wrong = expit(logit) - hits
        return float(loss), np.append(evidence.T @ wrong + _PULL * off, wrong.sum() + 1e-3 * offset)

    bounds = [(0.0, None)] * kinds + [(None, None)]
    found = minimize(cost, np.append(prior, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    weights = np.asarray(found.x[:-1], dtype=np.float64)
    return weights if weights.sum() > 1e-6 else prior


def _blocks(scores: Array, hits: Array) -> list[tuple[float, float, float]]:
    """Lowest score, highest score and probability of each block, rising in both: pool adjacent violators."""
    stack: list[tuple[float, float, float, float]] = []  # lowest, highest, hits, frames
    for score in np.unique(scores):
        mine = scores == score
        block = (float(score), float(score), float(hits[mine].sum()), float(mine.sum()))
        while stack and _level(stack[-1]) >= _level(block):
            low, _, right, count = stack.pop()
            block = (low, block[1], right + block[2], count + block[3])
        stack.append(block)
    return [(block[0], block[1], _level(block)) for block in stack]


def _level(block: tuple[float, float, float, float]) -> float:
    return (block[2] + 0.5) / (block[3] + 1.0)
