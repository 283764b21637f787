"""`Cascade`: a cheap map says about where, a precise one looks there, and everywhere only when that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from placecell import catalog
from placecell.combine.members import info_of, load_members, save_members
from placecell.errors import MapError
from placecell.estimate import Estimate, Query
from placecell.localizer import Guidable, Localizer, MapInfo, wants_depth


@dataclass(frozen=True, eq=False)
class Cascade:
    """Two maps of one place: the cheap one's answer limits what the precise one has to match.

    With `sure` in the settings, answers of the cheap map with at least that confidence are taken as they are.
    """

    info: MapInfo
    cheap: Localizer
    precise: Localizer
    """`Guidable`."""

    @classmethod
    def of(cls, cheap: Path, precise: Path, sure: float | None = None, *, device: str = "cpu") -> Self:
        """The cascade of the maps in two folders.

        Raises:
            MapError: they are of different places or ground truths, or the second cannot be guided.
        """
        info = info_of("cascade", {"sure": sure}, (cheap, precise))
        second = catalog.load_map(precise, device=device, calibrated=False)
        _require_guidable(second, precise)
        return cls(info, catalog.load_map(cheap, device=device), second)

    @property
    def members(self) -> tuple[Localizer, Localizer]:
        """Both maps."""
        return self.cheap, self.precise

    @property
    def wants_depth(self) -> bool:
        """Whether one of the two needs the depth of the pictures."""
        return any(wants_depth(member) for member in self.members)

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """One estimate a query: the precise map's, but for those that the cheap one is sure of."""
        priors, sure = self.cheap.localize(queries), self.info.config["sure"]
        open_ones = [index for index, prior in enumerate(priors) if not _is_sure(prior, sure)]
        answers = list(priors)
        guide = self.precise
        if open_ones and isinstance(guide, Guidable):
            asked = [queries[index] for index in open_ones], [priors[index] for index in open_ones]
            for index, found in zip(open_ones, guide.localize_near(*asked), strict=True):
                answers[index] = replace(found, seconds=(found.seconds or 0.0) + (priors[index].seconds or 0.0))
        return answers

    def save(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the map folder, with the folders of both maps in it."""
        save_members(folder, self.info, self.members, overwrite=overwrite)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            FormatError: a member is missing or damaged.
        """
        info, (cheap, precise) = load_members(folder, device=device)
        _require_guidable(precise, folder)
        return cls(info, cheap, precise)


def _is_sure(prior: Estimate, sure: float | None) -> bool:
    confident = sure is not None and prior.confidence is not None and prior.confidence >= sure
    return prior.world_from_cam is not None and confident


def _require_guidable(precise: Localizer, folder: Path) -> None:
    if not isinstance(precise, Guidable):
        raise MapError(f"{folder}: cannot be told where to look; the second map of a cascade is of family structure")
