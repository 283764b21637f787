"""What a cascade saves, into docs/benchmarks.md: `make bench-uncertainty`.

    python benchmarks/cascade.py whole=structure.map 1500=small.map --guides coordinates=fast.map regression=pose.map

Structure maps of the red kitchen are asked its test frames as they are, and guided by each of other maps, in one run.
Finding features takes the same either way and is timed apart: what is left is retrieval, matching, RANSAC and
refinement. Needs the real frames ($PLACECELL_DATA, default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from core import judged, kitchen
from harder import named
from page import ROOT, markdown, put, stamp

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.errors import MapError
from placecell.estimate import Estimate, Query
from placecell.families.structure import StructureMap
from placecell.images import load_query
from placecell.scene import Scene
from placecell.sift import Sift

MEASURED = ROOT / "benchmarks" / "measured" / "cascade.json"
HEADER = (
    "asked",
    "cm",
    "deg",
    "1cm/1deg",
    "searched everything",
    "first map ms",
    "matching to pose ms",
    "p95",
    "share",
)


class Watch:
    """Times what is called through it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds kept."""

        def timed(*given: Any, **more: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*given, **more)
            finally:
                self.seconds.append(time.perf_counter() - start)

        return timed


def asked(scene: Scene, first: Any, answer: Callable[[Query, Estimate | None], Estimate]) -> dict[str, Any]:
    """How the test frames are answered, and what of the time is not the finding of features."""
    features, whole, answers, cheap, rest = Watch(), Watch(), [], [], []
    detect, search = Sift.detect, StructureMap._search
    try:
        Sift.detect = features.around(detect)  # type: ignore[method-assign]
        StructureMap._search = whole.around(search)  # type: ignore[method-assign]
        for frame in scene.split("test").posed:
            query = load_query(scene, frame)
            prior = None if first is None else first.localize([query])[0]
            found = answer(query, prior)
            answers.append(found)
            cheap.append(0.0 if prior is None else prior.seconds or 0.0)
            rest.append((found.seconds or 0.0) - features.seconds[-1])
    finally:
        Sift.detect, StructureMap._search = detect, search  # type: ignore[method-assign]
    overall = judged(scene, answers).overall
    return {
        "cm": 100 * overall.median_distance,
        "deg": overall.median_angle_deg,
        "recall": 100 * overall.recalls["1cm/1deg"],
        "searched": len(whole.seconds),
        "frames": len(answers),
        "cheap_ms": 1e3 * float(np.median(cheap)),
        "ms": 1e3 * float(np.median(rest)),
        "ms_p95": 1e3 * float(np.quantile(rest, 0.95)),
    }


def measure(maps: Sequence[tuple[str, Path]], guides: Sequence[tuple[str, Path]]) -> None:
    """One line for each map alone, and one guided by each other map."""
    scene, rows = kitchen("sfm"), {}
    for name, folder in maps:
        found = load_map(folder, calibrated=False)
        if not isinstance(found, StructureMap):
            raise MapError(f"{folder}: not of family structure, which alone can be guided")
        for frame in scene.split("test").posed[:3]:
            found.localize([load_query(scene, frame)])  # what is loaded at first use
        rows[f"{name}, alone"] = asked(scene, None, partial(_alone, found))
        for guide, other in guides:
            rows[f"{name}, guided by {guide}"] = asked(scene, load_map(other), partial(_guided, found))
    write_text(MEASURED, json.dumps({"rows": rows, "stamp": stamp()}, indent=1) + "\n")


def _alone(found: StructureMap, query: Query, _: Estimate | None) -> Estimate:
    return found.localize([query])[0]


def _guided(found: StructureMap, query: Query, prior: Estimate | None) -> Estimate:
    return found.localize_near([query], [] if prior is None else [prior])[0]


def page() -> None:
    """Write the section."""
    if not MEASURED.is_file():
        put("cascade", ["Not measured yet.", ""])
        return
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]
    alone = next(iter(rows.values()))["ms"]
    lines = [
        (
            name,
            f"{row['cm']:.2f}",
            f"{row['deg']:.3f}",
            f"{row['recall']:.1f}",
            f"{row['searched']} of {row['frames']}",
            f"{row['cheap_ms']:.0f}",
            f"{row['ms']:.1f}",
            f"{row['ms_p95']:.1f}",
            f"{row['ms'] / alone:.2f}",
        )
        for name, row in rows.items()
    ]
    put("cascade", ["Red kitchen, sfm labels, 300 test frames, two threads:", "", *markdown(HEADER, lines), ""])


def main(words: Sequence[str] | None = None) -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", nargs="*", type=named, help="structure maps, as name=folder; the first is the measure")
    parser.add_argument("--guides", nargs="*", type=named, default=[], help="maps that guide them, as name=folder")
    given = parser.parse_args(words)
    cv2.setNumThreads(2)
    if given.maps:
        measure(given.maps, given.guides)
    page()


if __name__ == "__main__":
    main()
