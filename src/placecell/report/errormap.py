"""The place seen from above, every answered frame in the colour of its error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from placecell.pose import Array
from placecell.report.judged import Judged, ground_axes
from placecell.report.ramp import Ramp, round_ticks
from placecell.report.wording import angle, length, round_length, text
from placecell.scene import Scene, centres, sequences

WIDTH = 720.0
_MARGIN = 26.0


def error_map(scene: Scene, judged: Sequence[Judged], ramp: Ramp) -> str:
    """Truths as dots in the colour of their distance error, hair lines to the answers, crosses for refused frames."""
    axes = ground_axes([frame.world_from_cam for frame in scene.posed if frame.world_from_cam is not None])[:2]
    truths = np.array([item.truth.translation for item in judged]) @ axes.T
    paths = [centres(group) @ axes.T for group in sequences([f for f in scene.posed if f.split == "train"]).values()]
    page = Plane(np.vstack([truths, *paths]))
    parts = [f'<polyline class="trainpath" points="{page.line(path)}"/>' for path in paths]
    for item, at in zip(judged, truths, strict=True):
        if item.answer is not None:
            (x1, y1), (x2, y2) = page.at(at), page.at(axes @ item.answer.translation)
            if np.hypot(x2 - x1, y2 - y1) > 1.5:
                colour = ramp.colour(item.error.distance)
                parts.append(
                    f'<line class="miss" stroke="{colour}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
                )
    parts += [
        _dot(index, item, *page.at(at), ramp, scene.unit)
        for index, (item, at) in enumerate(zip(judged, truths, strict=True))
    ]
    parts.append(page.scale_bar(scene.unit))
    return (
        "<figure><figcaption>Error map, from above</figcaption>"
        f'<svg class="map" viewBox="0 0 {WIDTH:.0f} {page.height:.0f}" role="img" '
        f'aria-label="errors over the place, seen from above">{"".join(parts)}</svg></figure>'
    )


def _dot(index: int, item: Judged, x: float, y: float, ramp: Ramp, unit: str) -> str:
    if item.answer is None:
        note = text(f"{item.frame.name}: {item.estimate.reason}")
        cross = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"
        return f'<path class="cross" data-frame="{index}" d="{cross}"><title>{note}</title></path>'
    note = text(f"{item.frame.name}: {length(item.error.distance, unit)}, {angle(item.error.angle_deg)}")
    return (
        f'<circle data-frame="{index}" cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{ramp.colour(item.error.distance)}">'
        f"<title>{note}</title></circle>"
    )


class Plane:
    """Where points (N, 2) of a plane lie on a drawing of it, its second axis up, with room for a line below."""

    def __init__(self, points: Array) -> None:
        self._low, high = points.min(axis=0), points.max(axis=0)
        extent = np.maximum(high - self._low, max(float((high - self._low).max()) * 1e-3, 1e-9))
        self._scale = float(min((WIDTH - 2 * _MARGIN) / extent[0], 460.0 / extent[1]))
        self._left = (WIDTH - self._scale * extent[0]) / 2
        self.height = self._scale * extent[1] + 2 * _MARGIN + 22

    def at(self, point: Array) -> tuple[float, float]:
        """x and y on the drawing."""
        x, y = (point - self._low) * self._scale
        return float(self._left + x), float(self.height - 22 - _MARGIN - y)

    def line(self, points: Array) -> str:
        """The points of an SVG polyline."""
        return " ".join("{:.1f},{:.1f}".format(*self.at(point)) for point in points)

    def scale_bar(self, unit: str) -> str:
        """A round length in the room below, for a plane of lengths."""
        longest = 180.0 / self._scale
        ticks = round_ticks(longest / 10, longest)
        size = ticks[-1] if ticks else longest
        y, right = self.height - 12, _MARGIN + size * self._scale
        return (
            f'<path class="axis" d="M{_MARGIN} {y - 4:.1f}v8m0 -4H{right:.1f}m0 -4v8"/>'
            f'<text class="tick" x="{right + 8:.1f}" y="{y + 4:.1f}">{text(round_length(size, unit))}</text>'
        )
