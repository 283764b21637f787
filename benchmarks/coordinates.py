"""Scene-coordinate maps on real frames, into docs/benchmarks.md: `make bench-coordinates`.

    python benchmarks/coordinates.py                   what is not measured yet, then the page
    python benchmarks/coordinates.py --again default   a row anew
    python benchmarks/coordinates.py --ask default     a row's map asked again, as on cores that are idle now
    python benchmarks/coordinates.py --page            the page alone, from what is measured

A row takes minutes on two cores, so each keeps its figures in benchmarks/measured/coordinates/ with the day and the
versions they were measured with. Beside each share of the training frames stands the family `structure`, built from
the same frames. Needs the real frames ($PLACECELL_DATA, default ../shared/data) and the ImageNet weights beside them
($PLACECELL_WEIGHTS).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it

import argparse
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from core import answers, kitchen
from page import ROOT, markdown, put
from rows import THREADS, WEIGHTS, build, flags, measured, record, shown

from placecell.catalog import load_map
from placecell.families.coordinates.config import Coordinates
from placecell.families.structure import Structure
from placecell.localizer import map_bytes
from placecell.scene import Scene

TABLE = "coordinates"
MAPS = ROOT / "bench" / "coordinates"
"""Where maps are kept for the other benchmarks."""
DEFAULT: dict[str, Any] = {"weights": str(WEIGHTS)}
SHOWN = ("1cm/1deg", "2cm/2deg", "5cm/5deg", "10cm/5deg")
HEADER = ("map", "frames", "answered", "cm", "deg", *SHOWN, "MB", "of it encoder", "build min", "ms/frame", "p95")
FIGURES = ("map_mb", "encoder_mb", "minutes", "ms", "ms_p95")
SHARES = (100, 50, 25, 10)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is built, and from which share of the training frames."""

    family: Any
    told: str
    share: int = 100
    labels: tuple[str, ...] = ("sfm", "kinectfusion")


def rows() -> dict[str, Row]:
    """All lines."""
    fast = Coordinates(**DEFAULT)
    found = {
        "default": Row(fast, "coordinates"),
        "no-depth": Row(replace(fast, surfaces=False), "coordinates, poses and pictures alone"),
        "structure": Row(Structure(), "structure"),
    }
    for share in SHARES[1:]:
        found[f"default-{share}"] = Row(fast, "coordinates", share, ("sfm",))
        found[f"structure-{share}"] = Row(Structure(), "structure", share, ("sfm",))
    return found


def thinned(scene: Scene, share: int) -> Scene:
    """The scene with a share of its posed training frames, in per cent, spread evenly."""
    posed = scene.split("train").posed
    places = np.linspace(0, len(posed) - 1, len(posed) * share // 100).round().astype(int)
    kept = {posed[place].name for place in places}
    return scene.keep([frame.split == "test" or frame.name in kept for frame in scene.frames])


def measure(name: str, row: Row, labels: str) -> None:
    """Build, save, load, ask, judge."""
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    scene = thinned(kitchen(labels), row.share)
    made = MAPS / f"{name}-{labels}.map"
    MAPS.mkdir(parents=True, exist_ok=True)
    if made.exists():
        shutil.rmtree(made)
    with TemporaryDirectory() as folder:
        scene.save(place := Path(folder) / "scene")
        start = time.perf_counter()
        build(place, made, row.family)
    kept: dict[str, Any] = {"minutes": (time.perf_counter() - start) / 60, "map_mb": map_bytes(made) / 1e6}
    asked: Any = load_map(made)
    kept |= {"told": row.told, "frames": len(scene.split("train").posed), "flags": flags(row.family, weights=False)}
    if isinstance(row.family, Coordinates):
        kept["encoder_mb"] = sum(2 * value.numel() for value in asked.encoder.parameters()) / 1e6
    record(TABLE, name, labels, scene, answers(asked, scene), kept)


def ask_again(name: str, labels: str) -> None:
    """Ask the map that a row was measured with; what is known of its building stays."""
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    known, scene = measured(TABLE, labels)[name], kitchen(labels)
    kept = {key: known[key] for key in ("minutes", "map_mb", "told", "frames", "flags", "encoder_mb") if key in known}
    record(TABLE, name, labels, scene, answers(load_map(MAPS / f"{name}-{labels}.map"), scene), kept)


def line(found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    return [
        found["told"],
        str(found["frames"]),
        str(found["answered"]),
        f"{found['cm']:.2f}",
        f"{found['deg']:.3f}",
        *(f"{found['recalls'][key]:.1f}" for key in SHOWN),
        *(
            shown(found, key, lambda value: f"{value:.1f}")
            for key in ("map_mb", "encoder_mb", "minutes", "ms", "ms_p95")
        ),
    ]


def page() -> None:
    """Write the section."""
    lines = []
    for labels in ("sfm", "kinectfusion"):
        known = measured(TABLE, labels)
        lines += [f"Red kitchen, {labels} labels, RGB queries, 300 test frames:", ""]
        lines += [*markdown(HEADER, [line(known[name]) for name in rows() if name in known]), ""]
    put("coordinates", lines)


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="rows to measure; all of them where none is named")
    parser.add_argument("--labels", choices=("sfm", "kinectfusion"), help="one ground truth only")
    parser.add_argument("--again", action="store_true", help="measure rows that are measured already")
    parser.add_argument("--ask", action="store_true", help="build nothing, ask the maps of measured rows again")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    for labels in () if asked.page else ("sfm", "kinectfusion"):
        for name, row in rows().items():
            wanted = labels in row.labels and asked.labels in (None, labels) and (not asked.rows or name in asked.rows)
            known = name in measured(TABLE, labels)
            if wanted and asked.ask and known:
                ask_again(name, labels)
            elif wanted and not asked.ask and (asked.again or not known):
                measure(name, row, labels)
    page()


if __name__ == "__main__":
    main()
