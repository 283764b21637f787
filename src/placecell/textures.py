"""Procedural surfaces for the synthetic place: plaster, bricks, planks, posters, books, boxes.

Every texture is RGB uint8 (H, W, 3) of the size asked for, drawn from a `numpy` generator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.uint8]
Colour = tuple[float, float, float]
Paint = Callable[[np.random.Generator, int, int], Texture]

_WORDS = (
    "place cell north south home map walk light stone river cloud paper lamp open quiet market green sound seven "
    "winter coffee radio garden ticket museum train letter harbour atlas signal number window copper"
)


def noise(rng: np.random.Generator, width: int, height: int, cells_px: Sequence[float]) -> NDArray[np.float32]:
    """(H, W) sum of smooth random fields of these cell sizes, coarse ones stronger, of unit variance."""
    total = np.zeros((height, width), np.float32)
    for cell in cells_px:
        grid = rng.normal(size=(int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
        total += cell**0.4 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / max(float(total.std()), 1e-6)


def plain(colour: Colour, grain: float) -> Paint:
    """Painted plaster or fabric: one colour with faint stains and grain."""

    def paint(rng: np.random.Generator, width: int, height: int) -> Texture:
        stains, fine = noise(rng, width, height, (180, 60)), noise(rng, width, height, (9, 4, 2))
        return _tinted(colour, 1 + np.float32(0.8 * grain) * stains + np.float32(0.7 * grain) * fine)

    return paint


def wood(colour: Colour) -> Paint:
    """Boards of a hand's width, stretched grain, a dark gap between them."""

    def paint(rng: np.random.Generator, width: int, height: int) -> Texture:
        board = 45
        grain = cv2.resize(noise(rng, max(8, width // 14), height, (6, 2.5)), (width, height))
        shade = 1 + 0.06 * grain + 0.02 * noise(rng, width, height, (3, 2))
        for top in range(0, height, board):
            shade[top : top + board] *= rng.uniform(0.8, 1.12)
            shade[top : top + 2] *= 0.45
            left = int(rng.integers(0, width))
            shade[top : top + board, left : left + 2] *= 0.5
        return _tinted(colour, shade)

    return paint


def bricks(rng: np.random.Generator, width: int, height: int) -> Texture:
    """A running bond of near-equal bricks: the repeated texture that matchers trip over."""
    wide, high, joint = 92, 36, 4
    shade = np.full((height, width), 1.0, np.float32)
    mortar = np.ones((height, width), bool)
    for row, top in enumerate(range(0, height, high)):
        for left in range(-(row % 2) * wide // 2, width, wide):
            block = np.s_[top : top + high - joint, max(left, 0) : max(left + wide - joint, 0)]
            shade[block] = rng.uniform(0.82, 1.12)
            mortar[block] = False
    shade *= 1 + 0.05 * noise(rng, width, height, (40, 14, 3))
    brick = _tinted((150, 88, 74), shade)
    brick[mortar] = _tinted((168, 158, 148), 1 + 0.03 * noise(rng, width, height, (6, 2)))[mortar]
    return brick


def wallpaper(rng: np.random.Generator, width: int, height: int) -> Texture:
    """The same motif every 40 cm on a pale ground."""
    motif = _flat((214, 208, 188), 140, 140)
    for _ in range(6):
        centre = tuple(int(v) for v in rng.integers(20, 120, 2))
        cv2.ellipse(motif, centre, (18, 7), float(rng.uniform(0, 180)), 0, 360, _colour(rng, 90, 180), 2, cv2.LINE_AA)
    tiled = np.tile(motif, (height // 140 + 1, width // 140 + 1, 1))[:height, :width]
    return _shaded(tiled, 1 + 0.015 * noise(rng, width, height, (120, 6, 2)))


def painting(rng: np.random.Generator, width: int, height: int) -> Texture:
    """An abstract in a frame: clouds of colour under polygons, discs and strokes."""
    ground = rng.uniform(80, 190, 3) + 24 * np.stack([noise(rng, width, height, (120, 40)) for _ in range(3)], axis=-1)
    canvas = np.clip(ground, 0, 255).astype(np.uint8)
    size = np.array([width, height])
    for _ in range(14):
        corners = (rng.uniform(0, 1, 2) + rng.normal(size=(int(rng.integers(3, 6)), 2)) * 0.16) * size
        cv2.fillPoly(canvas, [corners.astype(np.int32)], _colour(rng, 40, 215), cv2.LINE_AA)
    for _ in range(10):
        centre = tuple(int(v) for v in rng.uniform(0, 1, 2) * size)
        cv2.circle(canvas, centre, int(rng.integers(4, 28)), _colour(rng, 40, 215), int(rng.choice([-1, 2, 4])))
    canvas = _shaded(canvas, 1 + 0.03 * noise(rng, width, height, (5, 2)))
    cv2.rectangle(canvas, (0, 0), (width - 1, height - 1), _colour(rng, 20, 90), 14)
    return canvas


def poster(rng: np.random.Generator, width: int, height: int) -> Texture:
    """A printed sheet: a title, a picture, lines of text."""
    sheet = _flat(_colour(rng, 190, 250), width, height)
    ink = _colour(rng, 10, 90)
    top = int(0.16 * height)
    _write(sheet, rng, 12, int(0.7 * top), width / 190, ink, 1)
    picture = sheet[top : top + int(0.4 * height), 12 : width - 12]
    if picture.size:
        picture[:] = painting(rng, picture.shape[1], picture.shape[0])
    for line in range(top + picture.shape[0] + 18, height - 8, 15):
        _write(sheet, rng, 12, line, 0.4, ink, 3)
    return sheet


def books(rng: np.random.Generator, width: int, height: int) -> Texture:
    """A shelf: rows of spines of every width, height and colour, with titles along them."""
    shelf = _flat((64, 46, 34), width, height)
    row = 105
    for top in range(6, height - row // 2, row):
        bottom, left = min(top + row - 10, height - 4), 6
        while left < width - 14:
            thick, gap = int(rng.integers(8, 26)), int(rng.integers(0, 22))
            spine = _flat(_colour(rng, 40, 185), max(bottom - top - gap, 12), thick)
            _write(spine, rng, 5, thick // 2 + 4, 0.34, _colour(rng, 0, 255), 2)
            upright = np.rot90(spine)[:, : width - 6 - left]
            shelf[bottom - upright.shape[0] : bottom, left : left + upright.shape[1]] = upright
            left += thick + (1 if rng.random() < 0.9 else 20)
    return _shaded(shelf, 1 + 0.05 * noise(rng, width, height, (4, 2)))


def cardboard(rng: np.random.Generator, width: int, height: int) -> Texture:
    """A parcel: tape across, a printed label, a stamp of words."""
    side = plain((172, 134, 92), 0.05)(rng, width, height)
    band = int(rng.integers(height // 4, max(height // 4 + 1, 3 * height // 4)))
    side[band : band + max(4, height // 12)] = (206, 186, 150)
    wide, high = max(30, width // 2), max(24, height // 3)
    label = _flat((238, 236, 228), wide, high)
    for line in range(13, high - 4, 13):
        _write(label, rng, 4, line, 0.36, (20, 20, 30), 2)
    at_x, at_y = (int(rng.integers(0, max(1, room))) for room in (width - wide, height - high))
    part = side[at_y : at_y + high, at_x : at_x + wide]
    part[:] = label[: part.shape[0], : part.shape[1]]
    _write(side, rng, 6, height - 10, 0.9, (70, 46, 30), 1)
    return side


def pasted(paint: Paint, items: Sequence[tuple[Paint, float, float, float, float]], px_per_m: float) -> Paint:
    """A surface with other textures on it: (paint, left_m, top_m, width_m, height_m) each, with a soft shadow."""

    def paint_all(rng: np.random.Generator, width: int, height: int) -> Texture:
        canvas = paint(rng, width, height)
        for item, *metres in items:
            left, top, wide, high = (round(value * px_per_m) for value in metres)
            darken(canvas, left - 4, top - 2, left + wide + 10, top + high + 12, 0.35, 6)
            part = canvas[top : top + high, left : left + wide]
            part[:] = item(rng, wide, high)[: part.shape[0], : part.shape[1]]
        return canvas

    return paint_all


def darken(canvas: Texture, left: int, top: int, right: int, bottom: int, amount: float, soft_px: float) -> None:
    """A soft shadow over a rectangle, in place."""
    reach = int(3 * soft_px)
    x0, y0 = max(left - reach, 0), max(top - reach, 0)
    part = canvas[y0 : max(bottom + reach, 0), x0 : max(right + reach, 0)]
    if part.size == 0:
        return
    mask = np.zeros(part.shape[:2], np.float32)
    mask[max(top - y0, 0) : max(bottom - y0, 0), max(left - x0, 0) : max(right - x0, 0)] = amount
    part[:] = _shaded(part, 1 - cv2.GaussianBlur(mask, (0, 0), soft_px))


def _write(
    canvas: Texture, rng: np.random.Generator, x: int, y: int, size: float, ink: tuple[int, ...], words: int
) -> None:
    text = " ".join(str(word) for word in rng.choice(_WORDS.split(), words))
    text = text.upper() if rng.random() < 0.3 else f"{text} {rng.integers(1, 99)}"
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, ink, max(1, round(2 * size)), cv2.LINE_AA)


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _flat(colour: Sequence[float], width: int, height: int) -> Texture:
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = colour
    return canvas


def _tinted(colour: Colour, shade: NDArray[np.float32]) -> Texture:
    return np.clip(shade[..., None] * np.array(colour, np.float32), 0, 255).astype(np.uint8)


def _shaded(canvas: Texture, shade: NDArray[np.float32]) -> Texture:
    shaded: Texture = np.clip(canvas * shade[..., None], 0, 255).astype(np.uint8)
    return shaded
