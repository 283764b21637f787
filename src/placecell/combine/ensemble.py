"""`Ensemble`: several maps of one place asked the same picture, and their answers made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from placecell import catalog
from placecell.combine.fusion import Fused, information, mixture
from placecell.combine.members import info_of, load_members, save_members
from placecell.estimate import Estimate, Query
from placecell.localizer import Localizer, MapInfo, wants_depth

How = Literal["mixture", "information"]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Maps of one place. `mixture`: trained alike, with other seeds, so that what they disagree on is what none of them
    knows. `information`: of different kinds, weighed by their covariances, which have to be honest: calibrate them."""

    info: MapInfo
    members: tuple[Localizer, ...]

    @classmethod
    def of(cls, folders: Sequence[Path], how: How = "mixture", *, device: str = "cpu") -> Self:
        """The ensemble of the maps in folders.

        Raises:
            MapError: no map, or maps of different places or ground truths.
        """
        info = info_of("ensemble", {"how": how}, folders)
        return cls(info, tuple(catalog.load_map(folder, device=device) for folder in folders))

    @property
    def wants_depth(self) -> bool:
        """Whether one of them needs the depth of the pictures."""
        return any(wants_depth(member) for member in self.members)

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """One estimate a query; a refusal where half of the members or more refuse, or where they contradict."""
        asked = [member.localize(queries) for member in self.members]
        return [self._one([answers[index] for answers in asked]) for index in range(len(queries))]

    def _one(self, answers: Sequence[Estimate]) -> Estimate:
        name, seconds = answers[0].name, sum(answer.seconds or 0.0 for answer in answers)
        placed = [answer for answer in answers if answer.world_from_cam is not None]
        if 2 * len(placed) <= len(answers):
            reason = next(answer.reason for answer in answers if answer.reason is not None)
            refused = f"{len(answers) - len(placed)} of {len(answers)} maps have no answer, the first: {reason}"
            return Estimate.refusal(name, refused, seconds)
        fused = self._fused(placed)
        if isinstance(fused, str):
            return Estimate.refusal(name, fused, seconds)
        most = max(placed, key=lambda answer: -1 if answer.inliers is None else answer.inliers)
        found = Estimate(name, fused.world_from_cam, fused.covariance, seconds=seconds)
        return replace(found, inliers=most.inliers, matches=most.matches)

    def _fused(self, placed: Sequence[Estimate]) -> Fused | str:
        poses = [answer.world_from_cam for answer in placed if answer.world_from_cam is not None]
        if self.info.config["how"] == "mixture":
            try:
                return mixture(poses, [answer.covariance for answer in placed])
            except ValueError:
                return "the maps look opposite ways, so their answers have no mean"
        known = [answer.covariance for answer in placed if answer.covariance is not None]
        if len(known) < len(placed):
            return f"{len(placed) - len(known)} of {len(placed)} maps do not say how sure they are; calibrate them"
        try:
            fused = information(poses, known)
        except ValueError as error:
            return f"{error}; calibrate the maps"
        return "the maps contradict each other by more than they are unsure" if fused is None else fused

    def save(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the map folder, with the folders of its members in it."""
        save_members(folder, self.info, self.members, overwrite=overwrite)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            FormatError: a member is missing or damaged.
        """
        info, members = load_members(folder, device=device)
        return cls(info, tuple(members))
