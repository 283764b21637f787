"""`Among`: one picture, several maps; the map that knows the place answers, or none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from placecell.combine.calibrated import Calibrated
from placecell.estimate import Estimate, Query
from placecell.metrics import Threshold


@dataclass(frozen=True, eq=False)
class Among:
    """Calibrated maps by name. A map claims a picture when its answer is as familiar as those to its own pictures are;
    of several that do, the most confident answers, and of those alike the one it is most familiar to."""

    maps: Mapping[str, Calibrated]

    @property
    def wants_depth(self) -> bool:
        """Whether one of them needs the depth of the pictures."""
        return any(found.wants_depth for found in self.maps.values())

    @property
    def threshold(self) -> Threshold | None:
        """What all their confidences are about; None where that differs."""
        about = {found.calibration.threshold for found in self.maps.values()}
        return about.pop() if len(about) == 1 else None

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """One estimate a query, of the map that claims it (`map`; `also` are the others that do), or a refusal."""
        asked = {name: found.localize(queries) for name, found in self.maps.items()}
        return [self._chosen({name: found[i] for name, found in asked.items()}) for i in range(len(queries))]

    def _chosen(self, answers: Mapping[str, Estimate]) -> Estimate:
        seconds = sum(answer.seconds or 0.0 for answer in answers.values())
        claims = sorted(
            (name for name, answer in answers.items() if self.claims(name, answer)),
            key=lambda name: (-(answers[name].confidence or 0.0), -(answers[name].familiarity or 0.0)),
        )
        if not claims:
            (query,) = {answer.name for answer in answers.values()}
            refused = Estimate.refusal(query, f"no map knows this place: {self._why(answers)}", seconds)
            return replace(refused, confidence=0.0, familiarity=max(a.familiarity or 0.0 for a in answers.values()))
        return replace(answers[claims[0]], map=claims[0], also=tuple(claims[1:]), seconds=seconds)

    def claims(self, name: str, answer: Estimate) -> bool:
        """Whether a map takes the picture of its answer for one of its place."""
        known_at = self.maps[name].calibration.familiarity.known_at
        return answer.world_from_cam is not None and (answer.familiarity or 0.0) >= known_at

    def _why(self, answers: Mapping[str, Estimate]) -> str:
        def one(name: str, answer: Estimate) -> str:
            if answer.reason is not None:
                return f"{name}: {answer.reason}"
            known_at = self.maps[name].calibration.familiarity.known_at
            return f"{name}: familiar at {answer.familiarity or 0.0:.3f}, {known_at:.3f} needed"

        return "; ".join(one(name, answer) for name, answer in answers.items())
