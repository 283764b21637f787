"""A map for tests that answers from the pictures' names, as well as it is told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from placecell.calibration.fit import Answered
from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.localizer import MapInfo, save_map


@dataclass(frozen=True, eq=False)
class Toy:
    """Answers what was made for a name; other pictures are refused."""

    made: Mapping[str, Estimate] = field(default_factory=dict)
    wants_depth: bool = False

    @classmethod
    def of(cls, items: Sequence[Answered]) -> Toy:
        return cls({item.estimate.name: item.estimate for item in items})

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        return [self.made.get(q.name, Estimate.refusal(q.name, "3 matches agree", 0.1)) for q in queries]

    def save(self, folder: Path) -> None:
        save_map(folder, MapInfo("structure", {}, "room", "0" * 16, "synthetic", True, 0), {"a": np.zeros(2)})

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        raise NotImplementedError


def query(name: str) -> Query:
    """A picture of that name, of noise."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    return Query(name, noise, Camera.from_focal(40, 40, 40.0))
