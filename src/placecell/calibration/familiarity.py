"""Whether a picture is of the place at all: how strange its answer is beside those to unseen pictures of the place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placecell.pose import Array
from placecell.spacing import even_places

_KNOWN = 0.01
_KEPT = 500


@dataclass(frozen=True)
class Familiarity:
    """Strangeness of the answers to unseen pictures of the place, sorted: what new ones are ranked among."""

    strangeness: tuple[float, ...]
    """At most 500 quantiles."""
    answers: int
    """How many there were."""

    def apply(self, evidence: Array) -> Array:
        """(N,) conformal p-values of evidence (N, K): (1 + answers at least as strange) / (1 + answers).

        Of answers to pictures of the place, a share p or less gets p or less (Vovk et al. 2005), whatever strangeness
        measures.
        """
        below = np.searchsorted(np.array(self.strangeness), strangeness_of(evidence), side="left")
        stranger = (1.0 - below / len(self.strangeness)) * self.answers
        return np.asarray((1.0 + stranger) / (1.0 + self.answers), dtype=np.float64)

    @property
    def known_at(self) -> float:
        """A picture is of the place at this familiarity or more: few of its own are denied, 1 % where there were
        answers enough to tell so few apart."""
        return max(_KNOWN, 2.0 / (1.0 + self.answers))


def strangeness_of(evidence: Array) -> Array:
    """(N,) the evidence that speaks loudest against each answer: novelty shows in one kind or another, not in all."""
    return (-evidence).max(axis=1) if evidence.shape[1] else np.zeros(len(evidence))


def fit_familiarity(evidence: Array) -> Familiarity:
    """From the evidence (N, K) of the answers to unseen pictures, N >= 1."""
    ordered = np.sort(strangeness_of(evidence))
    return Familiarity(tuple(ordered[even_places(len(ordered), _KEPT)].tolist()), len(evidence))
