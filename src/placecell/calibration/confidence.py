"""Evidence to the probability that an answer is right: a monotone model that does not promise what it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, expit

from placecell.pose import Array

SURE = 0.99
"""Share of the accepted answers that have to be right."""
SURELY = 0.95
"""Probability with which they have to be, by what was seen: 191 right answers and no wrong one are enough."""
_PULL = 1.0
"""Variance⁻¹ of the weights about their prior."""
_LEVEL = 0.02
"""And of the offset about zero: a deviation of 7, from one in a thousand to all but one."""


@dataclass(frozen=True)
class Confidence:
    """min(most, 1 / (1 + exp(-(weights · evidence + offset))))."""

    weights: tuple[float, ...]
    """(K,), none below zero: more evidence never makes an answer less sure."""
    offset: float
    most: float
    """What so many answers can promise at best."""

    def apply(self, evidence: Array) -> Array:
        """(N,) probabilities of evidence (N, K)."""
        return np.asarray(np.minimum(expit(evidence @ np.array(self.weights) + self.offset), self.most), np.float64)


def fit_confidence(evidence: Array, hits: Array) -> Confidence:
    """Learn from answers that were right (1) or wrong (0), (N,), N >= 1, by logistic regression.

    Weights are kept from below zero, with a normal prior about equal ones that sum to 1, so that a few wrong answers do
    not make them wild, and none leaves them in place: what is stranger than everything seen is trusted less. n right
    answers promise 1 - 1/(2n + 2) at most, the mean under Jeffreys' prior when no answer is wrong, and never 1.
    """
    right = float(hits.sum())
    weights, offset = _weights(evidence, hits)
    return Confidence(tuple(weights.tolist()), offset, (right + 0.5) / (right + 1.0))


def accept_at(groups: Sequence[tuple[Array, Array]], sure: float = SURE) -> float:
    """The lowest confidence at which answers can be accepted: of those as confident or more, `sure` are right.

    That has to hold in each group that has any so confident, with a probability of `SURELY` under Jeffreys' prior: of
    promises that hold in the mean every third would be broken, and answers of one kind promise nothing of another.

    Args:
        groups: (confidence, hits) of answers to pictures of a kind.

    Returns 1 where no confidence is enough, which accepts nothing.
    """
    stated = np.concatenate([group[0] for group in groups]) if groups else np.zeros(0)
    limits = np.unique(stated)  # rising
    counts = [_accepted(limits, *group) for group in groups]
    good = np.ones(len(limits), dtype=bool)
    for count, right in counts:
        good &= (count == 0) | (betainc(right + 0.5, count - right + 0.5, sure) <= 1.0 - SURELY)
    good &= np.sum([count for count, _ in counts], axis=0) > 0
    return float(limits[good][0]) if good.any() else 1.0


def _accepted(limits: Array, stated: Array, hits: Array) -> tuple[Array, Array]:
    """How many answers are accepted at each of the limits, and how many of these are right."""
    order = np.argsort(stated, kind="stable")
    begin = np.searchsorted(stated[order], limits, side="left")
    right = np.append(np.cumsum(hits[order][::-1])[::-1], 0.0)
    return (len(stated) - begin).astype(np.float64), right[begin]


def _weights(evidence: Array, hits: Array) -> tuple[Array, float]:
    from scipy.optimize import minimize  # a tenth of a second, which who only answers has no use for

    kinds = evidence.shape[1]
    prior = np.full(kinds, 1.0 / max(kinds, 1))

    def cost(values: Array) -> tuple[float, Array]:
        weights, offset = values[:-1], values[-1]
        logit = evidence @ weights + offset
        off = weights - prior
        loss = np.sum(np.logaddexp(0.0, logit) - hits * logit) + 0.5 * _PULL * off @ off + 0.5 * _LEVEL * offset**2
        wrong = expit(logit) - hits
        return float(loss), np.append(evidence.T @ wrong + _PULL * off, wrong.sum() + _LEVEL * offset)

    bounds = [(0.0, None)] * kinds + [(None, None)]
    found = minimize(cost, np.append(prior, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x[:-1], dtype=np.float64), float(found.x[-1])
