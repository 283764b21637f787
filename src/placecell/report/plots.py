"""Charts of two quantities as SVG text, coloured by the page's style sheet: lines over shares, and clouds of points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from placecell.pose import Array
from placecell.report.ramp import round_ticks
from placecell.report.wording import text

_WIDTH, _HEIGHT = 420.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 12.0, 12.0, 50.0

Shown = Callable[[float], str]


class Dot(NamedTuple):
    """A point of a cloud or a line."""

    x: float
    y: float
    note: str
    colour: str | None = None
    radius: float = 3.0


def shares(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    title: str,
    across: str,
    up: str,
    *,
    dots: Sequence[Dot] = (),
    diagonal: bool = False,
) -> str:
    """Lines through x and y between 0 and 1, a legend in their titles; `dots` lie on top.

    Args:
        across, up: what the axes are.
        diagonal: draw where both are equal.
    """
    parts = [_linear_axes(across, up)]
    if diagonal:
        parts.append(_polyline("ideal", np.array([[0.0, 0.0], [1.0, 1.0]]), "equal"))
    for index, (name, (x, y)) in enumerate(series.items()):
        points = np.column_stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
        parts.append(_polyline(f"series s{min(index, 4)}", points, name))
    parts += [_dot(dot, _across(dot.x), _up(dot.y)) for dot in dots]
    return _figure(title, "".join(parts))


def cloud(dots: Sequence[Dot], title: str, across: str, up: str, shown: Shown) -> str:
    """Points of two lengths on logarithmic axes of one scale, with the line where they are equal."""
    values = np.array([(dot.x, dot.y) for dot in dots if dot.x > 0 and dot.y > 0]).reshape(-1, 2)
    if not len(values):
        return ""
    low, high = np.percentile(values, (0.5, 99.5))
    low, high = float(low) / 1.5, float(max(high, 10 * low)) * 1.5

    def share(value: float) -> float:
        return float(np.clip(np.log(max(value, 1e-300) / low) / np.log(high / low), 0.0, 1.0))

    parts = []
    for tick in round_ticks(low, high):
        x, y, label = _across(share(tick)), _up(share(tick)), text(shown(tick))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        parts.append(f'<line class="grid" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" x1="{x:.1f}" x2="{x:.1f}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{label}</text>')
    parts += [_names(across, up), _polyline("ideal", np.array([[0.0, 0.0], [1.0, 1.0]]), "as predicted")]
    parts += [_dot(dot, _across(share(dot.x)), _up(share(dot.y))) for dot in dots]
    return _figure(title, "".join(parts))


def _across(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _up(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _linear_axes(across: str, up: str) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y, label = _across(share), _up(share), f"{100 * share:.0f}&#8201;%"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        end = "end" if share == 1 else "middle"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="{end}">{label}</text>')
    return "".join(parts) + _names(across, up)


def _names(across: str, up: str) -> str:
    middle, height = (_LEFT + _WIDTH - _RIGHT) / 2, (_HEIGHT - _BOTTOM + _TOP) / 2
    return (
        f'<text class="tick" x="{middle:.0f}" y="{_HEIGHT - 10:.0f}" text-anchor="middle">{text(across)}</text>'
        f'<text class="tick" transform="translate(13 {height:.0f}) rotate(-90)" text-anchor="middle">{text(up)}</text>'
    )


def _polyline(kind: str, points: Array, name: str) -> str:
    path = " ".join(f"{_across(float(x)):.1f},{_up(float(np.clip(y, 0, 1))):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"><title>{text(name)}</title></polyline>'


def _dot(dot: Dot, x: float, y: float) -> str:
    colour = ' class="bin"' if dot.colour is None else f' fill="{dot.colour}"'
    return f'<circle{colour} cx="{x:.1f}" cy="{y:.1f}" r="{dot.radius:.1f}"><title>{text(dot.note)}</title></circle>'


def _figure(title: str, body: str) -> str:
    return (
        f'<figure><figcaption>{text(title)}</figcaption><svg class="chart" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" '
        f'role="img" aria-label="{text(title)}">{body}</svg></figure>'
    )
