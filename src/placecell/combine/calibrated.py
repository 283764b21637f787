"""`Calibrated`: a map whose answers say how sure they are, and mean it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from placecell import atomic, catalog
from placecell.calibration.features import Neighbourhood
from placecell.calibration.file import NAME, files_of, read_calibration
from placecell.calibration.fit import Calibration
from placecell.combine.members import save_within
from placecell.errors import MapError
from placecell.estimate import Estimate, Query
from placecell.localizer import Localizer, PoseFeatures, SeenAtOnce, wants_depth
from placecell.pose import Array


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A map with its calibration; `placecell.catalog.load_map` gives one where a map folder holds calibration.json."""

    localizer: Localizer
    """The map itself."""
    calibration: Calibration
    known: Neighbourhood | None = None
    """Its training pictures as it sees them, of maps that see vectors."""
    least: float | None = None
    """Answers of less confidence are refused; None refuses none for that."""

    @property
    def wants_depth(self) -> bool:
        """Whether the map needs the depth of the pictures it places."""
        return wants_depth(self.localizer)

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """The map's answers with scaled covariances, radii, confidence and familiarity."""
        found = self.calibration.apply(*localized(self.localizer, self.known, queries))
        return [self._accepted(estimate) for estimate in found]

    def _accepted(self, estimate: Estimate) -> Estimate:
        sure = estimate.confidence or 0.0
        if estimate.world_from_cam is None or self.least is None or sure >= self.least:
            return estimate
        limit = self.calibration.threshold.name
        reason = f"the answer is within {limit} with a confidence of {sure:.3f}, {self.least:g} needed"
        refused = Estimate.refusal(estimate.name, reason, estimate.seconds)
        return replace(refused, confidence=0.0, familiarity=estimate.familiarity)

    def save(self, folder: Path) -> None:
        """Write the map folder with its calibration; `least` is no part of it."""
        with atomic.new_folder(folder) as aside:
            save_within(aside, self.localizer.save)
            for name, content in files_of(self.calibration, self.known, aside).items():
                (aside / name).write_bytes(content)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            MapError, FormatError: not a map, not calibrated, damaged, or the calibration is another map's.
        """
        if not (folder / NAME).is_file():
            raise MapError(f"{folder} is not calibrated; run: placecell calibrate {folder} SCENE")
        calibration, known = read_calibration(folder)
        return cls(catalog.load_map(folder, device=device, calibrated=False), calibration, known)


def localized(
    localizer: Localizer, known: Neighbourhood | None, queries: Sequence[Query]
) -> tuple[list[Estimate], Array | None]:
    """A map's own answers, and (N,) how near the pictures are to the training pictures as it sees them.

    The latter is None of maps that see no vectors.
    """
    if known is not None and isinstance(localizer, SeenAtOnce):
        found, vectors = localizer.localize_seen(queries)
        return found, known.nearness(vectors)
    seer = seer_of(localizer)
    near = None if known is None or seer is None else known.nearness(seer.pose_features(queries))
    return localizer.localize(queries), near


def seer_of(localizer: Localizer) -> PoseFeatures | None:
    """The map that sees pictures as vectors: itself, or of a map made of maps the first that does."""
    if isinstance(localizer, PoseFeatures):
        return localizer
    members = (localizer.localizer,) if isinstance(localizer, Calibrated) else getattr(localizer, "members", ())
    return next((seer for member in members if (seer := seer_of(member)) is not None), None)


def write_calibration(folder: Path, calibration: Calibration, known: Neighbourhood | None) -> None:
    """Calibrate the map in a folder, replacing what calibration it had; each file is written whole."""
    for name, content in files_of(calibration, known, folder).items():
        atomic.write_bytes(folder / name, content)
