"""Scene coordinate forests on real frames, into docs/benchmarks.md.

    python benchmarks/forests.py                  what is not measured yet, then the page
    python benchmarks/forests.py --again da-rgb   a row anew
    python benchmarks/forests.py hypotheses       pre-emptive RANSAC by its number of hypotheses
    python benchmarks/forests.py --page           the page alone, from what is measured

A row takes minutes on two cores, so each keeps its figures in benchmarks/measured/forests/ with the day and the
versions they were measured with. Needs the real frames ($PLACECELL_DATA, default ../shared/data); the rows of networks
need the `[train]` extra.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import cv2
import numpy as np
from core import answers, judged, kitchen
from page import ROOT, markdown, put, stamp

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.estimate import Query
from placecell.families.coordinates.forest.config import Forest
from placecell.families.coordinates.forest.localizer import ForestMap
from placecell.families.coordinates.preemptive import Found, Guesses, preemptive_kabsch, preemptive_pnp
from placecell.images import load_query
from placecell.localizer import map_bytes
from placecell.pose import pose_error
from placecell.scene import Scene

T = TypeVar("T")
MEASURED = ROOT / "benchmarks" / "measured" / "forests"
THRESHOLDS = ("1cm/1deg", "2cm/2deg", "5cm/5deg", "10cm/5deg")
HEADER = ("system", "answered", "cm", "deg", *THRESHOLDS, "NEES", "ms", "ms p95", "map MB", "build min")
HYPOTHESES = (64, 128, 256, 512, 1024)
_TIMED = 50
"""Test frames that RANSAC is timed on."""


@dataclass(frozen=True)
class Row:
    """What is built, and with how many of its trees it is asked."""

    settings: Forest
    told: str
    labels: str = "kinectfusion"
    trees: tuple[int, ...] = (5,)


def systems() -> dict[str, Row]:
    """The papers' systems; their names are those of the files."""
    some = (1, 2, 3, 5)
    return {
        "da-rgb": Row(Forest(features="da-rgb"), "DA-RGB", trees=some),
        "da-rgb+d": Row(Forest(features="da-rgb+d"), "DA-RGB + D", trees=some),
        "depth": Row(Forest(features="depth"), "depth alone"),
        "network-da-rgb": Row(Forest(features="da-rgb", predictor="network"), "DA-RGB, network", trees=()),
        "network-da-rgb+d": Row(Forest(features="da-rgb+d", predictor="network"), "DA-RGB + D, network", trees=()),
        "rgb": Row(Forest(features="rgb", auto_context=False), "RGB", "sfm"),
        "rgb-context": Row(Forest(features="rgb"), "RGB, auto-context", "sfm"),
        "network-rgb": Row(Forest(features="rgb", predictor="network"), "RGB, network", "sfm", trees=()),
    }


class Clock(Terminal):
    """Tells when each tree stood."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.perf_counter()
        self.minutes: list[float] = []

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items; those that are trees timed."""
        for item in super().track(items, what, total):
            yield item
            if what == "growing trees":
                self.minutes.append((time.perf_counter() - self.began) / 60)


def measure(name: str, row: Row) -> None:
    """Build, save, load, ask, judge; one record a number of trees."""
    scene, clock = kitchen(row.labels), Clock()
    built = row.settings.build(scene, seed=0, log=clock)
    minutes = (time.perf_counter() - clock.began) / 60
    kept = {"told": row.told, "minutes": minutes}
    if not row.trees:
        record(name, scene, built, kept)
    for count in row.trees:
        word = "tree" if count == 1 else "trees"
        own = {**kept, "told": f"{row.told}, {count} {word}"}
        if count < row.settings.trees:
            own["minutes"] = clock.minutes[count - 1]
        record(f"{name}-{count}", scene, fewer(built, count), own)


def fewer(built: ForestMap, count: int) -> ForestMap:
    """The map as it was with its first trees only."""
    wanted = np.arange(built.family.trees) < count
    stages = tuple(stage.only(wanted) for stage in built.stages)
    family = replace(built.family, trees=count)
    info = replace(built.info, config={**built.info.config, "trees": count})
    return replace(built, family=family, info=info, stages=stages)


def record(name: str, scene: Scene, built: ForestMap, kept: dict[str, Any]) -> None:
    """Ask a map as a user would, and keep the figures."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "map"
        built.save(path)
        size = map_bytes(path) / 1e6
        found = judged(scene, answers(load_map(path), scene, depth=built.wants_depth))
    overall = found.overall
    told = {
        "row": name,
        "labels": scene.labels,
        "answered": f"{overall.answered}/{overall.frames}",
        "cm": 100 * overall.median_distance,
        "deg": overall.median_angle_deg,
        "recalls": {key: 100 * value for key, value in overall.recalls.items()},
        "nees": None if found.nees is None else found.nees.median,
        "ms": None if found.seconds_median is None else 1e3 * found.seconds_median,
        "ms_p95": None if found.seconds_p95 is None else 1e3 * found.seconds_p95,
        "map_mb": size,
        **kept,
        "stamp": stamp(),
    }
    write_text(MEASURED / f"{name}.json", json.dumps(told, indent=1) + "\n")
    recall = told["recalls"]["5cm/5deg"]
    print(f"{name}: {told['cm']:.2f} cm {told['deg']:.3f} deg, {recall:.1f} % 5cm/5deg, {size:.1f} MB", flush=True)


def hypotheses() -> None:
    """How long pre-emptive RANSAC takes, and what it finds, by its number of hypotheses; on the guesses of forests."""
    rows = [row for name, labels in (("da-rgb+d", "kinectfusion"), ("rgb", "sfm")) for row in timed(name, labels)]
    write_text(MEASURED / "hypotheses.json", json.dumps({"rows": rows, "stamp": stamp()}, indent=1) + "\n")


def timed(name: str, labels: str) -> list[dict[str, Any]]:
    """One line a number of hypotheses."""
    scene = kitchen(labels)
    built = systems()[name].settings.build(scene, seed=0, log=Terminal())
    asked = scene.split("test").posed
    some = asked[:: max(1, len(asked) // _TIMED)]
    queries = [load_query(scene, frame, depth=built.wants_depth) for frame in some]
    guesses = [built.guesses(query) for query in queries]
    lines = []
    for count in HYPOTHESES:
        seconds, off = [], []
        for frame, query, guessed in zip(some, queries, guesses, strict=True):
            if isinstance(guessed, str) or frame.world_from_cam is None:
                continue
            start = time.perf_counter()
            found = solved(built, guessed, query, count)
            seconds.append(time.perf_counter() - start)
            pose = None if found.world_from_cam is None else built.world_from_anchor @ found.world_from_cam
            off.append(pose_error(pose, frame.world_from_cam))
        distance, angle = np.array(off).T
        lines.append(
            {
                "solver": "preemptive_kabsch" if built.wants_depth else "preemptive_pnp",
                "hypotheses": count,
                "ms": 1e3 * float(np.median(seconds)),
                "ms_p95": 1e3 * float(np.quantile(seconds, 0.95)),
                "cm": 100 * float(np.median(distance)),
                "deg": float(np.median(angle)),
                "recall": 100 * float(((distance < 0.05) & (angle < 5)).mean()),
            }
        )
    return lines


def solved(built: ForestMap, guesses: Guesses, query: Query, count: int) -> Found:
    """RANSAC as the map does it, with a number of hypotheses."""
    settings = built.family
    if guesses.points_cam is not None:
        return preemptive_kabsch(guesses, hypotheses=count, max_error_m=settings.max_error_m, seed=0)
    return preemptive_pnp(guesses, query.camera, hypotheses=count, max_error_px=settings.max_error_px, seed=0)


def measured() -> dict[str, dict[str, Any]]:
    """What is known so far."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(MEASURED.glob("*.json"))}


def line(found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    nees = found.get("nees")
    return [
        found["told"],
        found["answered"],
        f"{found['cm']:.2f}",
        f"{found['deg']:.3f}",
        *(f"{found['recalls'][key]:.1f}" for key in THRESHOLDS),
        "–" if nees is None else f"{nees:.1f}",
        f"{found['ms']:.0f}",
        f"{found['ms_p95']:.0f}",
        f"{found['map_mb']:.1f}",
        f"{found['minutes']:.1f}",
    ]


def page() -> None:
    """Write the section."""
    known, lines = measured(), []
    for labels, told in (("kinectfusion", "queries with depth"), ("sfm", "queries without depth")):
        rows = [line(known[key]) for key in _keys(labels) if key in known]
        lines += [f"Red kitchen, {labels} labels, 700 training and 300 test frames, {told}:", ""]
        lines += [*markdown(HEADER, rows), ""]
    if "hypotheses" in known:
        cells = [
            (
                row["solver"],
                row["hypotheses"],
                f"{row['ms']:.0f}",
                f"{row['ms_p95']:.0f}",
                f"{row['cm']:.2f}",
                f"{row['deg']:.3f}",
                f"{row['recall']:.1f}",
            )
            for row in known["hypotheses"]["rows"]
        ]
        header = ("pre-emptive RANSAC", "hypotheses", "ms", "ms p95", "cm", "deg", "5cm/5deg")
        lines += [f"RANSAC alone, on what five trees guess of {_TIMED} test frames:", "", *markdown(header, cells)]
    put("forests", lines)


def _keys(labels: str) -> Sequence[str]:
    """The files of the rows with these labels."""
    rows = {name: row for name, row in systems().items() if row.labels == labels}
    return [key for name, row in rows.items() for key in keys(name, row)]


def keys(name: str, row: Row) -> list[str]:
    """The files of a row."""
    return [f"{name}-{count}" for count in row.trees] or [name]


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="rows to measure; all of them where none is named")
    parser.add_argument("--again", action="store_true", help="measure rows that are measured already")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    cv2.setNumThreads(2)
    for name, row in () if asked.page else systems().items():
        missing = [key for key in keys(name, row) if key not in measured()]
        if (not asked.rows or name in asked.rows) and (asked.again or missing):
            measure(name, row)
    wanted = not asked.page and (not asked.rows or "hypotheses" in asked.rows)
    if wanted and (asked.again or "hypotheses" not in measured()):
        hypotheses()
    page()


if __name__ == "__main__":
    main()
