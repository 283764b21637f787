"""What is known of the uncertainty of maps, as docs/benchmarks.md and docs/uncertainty.svg tell it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from page import ROOT, markdown, put
from uncertainty_maps import BUILT, COMBINED, LABELS, SYSTEMS

from placecell.atomic import write_text
from placecell.damage import told

MEASURED = ROOT / "benchmarks" / "measured" / "uncertainty"
PICTURE = ROOT / "docs" / "uncertainty.svg"
FIGURES = ("rank_distance", "rank_angle", "ause_distance", "ause_angle", "nees_median", "calibration_error")
HEADS = ("cm", "deg", "rank cm", "rank deg", "AUSE cm", "AUSE deg", "NEES median", "ECE Σ", "ECE confidence")


def known(name: str, part: str) -> dict[str, Any]:
    """A part that was measured; empty when it was not."""
    path = MEASURED / f"{name}-{part}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def page() -> None:
    """Write the section and the picture."""
    lines: list[str] = []

    def table(told: str, head: Sequence[str], rows: Iterator[list[str]]) -> None:
        if found := list(rows):
            lines.extend([told, "", *markdown(head, found), ""])

    where = f"Red kitchen, {LABELS} labels, 300 test frames"
    table(f"{where}; the radii are for 90 %:", ["map", *HEADS, "in radius", "in angle"], reliability_rows())
    table(
        "Share of the truths within the radii, by test sequence (position, angle):",
        ["map", "sequence-03", "sequence-06", "sequence-09"],
        sequence_rows(),
    )
    table(f"{where}, as taken and damaged at random:", ACCEPTING, accepting_rows())
    table("Test frames told from pictures of elsewhere:", PLACES, place_rows())
    for name, system in SYSTEMS.items():
        head = ["pictures", "predicted cm", "true cm", "confidence", "answered"]
        table(f"{system.told}, every sixth test frame ever more damaged:", head, damage_rows(name))
    table("Accuracy of members and of what is made of them:", ACCURACY, accuracy_rows())
    put("uncertainty", lines or ["Not measured yet.", ""])
    write_text(PICTURE, picture())


def _cell(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def reliability_rows() -> Iterator[list[str]]:
    """Two lines a map: what it says by itself, and calibrated."""
    for name, system in SYSTEMS.items():
        found = known(name, "figures")
        for when in ("before", "after") if found else ():
            row = found[when]
            yield [
                f"{system.told}, {when}",
                _cell(found["cm"], 2),
                _cell(found["deg"]),
                *(_cell(row[key]) for key in FIGURES),
                _cell(row["confidence_error"]),
                *(_cell(row[key]) for key in ("covered_distance", "covered_angle")),
            ]


def sequence_rows() -> Iterator[list[str]]:
    """A line a map."""
    for name, system in SYSTEMS.items():
        found = known(name, "figures").get("sequences", {})
        if found:
            cells = [f"{row['covered_distance']:.2f}, {row['covered_angle']:.2f}" for row in found.values()]
            yield [system.told, *cells]


ACCEPTING = ("map", "confidence", "frames", "answered", "within 10cm/5deg", "accepted", "of these within, %")


def accepting_rows() -> Iterator[list[str]]:
    """A line a map and kind of query."""
    for name, system in SYSTEMS.items():
        found, limit = known(name, "accepting"), known(name, "figures").get("accept_at")
        for what in ("as taken", "damaged") if found else ():
            row = found[what]
            right = f"{100 * row['accepted_right'] / row['accepted']:.1f}" if row["accepted"] else "–"
            counts = [str(row[key]) for key in ("frames", "answered", "right", "accepted")]
            yield [f"{system.told}, {what}", _cell(limit), *counts, right]


PLACES = ("map: elsewhere", "known", "claimed", "answered", "AUROC familiarity", "AUROC confidence")


def place_rows() -> Iterator[list[str]]:
    """A line a map and place of elsewhere."""
    for name, system in SYSTEMS.items():
        found = known(name, "places")
        for place, row in found.get("against", {}).items():
            counts = [
                f"{found['known']}/{found['frames']}",
                f"{row['claimed']}/{row['pictures']}",
                str(row["answered"]),
            ]
            aurocs = [_cell(row[key], 4) for key in ("auroc_familiarity", "auroc_confidence")]
            yield [f"{system.told}: {place}", *counts, *aurocs]


def damage_rows(name: str) -> Iterator[list[str]]:
    """A line a kind and level; a median among the refused is without end."""
    for row in known(name, "damage").get("rows", []):
        what = f"{row['kind']}, {told(row['kind'], row['level'])}" if row["level"] else f"{row['kind']}, none"
        lengths = ["∞" if row[key] is None else _cell(row[key], 2) for key in ("sigma_cm", "cm")]
        yield [what, *lengths, _cell(row["confidence"]), f"{row['answered']}/{row['frames']}"]


ACCURACY = ("map", "cm", "deg", "5cm/5deg", "10cm/5deg")


def accuracy_rows() -> Iterator[list[str]]:
    """A line a map."""
    for name in (*BUILT, *COMBINED):
        if row := known(name, "accuracy"):
            recalls = [f"{row['recalls'][key]:.1f}" for key in ("5cm/5deg", "10cm/5deg")]
            yield [name, _cell(row["cm"], 2), _cell(row["deg"]), *recalls]


SIDE, GAP, LEFT, TOP = 190.0, 46.0, 52.0, 26.0
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#52525b}.name{font-weight:600}.box{fill:none;stroke:#d4d4d8}"
    ".even{stroke:#a1a1aa;stroke-dasharray:4 4}.dots{fill:none;stroke:#2563eb;stroke-width:3;stroke-linecap:round;"
    "stroke-opacity:.55}@media(prefers-color-scheme:dark){text{fill:#a1a1aa}.box{stroke:#3f3f46}.dots{stroke:#60a5fa}}"
)


def picture() -> str:
    """True position error over predicted, a square a map, both logarithmic, as SVG."""
    shown = [
        (system.told, known(name, "figures")["pairs"]) for name, system in SYSTEMS.items() if known(name, "figures")
    ]
    columns = 3
    width = LEFT + columns * (SIDE + GAP)
    height = TOP + max(1, -(-len(shown) // columns)) * (SIDE + GAP + 20)
    parts = [f"<style>{STYLE}</style>"]
    for index, (name, pairs) in enumerate(shown):
        x, y = LEFT + index % columns * (SIDE + GAP), TOP + index // columns * (SIDE + GAP + 20)
        parts.append(f'<g transform="translate({x:.0f} {y:.0f})">{_square(name, pairs)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="true error over predicted error">{"".join(parts)}</svg>\n'
    )


def _square(name: str, pairs: Sequence[Sequence[float]]) -> str:
    values = 100 * np.maximum(np.array(pairs)[:, [2, 0]], 1e-6)  # predicted and true, cm
    low, high = 10 ** np.floor(np.log10(np.quantile(values, 0.01))), 10 ** np.ceil(np.log10(values.max()))
    at = np.clip(SIDE * np.log(values / low) / np.log(high / low), 0, SIDE)
    dots = "".join(f"M{a:.1f} {SIDE - b:.1f}h0" for a, b in at)
    ticks = [10.0**power for power in range(int(np.log10(low)), int(np.log10(high)) + 1)]
    parts = [
        f'<text class="name" y="-8">{name}</text><rect class="box" width="{SIDE}" height="{SIDE}"/>',
        f'<line class="even" x1="0" y1="{SIDE}" x2="{SIDE}" y2="0"/><path class="dots" d="{dots}"/>',
        f'<text x="{SIDE / 2}" y="{SIDE + 30}" text-anchor="middle">predicted, cm</text>',
        f'<text transform="translate(-34 {SIDE / 2})rotate(-90)" text-anchor="middle">true, cm</text>',
    ]
    for tick in ticks:
        place = SIDE * np.log(tick / low) / np.log(high / low)
        parts.append(f'<text x="{place:.1f}" y="{SIDE + 15}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="-6" y="{SIDE - place + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return "".join(parts)
