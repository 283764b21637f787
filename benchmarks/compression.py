"""Accuracy against megabytes, into docs/benchmarks.md and docs/compression.svg.

    python benchmarks/compression.py                            structure maps that are not measured yet, then the page
    python benchmarks/compression.py --validation               the same, built without sequences 04 and 08, asked there
    python benchmarks/compression.py --again points-600         a row anew
    python benchmarks/compression.py --map coordinates=FOLDER   a map made elsewhere as a row, by any name
    python benchmarks/compression.py --page                     the page alone, from what is measured

All structure maps are made of one triangulation, which takes minutes; each row then takes as long as its queries. A row
keeps its figures in benchmarks/measured/compression/ with the day and the versions they were measured with. Needs the
real frames ($PLACECELL_DATA, default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from core import answers, judged, kitchen
from page import ROOT, markdown, put, stamp

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.families.structure import Structure
from placecell.families.structure.building import Evidence, assembled, triangulated
from placecell.localizer import load_info, map_bytes, wants_depth
from placecell.scene import Scene

MEASURED = ROOT / "benchmarks" / "measured" / "compression"
PICTURE = ROOT / "docs" / "compression.svg"
SHOWN = ("1cm/1deg", "2cm/2deg", "5cm/5deg")
HEADER = ("map", "MB", "points", "bytes a descriptor", "words", "answered", "cm", "deg", *SHOWN, "ms")
HELD_OUT = ("seq-04", "seq-08")


def rows() -> dict[str, Structure]:
    """Maps from the largest to the smallest: each way of saving alone, then all together."""
    alone = {
        "all": Structure(),
        **{f"codes-{size}": Structure(code_bytes=size) for size in (64, 32, 16, 8)},  # type: ignore[arg-type]
        **{f"points-{count}": Structure(points=count) for count in (20_000, 5_000, 2_500, 1_500, 600)},
        **{f"words-{count}": Structure(words=count) for count in (16, 8)},
    }
    together = {
        f"{points}-{size}-{words}": Structure(points=points, code_bytes=size, words=words)  # type: ignore[arg-type]
        for points, size, words in (
            (20_000, 32, 16),
            (10_000, 32, 16),
            (5_000, 32, 8),
            (5_000, 16, 8),
            (2_500, 32, 0),
            (2_500, 16, 0),
            (1_500, 32, 0),
            (1_500, 16, 0),
            (1_000, 16, 0),
            (600, 32, 0),
            (300, 32, 0),
        )
    }
    return alone | together


def place(part: str) -> Scene:
    """The kitchen as it is, or its training frames alone with two sequences of them to ask."""
    scene = kitchen("sfm")
    if part == "test":
        return scene
    train = scene.split("train").frames
    frames = tuple(replace(frame, split="test" if frame.sequence in HELD_OUT else "train") for frame in train)
    return replace(scene, frames=frames, points=None)


@cache
def evidence(part: str) -> Evidence:
    """What all structure maps are made of."""
    return triangulated(Structure(), place(part), seed=0, log=Terminal())


def measure(name: str, settings: Structure, part: str) -> None:
    """Make the map, save it, load it as a user would, ask it."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "map"
        assembled(settings, place(part), evidence(part), seed=0).save(made)
        record(name, made, part)


def record(name: str, folder: Path, part: str) -> None:
    """Ask a map, and keep its figures."""
    scene, localizer, info = place(part), load_map(folder), load_info(folder)
    found = judged(scene, answers(localizer, scene, depth=wants_depth(localizer)))
    overall = found.overall
    told: dict[str, Any] = {
        "row": name,
        "family": info.family,
        "map_mb": map_bytes(folder) / 1e6,
        "answered": overall.answered,
        "frames": overall.frames,
        "cm": 100 * overall.median_distance,
        "deg": overall.median_angle_deg,
        "recalls": {key: 100 * value for key, value in overall.recalls.items()},
        "ms": None if found.seconds_median is None else 1e3 * found.seconds_median,
        "config": {key: value for key, value in info.config.items() if key != "weights"},
        "stamp": stamp(),
    }
    if info.family == "structure":
        told["points"] = len(localizer.cloud())  # type: ignore[attr-defined]
    write_text(MEASURED / part / f"{name}.json", json.dumps(told, indent=1) + "\n")
    print(
        f"{part} {name}: {told['map_mb']:.2f} MB, {told['cm']:.2f} cm, {told['recalls']['1cm/1deg']:.1f} %", flush=True
    )


def measured(part: str) -> list[dict[str, Any]]:
    """What is known so far, the largest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (MEASURED / part).glob("*.json")]
    return sorted(found, key=lambda row: (row["family"] != "structure", -row["map_mb"], row["row"]))


def line(row: dict[str, Any]) -> list[str]:
    """One line of a table."""
    config, structure = row["config"], row["family"] == "structure"
    return [
        "structure" if structure else row["row"],
        f"{row['map_mb']:.2f}",
        f"{row['points']}" if structure else "–",
        f"{config['code_bytes']}" if structure else "–",
        ("none" if Structure(**config).at_once else f"{config['words']}") if structure else "–",
        f"{row['answered']}/{row['frames']}",
        f"{row['cm']:.2f}",
        f"{row['deg']:.3f}",
        *(f"{row['recalls'][key]:.1f}" for key in SHOWN),
        "–" if row["ms"] is None else f"{row['ms']:.0f}",
    ]


def page() -> None:
    """Write the tables and the picture."""
    lines = []
    for part, told in (
        ("test", "700 training and 300 test frames"),
        ("validation", "built from 500 training frames, asked the 200 others (sequences 04 and 08)"),
    ):
        known = measured(part)
        if known:
            lines += [f"Red kitchen, sfm labels, {told}:", "", *markdown(HEADER, map(line, known)), ""]
    put("compression", lines)
    write_text(PICTURE, picture(measured("test")))


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640.0, 360.0, 56.0, 120.0, 24.0, 44.0
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#52525b}.grid{stroke:#e4e4e7}.structure{fill:#2563eb}"
    ".coordinates{fill:#d97706}.forest{fill:#059669}.name{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#a1a1aa}.grid{stroke:#3f3f46}.structure{fill:#60a5fa}"
    ".coordinates{fill:#fbbf24}.forest{fill:#34d399}}"
)


def picture(known: Sequence[dict[str, Any]], *, shown: str = "1cm/1deg") -> str:
    """Share of the test frames within a threshold over the size of the map, one colour a family, as SVG."""
    sizes = [row["map_mb"] for row in known] or [1.0]
    low, high = 10 ** np.floor(np.log10(min(sizes))), 10 ** np.ceil(np.log10(max(*sizes, 2 * min(sizes))))
    worst = min([row["recalls"][shown] for row in known] or [0.0])
    floor = 10 * np.floor(worst / 10)

    def x(size: float) -> float:
        return float(LEFT + np.log(size / low) / np.log(high / low) * (WIDTH - LEFT - RIGHT))

    def y(share: float) -> float:
        return float(HEIGHT - BOTTOM - (share - floor) / (100 - floor) * (HEIGHT - TOP - BOTTOM))

    parts = [f"<style>{STYLE}</style>"]
    step = 2 if floor >= 90 else 10 if floor >= 40 else 20
    for share in np.arange(100, floor - 1e-9, -step):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0f} %</text>')
    for size in (base * 10.0**power for power in range(-3, 4) for base in (1, 2, 5)):
        if low <= size <= high:
            parts.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{size:g}</text>')
    for row in known:
        told = f"{row['row']}: {row['map_mb']:.2f} MB, {row['recalls'][shown]:.1f} %, {row['cm']:.2f} cm"
        where = f'cx="{x(row["map_mb"]):.1f}" cy="{y(row["recalls"][shown]):.1f}"'
        parts.append(f'<circle class="{row["family"]}" {where} r="4.5"><title>{told}</title></circle>')
    for index, family in enumerate(dict.fromkeys(row["family"] for row in known)):
        top = TOP + 20 * index
        parts.append(f'<circle class="{family}" cx="{WIDTH - RIGHT + 18}" cy="{top}" r="4.5"/>')
        parts.append(f'<text class="name" x="{WIDTH - RIGHT + 28}" y="{top + 4}">{family}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">map, MB</text>')
    parts.append(f'<text x="{LEFT - 44}" y="14">test frames within {shown.replace("/", " and ")}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" '
        f'aria-label="accuracy against the size of the map">{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="rows to measure; all of them where none is named")
    parser.add_argument("--validation", action="store_true", help="on held-out training sequences, to choose by")
    parser.add_argument("--again", action="store_true", help="measure rows that are measured already")
    parser.add_argument("--map", action="append", default=[], metavar="NAME=FOLDER", help="ask a map that is there")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    part = "validation" if asked.validation else "test"
    for given in asked.map:
        name, _, folder = given.partition("=")
        record(name, Path(folder), part)
    known = {row["row"] for row in measured(part)}
    for name, settings in {} if asked.page or asked.map else rows().items():
        if (not asked.rows or name in asked.rows) and (asked.again or name not in known):
            measure(name, settings, part)
    page()


if __name__ == "__main__":
    cv2.setNumThreads(2)
    main()
