"""An exported scene-coordinate map: one run of the model says where each cell lies, RANSAC the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.decoding import SPREAD, points_of
from placecell.families.coordinates.placing import Seen, Sight, answer, surest
from placecell.runtime.engine import Engine, Engines
from placecell.runtime.exported import Exported, require_processor

WHOLE_PX = 16
"""Sides of pictures are multiples of it: the model joins maps of strides 8 and 16 without a remainder."""


@dataclass(frozen=True, eq=False)
class ExportedCoordinates:
    """A scene-coordinate map that runs without torch."""

    exported: Exported
    family: Coordinates
    camera: Camera
    """Of the training pictures as the encoder saw them."""
    anchor: Anchor
    engine: Engine

    @classmethod
    def of(cls, exported: Exported, *, kind: Engines | None = None) -> Self:
        """The map of a folder's content; see `exported.localizer_of`."""
        camera, family = exported.camera("camera_seen"), exported.settings(Coordinates)
        return cls(exported, family, camera, exported.anchor(), exported.engine(kind))

    @property
    def sight(self) -> Camera:
        """The camera beyond whose resolution nothing of a picture is used."""
        return self.camera

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """Place each picture; one of which too few cells agree is refused with their number."""
        sight = Sight(self.camera, self.anchor, WHOLE_PX, self._look)
        return [answer(query, self.family, sight) for query in queries]

    def _look(self, image: NDArray[np.uint8], camera: Camera) -> Iterator[Seen]:
        numbers = self.engine.run(image[None])[0][0]
        log_spread = numbers[:, SPREAD].astype(np.float64)
        tensors = self.exported.tensors
        points = points_of(numbers, tensors["centres"], float(tensors["size"]))
        yield surest(points, log_spread, camera, self.family.queried)

    def save(self, folder: Path) -> None:
        """Write the map folder."""
        self.exported.save(folder)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder; errors as those of `ExportedRegression.load`."""
        require_processor(folder, device)
        return cls.of(Exported.load(folder))
