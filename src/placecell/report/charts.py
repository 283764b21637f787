"""Charts as SVG text, coloured by the page's style sheet: cumulative curves, histograms, the errors frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from placecell.metrics import Curve
from placecell.report.judged import Judged
from placecell.report.ramp import REFUSED, Ramp, round_ticks
from placecell.report.wording import angle, length, text

_WIDTH, _HEIGHT = 420.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 12.0, 38.0

Shown = Callable[[float], str]


def cumulative(curves: Mapping[str, Curve], title: str, shown: Shown, marks: Sequence[float] = ()) -> str:
    """Share of the asked frames below an error, a line for each entry of `curves`, on a logarithmic axis.

    Args:
        shown: how an error is written.
        marks: errors to draw a faint upright at.
    """
    finite = [error for curve in curves.values() for error in curve.errors if error > 0]
    if not finite:
        return _frame(title, '<text class="tick" x="210" y="135" text-anchor="middle">no frame was answered</text>')
    low = max(min(finite), max(finite) * 1e-6)
    high = max(max(finite), low * 10)
    parts = [_axes(low, high, shown)]
    parts += [
        f'<line class="mark" x1="{_x(mark, low, high):.1f}" x2="{_x(mark, low, high):.1f}" y1="{_TOP}" '
        f'y2="{_HEIGHT - _BOTTOM}"/>'
        for mark in marks
        if low < mark < high
    ]
    for index, (name, curve) in enumerate(reversed(list(curves.items()))):
        parts.append(_line(name, curve, low, high, len(curves) - 1 - index))
    return _frame(title, "".join(parts))


def histogram(errors: Sequence[float], title: str, shown: Shown, ticks: Shown, ramp: Ramp) -> str:
    """How many frames have which error: logarithmic bins in the colours of the ramp, the median as an upright."""
    values = np.array([error for error in errors if np.isfinite(error) and error > 0])
    if not len(values):
        return _frame(title, '<text class="tick" x="210" y="135" text-anchor="middle">no frame was answered</text>')
    low, high = float(values.min()), float(max(values.max(), values.min() * 10))
    edges = np.geomspace(low, high, 33)
    counts, _ = np.histogram(np.clip(values, low, high * (1 - 1e-12)), edges)
    floor, room = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP - 22
    parts = [_ticks_below(low, high, ticks)]
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        x, tall = _x(left, low, high), room * count / counts.max()
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{floor - tall:.1f}" width="{_x(right, low, high) - x - 1:.1f}" '
            f'height="{tall:.1f}" fill="{ramp.colour(float(np.sqrt(left * right)))}">'
            f"<title>{text(shown(left))} to {text(shown(right))}: {count} frames</title></rect>"
        )
    middle = float(np.median(errors))
    if low < middle < high:
        x = _x(middle, low, high)
        parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{floor}"/>')
        side, anchor = (6, "start") if x < _WIDTH * 0.6 else (-6, "end")
        label = f"median {text(shown(middle))}"
        parts.append(f'<text class="label" x="{x + side:.1f}" y="{_TOP + 11}" text-anchor="{anchor}">{label}</text>')
    return _frame(title, "".join(parts))


def strip(judged: Sequence[Judged], ramp: Ramp, unit: str) -> str:
    """The error of every frame in order, a bar each; bars carry `data-frame` for the 3-D view to follow."""
    width, tall = 1000.0, 64.0
    each = width / max(len(judged), 1)
    bars = []
    for index, item in enumerate(judged):
        distance = item.error.distance
        share = 0.12 + 0.88 * ramp.level(distance) if np.isfinite(distance) else 1.0
        colour = ramp.colour(distance)
        note = f"{item.frame.name}: {length(distance, unit)}, {angle(item.error.angle_deg)}"
        if item.answer is None:
            note = f"{item.frame.name}: {item.estimate.reason}"
        faint = ' opacity=".35"' if colour == REFUSED else ""
        bars.append(
            f'<rect data-frame="{index}" x="{index * each:.2f}" y="{tall * (1 - share):.1f}" width="{each * 1.02:.2f}" '
            f'height="{tall * share:.1f}" fill="{colour}"{faint}><title>{text(note)}</title></rect>'
        )
    return (
        f'<svg class="strip" viewBox="0 0 {width:.0f} {tall:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="error of each frame in order">{"".join(bars)}</svg>'
    )


def _frame(title: str, body: str) -> str:
    return (
        f'<figure><figcaption>{text(title)}</figcaption><svg class="chart" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" '
        f'role="img" aria-label="{text(title)}">{body}</svg></figure>'
    )


def _x(error: float, low: float, high: float) -> float:
    share = np.log(max(error, low) / low) / np.log(high / low)
    return float(_LEFT + min(share, 1.0) * (_WIDTH - _LEFT - _RIGHT))


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _axes(low: float, high: float, shown: Shown) -> str:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share * 100:.0f}&#8201;%</text>'
        )
    return "".join(lines) + _ticks_below(low, high, shown)


def _ticks_below(low: float, high: float, shown: Shown) -> str:
    floor = _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>']
    last = -1e9
    for tick in round_ticks(low, high):
        x = _x(tick, low, high)
        if x - last < 50 or x > _WIDTH - 24:
            continue
        last = x
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        label = text(shown(tick))
        parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 19}" text-anchor="middle">{label}</text>')
    return "".join(parts)


def _line(name: str, curve: Curve, low: float, high: float, index: int) -> str:
    if not curve.errors:
        return ""
    points = [(_x(curve.errors[0], low, high), _y(0.0))]
    points += [(_x(error, low, high), _y(share)) for error, share in zip(curve.errors, curve.shares, strict=True)]
    points.append((_WIDTH - _RIGHT, points[-1][1]))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="series s{min(index, 4)}" points="{path}"><title>{text(name)}</title></polyline>'
