"""placecell combine OUT MAP MAP ..."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell import atomic
from placecell.cli.terminal import finish, parse
from placecell.combine.cascade import Cascade
from placecell.combine.ensemble import Ensemble
from placecell.errors import MapError


def main(words: Sequence[str]) -> None:
    """Combine maps."""
    parse("combine", combine, words)


def combine(
    out: Annotated[Path, tyro.conf.Positional],
    map: Annotated[Path, tyro.conf.Positional],
    others: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    how: Literal["mixture", "information", "cascade"] = "mixture",
    sure: float | None = None,
    overwrite: bool = False,
) -> None:
    """Make one map of several of the same scene; it holds copies of them and is asked like any other.

    Args:
        out: Map folder to make.
        map: Map folder; of a cascade the cheap one.
        others: Further map folders; of a cascade one of family structure.
        how: mixture: maps trained alike with other seeds, averaged, what they disagree on counts as doubt. information:
            maps of different kinds, weighed by their covariances, refused where they contradict each other; calibrate
            them first. cascade: the first says about where, the second looks there.
        sure: Of a cascade: answers of the first with at least this confidence are taken as they are.
        overwrite: Replace a map that is there.
    """
    atomic.require_new(out, replace=overwrite)
    maps = (map, *others)
    if how == "cascade":
        if len(maps) != 2:
            raise MapError(f"a cascade is of two maps, a cheap and a precise one, not {len(maps)}")
        made: Cascade | Ensemble = Cascade.of(maps[0], maps[1], sure)
    else:
        if sure is not None:
            raise MapError("--sure is of a cascade; leave it out, or say --how cascade")
        made = Ensemble.of(maps, how)
    made.save(out, overwrite=overwrite)
    finish(f"{out}: {how} of {len(maps)} maps of scene {made.info.scene}", f"placecell localize {out} IMAGES run")
