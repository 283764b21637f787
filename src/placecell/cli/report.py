"""placecell report RUN SCENE OUT.html"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from placecell.cli.terminal import Terminal, finish, parse
from placecell.localizer import load_info, load_map_tensors, map_bytes
from placecell.points import PointCloud
from placecell.report import write_report
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
) -> None:
    """Draw a run as one HTML page that needs nothing else: the place in 3-D, errors, curves, the worst frames.

    Args:
        run: Run folder.
        scene: The scene folder the map was built from.
        out: HTML file to write.
        map: The map folder, to state its size and seed, and to draw its points when the scene has none.
    """
    write(run, scene, out, map)
    finish(f"{out}: open it in a browser", f"placecell export {scene} colmap/ colmap")


def write(run: Path, scene: Path, out: Path, map: Path | None) -> None:
    """Write the page of a run."""
    place = Scene.load(scene)
    found = verdict(run, place)
    about = {
        "family": found.run.map["family"],
        "date": found.run.started,
        "versions": found.run.versions,
        "device": f"{found.run.device}, {found.run.threads} threads",
        "seconds": found.run.seconds,
        "map": found.run.map["fingerprint"],
    }
    if map is not None:
        about |= {"map_bytes": map_bytes(map), "seed": load_info(map).seed}
        place = replace(place, points=place.points or _points_of(map))
    write_report(out, place, found.estimates, found.evaluation, floors=found.floors, run_info=about, log=Terminal())


def _points_of(map: Path) -> PointCloud | None:
    """The points of a map that has some, for a scene that has none."""
    tensors = load_map_tensors(map)
    if not {"points", "points.rgb"} <= set(tensors):
        return None
    return PointCloud.bare(tensors["points"].astype(np.float64), tensors["points.rgb"])
