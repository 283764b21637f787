"""Figures as a reader wants them, and text that cannot break a page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence


def text(value: object) -> str:
    """Any value as HTML text, with <, >, &, " and ' harmless."""
    return html.escape(str(value), quote=True)


def length(value: float, unit: str) -> str:
    """A length in mm, cm or m for metric scenes, three digits; ∞ when infinite."""
    if not math.isfinite(value):
        return "∞"
    if unit != "m":
        return f"{value:.3g} {unit}"
    for limit, factor, name in ((0.01, 1000.0, "mm"), (1.0, 100.0, "cm")):
        if value < limit:
            return f"{_digits(value * factor)} {name}"
    return f"{_digits(value)} m"


def round_length(value: float, unit: str) -> str:
    """A length at a tick of an axis, where the value is round: 1 mm, 50 cm."""
    if unit != "m":
        return f"{value:g}"
    for limit, factor, name in ((0.00999, 1000.0, "mm"), (0.999, 100.0, "cm")):
        if value < limit:
            return f"{value * factor:g} {name}"
    return f"{value:g} m"


def angle(value_deg: float) -> str:
    """An angle in degrees, two decimals below ten."""
    return f"{value_deg:.2f}°" if value_deg < 10 else f"{value_deg:.1f}°"


def duration(seconds: float) -> str:
    """Milliseconds below a second, else seconds."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def size(count: float) -> str:
    """Bytes in kB or MB (powers of ten)."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def threshold(name: str) -> str:
    """`5cm/5deg` as `5 cm, 5°`."""
    distance, angle_part = name.split("/")
    for unit in ("cm", "m"):
        if distance.endswith(unit):
            return f"{distance.removesuffix(unit)} {unit}, {angle_part.removesuffix('deg')}°"
    return name


def html_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, marks: Sequence[str] = (), kind: str = ""
) -> str:
    """A table of text, then figures; cells are HTML already, `marks` and `kind` the classes of rows and table."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = []
    for index, (first, *others) in enumerate(rows):
        mark = f' class="{marks[index]}"' if index < len(marks) and marks[index] else ""
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        body.append(f'<tr{mark}><th scope="row">{first}</th>{cells}</tr>')
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
