"""An exported regression map: a picture resampled, one run of the model, and its numbers as a pose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.families.regression.config import Regression
from placecell.families.regression.dense import looks
from placecell.families.regression.looking import NO_NUMBERS, agreed, answer, shown
from placecell.families.regression.reading import Fixed, aligned, posed
from placecell.pose import Pose
from placecell.runtime.engine import Engine, Engines, Floats
from placecell.runtime.exported import Exported, require_processor

_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class ExportedRegression:
    """A regression map that runs without torch."""

    exported: Exported
    family: Regression
    camera: Camera
    """The canonical camera that every picture is resampled to."""
    anchor: Anchor
    least_detail: float
    engine: Engine

    @classmethod
    def of(cls, exported: Exported, *, kind: Engines | None = None) -> Self:
        """The map of a folder's content; see `exported.localizer_of`."""
        camera = exported.camera("canonical_camera")
        least = exported.number("least_detail")
        return cls(exported, exported.settings(Regression), camera, exported.anchor(), least, exported.engine(kind))

    @property
    def sight(self) -> Camera:
        """The camera beyond whose resolution nothing of a picture is used."""
        return self.camera

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """What the network says of each picture; blank ones and those with hardly anything in them are refused."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> Estimate:
        start = time.perf_counter()
        windows = shown(query, self.camera, self.least_detail, looks(self.camera, self.family))
        if isinstance(windows, str):
            return Estimate.refusal(query.name, windows, time.perf_counter() - start)
        runs = [self.engine.run(windows[i : i + _AT_ONCE]) for i in range(0, len(windows), _AT_ONCE)]
        numbers = [np.concatenate(parts) for parts in zip(*runs, strict=True)]
        if not all(np.isfinite(part).all() for part in numbers):
            return Estimate.refusal(query.name, NO_NUMBERS, time.perf_counter() - start)
        try:
            poses = self._poses(numbers)
        except ValueError:  # a quaternion of zeros, say
            return Estimate.refusal(query.name, NO_NUMBERS, time.perf_counter() - start)
        return answer(query.name, agreed([[pose] for pose in poses], None), self.anchor, start)

    def _poses(self, numbers: Sequence[Floats]) -> list[Pose]:
        """`anchor_from_cam` of each window."""
        if self.exported.reading == "align":
            tensors = self.exported.tensors
            fixed = Fixed(tensors["rays"], float(tensors["depth"]), tensors["middle"])
            return [aligned(cells, fixed) for cells in numbers[0]]
        rotation, scale = self.family.rotation, self.anchor.scale
        return [posed(centre, raw, rotation, scale) for centre, raw in zip(*numbers, strict=True)]

    def save(self, folder: Path) -> None:
        """Write the map folder."""
        self.exported.save(folder)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            MapError: not an exported map, or another device than the processor is asked for.
            MissingExtra: no engine is installed.
            FormatError: a file is damaged.
        """
        require_processor(folder, device)
        return cls.of(Exported.load(folder))
