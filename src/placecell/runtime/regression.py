"""An exported regression map: a picture resampled, one run of the model, and its numbers as a pose and a covariance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.families.regression.config import Regression
from placecell.families.regression.dense import looks
from placecell.families.regression.looking import NO_NUMBERS, agreed, answer, shown
from placecell.families.regression.reading import Doubt, Fixed, aligned, expected, posed
from placecell.families.regression.spreads import Spread
from placecell.pose import Array, Pose
from placecell.runtime.engine import Engine, Engines, Floats
from placecell.runtime.exported import Exported, require_processor

_AT_ONCE = 32


class _Read(NamedTuple):
    """What the model says of a picture: N looks, the passes of a window side by side."""

    poses: list[Pose]
    """`anchor_from_cam`."""
    told: Array
    """(N, D) what the network expects its errors by."""


@dataclass(frozen=True, eq=False)
class ExportedRegression:
    """A regression map that runs without torch."""

    exported: Exported
    family: Regression
    camera: Camera
    """The canonical camera that every picture is resampled to."""
    anchor: Anchor
    least_detail: float
    doubt: Doubt | None
    """How far off it expects to be; None of a map that has not learned to."""
    engine: Engine

    @classmethod
    def of(cls, exported: Exported, *, kind: Engines | None = None) -> Self:
        """The map of a folder's content; see `exported.localizer_of`."""
        camera, family = exported.camera("canonical_camera"), exported.settings(Regression)
        doubt = None if family.covariance == "none" else Doubt.of(exported.tensors)
        least = exported.number("least_detail")
        return cls(exported, family, camera, exported.anchor(), least, doubt, exported.engine(kind))

    @property
    def sight(self) -> Camera:
        """The camera beyond whose resolution nothing of a picture is used."""
        return self.camera

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """What the network says of each picture; blank ones and those with hardly anything in them are refused."""
        return [self._looked_at(query)[0] for query in queries]

    def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """(N, D) what the last layer makes the pose of, NaN for pictures that are refused; of many looks the mean."""
        return self.localize_seen(queries)[1]

    def localize_seen(self, queries: Sequence[Query]) -> tuple[list[Estimate], NDArray[np.float32]]:
        """`localize` and `pose_features` by one run of the model."""
        found = [self._looked_at(query) for query in queries]
        width = self.exported.told["features"]
        none = np.full(width, np.nan, np.float32)
        vectors = [none if feature is None else feature for _, feature in found]
        return [estimate for estimate, _ in found], np.array(vectors, np.float32).reshape(-1, width)

    def _looked_at(self, query: Query) -> tuple[Estimate, Floats | None]:
        start = time.perf_counter()
        windows = shown(query, self.camera, self.least_detail, looks(self.camera, self.family))
        if isinstance(windows, str):
            return Estimate.refusal(query.name, windows, time.perf_counter() - start), None
        runs = [self.engine.run(windows[i : i + _AT_ONCE]) for i in range(0, len(windows), _AT_ONCE)]
        numbers = [np.concatenate(parts) for parts in zip(*runs, strict=True)]
        estimate = answer(query.name, self._together(numbers), self.anchor, start)
        return estimate, numbers[-1].mean(axis=0)

    def _together(self, numbers: Sequence[Floats]) -> Spread | str:
        """What all looks say together, or why they say nothing."""
        if not all(np.isfinite(part).all() for part in numbers):
            return NO_NUMBERS
        try:
            read = self._read(numbers)
        except ValueError:  # a quaternion of zeros, say
            return NO_NUMBERS
        passes = max(1, self.family.passes)
        windows = [read.poses[begin : begin + passes] for begin in range(0, len(read.poses), passes)]
        return agreed(windows, None if self.doubt is None else expected(read.told, self.doubt))

    def _read(self, numbers: Sequence[Floats]) -> _Read:
        feature = numbers[-1].astype(np.float64)
        if self.exported.reading == "align":
            tensors = self.exported.tensors
            fixed = Fixed(tensors["rays"], float(tensors["depth"]), tensors["middle"])
            laid = [aligned(cells, fixed) for cells in numbers[0]]
            misfits = np.array([each.misfit for each in laid])
            return _Read([each.pose for each in laid], np.concatenate([feature, misfits], axis=-1))
        rotation, scale = self.family.rotation, self.anchor.scale
        centres, raws, _ = numbers
        return _Read([posed(centre, raw, rotation, scale) for centre, raw in zip(centres, raws, strict=True)], feature)

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
