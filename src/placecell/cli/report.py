"""placecell report RUN SCENE OUT.html"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from placecell import catalog
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.errors import MapError, MissingExtra, PlacecellError
from placecell.localizer import Charted, Localizer, load_info, map_bytes, map_fingerprint
from placecell.report import write_report
from placecell.run import RunInfo
from placecell.scene import Scene
from placecell.verdict import verdict


def main(words: Sequence[str]) -> None:
    """Draw a run."""
    parse("report", report, words)


def report(
    run: Annotated[Path, tyro.conf.Positional],
    scene: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    map: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Draw a run as one HTML page that needs nothing else: the place in 3-D, errors, curves, the worst frames.

    Args:
        run: Run folder.
        scene: The scene folder the map was built from.
        out: HTML file to write.
        map: The map folder, to state its size and seed, to show what it sees in pictures if it can tell, and to draw
            its points when the scene has none.
        overwrite: Replace the file if it exists.
    """
    if out.exists() and not (overwrite and out.is_file()):
        raise PlacecellError(f"{out} exists already; name another file or pass --overwrite")
    place = Scene.load(scene)
    found = verdict(run, place)
    about, log = _about(found.run), Terminal()
    localizer: Localizer | None = None
    if map is not None:
        about |= _map_told(map, found.run)
        localizer = _map_at(map, log)
    if localizer is not None and isinstance(localizer, Charted):
        place = replace(place, points=place.points or localizer.cloud())
    write_report(
        out,
        place,
        found.estimates,
        found.evaluation,
        floors=found.floors,
        run_info=about,
        localizer=localizer,
        threshold=found.run.sure_of,
        log=log,
    )
    size = f"{len(found.evaluation.errors)} frames, {out.stat().st_size / 1e6:.1f} MB"
    finish(f"{out}: {size}; open it in a browser", ["placecell", "export", scene, unused(Path("colmap")), "colmap"])


def _about(run: RunInfo) -> dict[str, Any]:
    return {
        "family": run.map["family"],
        "date": run.started,
        "versions": run.versions,
        "device": f"{run.device}, {run.threads} threads",
        "seconds": run.seconds,
        "map": run.map["fingerprint"],
    }


def _map_told(folder: Path, run: RunInfo) -> dict[str, Any]:
    seed = load_info(folder).seed
    if map_fingerprint(folder) != run.map["fingerprint"]:
        raise MapError(f"{folder} is not the map that the run was made with; name that one, or leave --map out")
    return {"map_bytes": map_bytes(folder), "seed": seed}


def _map_at(map: Path, log: Terminal) -> Localizer | None:
    """The map itself; None, with a warning, where the page can do without it."""
    try:
        return catalog.load_map(map, calibrated=False)
    except MissingExtra as error:
        log.warn(f"the page does not show what the map sees: {error}")
        return None
