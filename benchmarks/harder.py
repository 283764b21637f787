"""Maps asked harder pictures, into docs/benchmarks.md: darkened, blurred, covered, turned, through another lens.

    python benchmarks/harder.py structure=kitchen.map learned=coordinates.map    what is not measured yet, then the page
    python benchmarks/harder.py structure=kitchen.map --kinds night blur         of these kinds alone
    python benchmarks/harder.py --page                                           the page alone, from what is measured

Each map is asked test frames of the red kitchen with the labels it was built from, one row a kind and level of
`placecell.damage`. A kind takes minutes, so each keeps its figures in benchmarks/measured/harder/LABELS/NAME/KIND.json
and is measured again when the map, the levels or the frames are others. Needs the real frames ($PLACECELL_DATA,
default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from core import kitchen
from page import ROOT, markdown, put, stamp

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.damage import LEVELS, Kind, damaged, told, truth
from placecell.errors import MapError, PlacecellError
from placecell.estimate import Query
from placecell.images import load_query
from placecell.localizer import Localizer, load_info, map_bytes, map_fingerprint, wants_depth
from placecell.metrics import evaluate
from placecell.run import Asked, localize_all
from placecell.scene import Frame, Scene

MEASURED = ROOT / "benchmarks" / "measured" / "harder"
LABELS = ("sfm", "kinectfusion")
AS_TAKEN = "as-taken"
ASKED: dict[str, tuple[Kind, tuple[float, ...]]] = {
    AS_TAKEN: ("blur", (0.0,)),  # of any kind, level 0 is the picture itself
    **{kind: (kind, levels) for kind, levels in LEVELS.items()},
}
SEED = 0
THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))


class Exam(NamedTuple):
    """A map, and the frames it is asked."""

    name: str
    folder: Path
    localizer: Localizer
    scene: Scene
    every: int

    @property
    def frames(self) -> tuple[Frame, ...]:
        """One of every `every` test frames."""
        return self.scene.split("test").posed[:: self.every]

    @property
    def identity(self) -> dict[str, Any]:
        """What tells figures of this map and these frames from others."""
        return {
            "name": self.name,
            "family": load_info(self.folder).family,
            "map": map_fingerprint(self.folder),
            "labels": self.scene.labels,
            "scene": self.scene.fingerprint,
            "every": self.every,
            "seed": SEED,
        }


def exam(name: str, folder: Path, every: int) -> Exam:
    """A map with the kitchen it was built from, whatever that was called.

    Raises:
        MapError: it is of another place; of another choice of its frames, it may have seen what it is asked.
    """
    info = load_info(folder)
    if info.labels not in LABELS:
        raise MapError(f"{folder}: labels {info.labels}, not one of {', '.join(LABELS)}; build it from the red kitchen")
    scene = kitchen(info.labels)
    if info.scene_fingerprint != replace(scene, name=info.scene).fingerprint:
        raise MapError(
            f"{folder}: built from scene {info.scene} with other frames than the red kitchen of $PLACECELL_DATA, "
            f"{info.labels} labels, has; build it from that"
        )
    return Exam(name, folder, load_map(folder), scene, every)


def figures(asked: Exam, kind: Kind, level: float) -> dict[str, Any]:
    """How the map answers at one level; a median is None where half of the frames or more have no answer."""
    frames, depth = asked.frames, wants_depth(asked.localizer)

    def loader(frame: Frame) -> Callable[[], Query]:
        return lambda: damaged(load_query(asked.scene, frame, depth=depth), kind, level, seed=SEED)

    answers = list(localize_all(asked.localizer, [Asked(frame.name, loader(frame)) for frame in frames]))
    truths = {
        frame.name: truth(frame.world_from_cam, kind, level) for frame in frames if frame.world_from_cam is not None
    }
    overall = evaluate(answers, truths, scene=asked.scene.name, labels=asked.scene.labels).overall
    answered = np.isfinite(overall.median_distance)
    return {
        "level": level,
        "frames": overall.frames,
        "answered": overall.answered,
        "cm": 100 * overall.median_distance if answered else None,
        "deg": overall.median_angle_deg if answered else None,
        "recalls": {key: 100 * value for key, value in overall.recalls.items()},
    }


def measure(asked: Exam, name: str, *, again: bool = False) -> None:
    """Keep the figures of one of `ASKED` at all its levels, unless they are known."""
    path = MEASURED / asked.scene.labels / asked.name / f"{name}.json"
    kind, levels = ASKED[name]
    if not again and path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        same = all(known.get(key) == value for key, value in asked.identity.items())
        if same and [row["level"] for row in known["rows"]] == list(levels):
            return
    rows = []
    for level in levels:
        rows.append(figures(asked, kind, level))
        print(f"{asked.name} {name} {level:g}: {line(rows[-1])}", flush=True)
    told_too = {"kind": name, "map_mb": map_bytes(asked.folder) / 1e6, "threads": THREADS, "stamp": stamp()}
    write_text(path, json.dumps({**asked.identity, **told_too, "rows": rows}, indent=1) + "\n")


def line(row: dict[str, Any] | None) -> list[str]:
    """The cells of one map at one level."""
    if row is None:
        return ["", "", ""]
    median = "–" if row["cm"] is None else f"{row['cm']:.1f} / {row['deg']:.2f}"
    return [median, f"{row['recalls']['5cm/5deg']:.0f}", f"{100 * row['answered'] / row['frames']:.0f}"]


def measured(labels: str, every: int) -> dict[str, dict[tuple[str, float], dict[str, Any]]]:
    """What is known so far of these frames: rows by map, then by kind and level."""
    found: dict[str, dict[tuple[str, float], dict[str, Any]]] = {}
    for path in sorted((MEASURED / labels).glob("*/*.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["every"] == every:
            rows = found.setdefault(known["name"], {})
            rows |= {(known["kind"], row["level"]): row for row in known["rows"]}
    return found


def table(known: dict[str, dict[tuple[str, float], dict[str, Any]]]) -> Iterator[list[str]]:
    """Lines of cells: what was done to the pictures, then each map."""
    places: list[tuple[str, tuple[str, float]]] = [("as taken", (AS_TAKEN, 0.0))]
    places += [(f"{kind}, {told(kind, level)}", (kind, level)) for kind, levels in LEVELS.items() for level in levels]
    for what, place in places:
        if any(place in rows for rows in known.values()):
            yield [what, *(cell for rows in known.values() for cell in line(rows.get(place)))]


def page(every: int) -> None:
    """Write the section."""
    lines: list[str] = []
    for labels in LABELS:
        known = measured(labels, every)
        if not known:
            continue
        count = max(row["frames"] for rows in known.values() for row in rows.values())
        header = [
            "pictures",
            *(f"{name}: {what}" for name in known for what in ("cm / deg", "5cm/5deg %", "answered %")),
        ]
        lines += [f"Red kitchen, {labels} labels, {count} test frames, one of every {every}:", ""]
        lines += [*markdown(header, table(known)), ""]
    put("harder", lines or ["Not measured yet.", ""])


def named(text: str) -> tuple[str, Path]:
    """`name=folder` as its two parts."""
    name, sign, folder = text.partition("=")
    if not (name and sign and folder) or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=folder")
    return name, Path(folder)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", nargs="*", type=named, help="maps to ask, as name=folder")
    parser.add_argument("--kinds", nargs="+", choices=ASKED, default=list(ASKED))
    parser.add_argument("--every", type=int, default=10, help="ask one of so many test frames")
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args(words)
    cv2.setNumThreads(THREADS)
    try:
        for name, folder in [] if given.page else given.maps:
            asked = exam(name, folder, given.every)
            for kind in given.kinds:
                measure(asked, kind, again=given.again)
    except PlacecellError as error:
        parser.exit(1, f"{error}\n")
    page(given.every)


if __name__ == "__main__":
    main()
