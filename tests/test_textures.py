"""Textures have the size asked for, follow their seed, and hold something to find."""

from __future__ import annotations

import numpy as np
import pytest

from placecell import textures
from placecell.textures import Paint

PAINTS: dict[str, Paint] = {
    "plain": textures.plain((200, 190, 180), 0.03),
    "wood": textures.wood((150, 110, 70)),
    "bricks": textures.bricks,
    "wallpaper": textures.wallpaper,
    "painting": textures.painting,
    "poster": textures.poster,
    "books": textures.books,
    "cardboard": textures.cardboard,
    "pasted": textures.pasted(textures.bricks, ((textures.poster, 0.2, 0.1, 0.5, 0.6),), 200),
}


@pytest.mark.parametrize("name", PAINTS)
@pytest.mark.parametrize("size", [(210, 160), (33, 250), (8, 8), (300, 9)])
def test_size_and_kind(name: str, size: tuple[int, int]) -> None:
    texture = PAINTS[name](np.random.default_rng(0), *size)
    assert texture.shape == (size[1], size[0], 3)
    assert texture.dtype == np.uint8


@pytest.mark.parametrize("name", PAINTS)
def test_the_seed_decides(name: str) -> None:
    first, again, other = (PAINTS[name](np.random.default_rng(seed), 210, 160) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.05
    assert first.std() > 1


def test_plaster_is_blander_than_a_painting() -> None:
    rng = np.random.default_rng(0)
    contrast = [float(PAINTS[name](rng, 200, 200).std(axis=(0, 1)).mean()) for name in ("plain", "painting")]
    assert 3 * contrast[0] < contrast[1]


def test_noise_has_unit_variance_and_no_tilt() -> None:
    field = textures.noise(np.random.default_rng(0), 300, 200, (20, 5))
    assert field.shape == (200, 300)
    assert field.std() == pytest.approx(1, abs=1e-3)
    assert abs(float(field.mean())) < 0.5


def test_pasted_things_lie_where_they_are_put() -> None:
    red = textures.plain((250, 0, 0), 0.0)
    canvas = textures.pasted(textures.plain((200, 200, 200), 0.0), ((red, 0.5, 0.2, 0.3, 0.4),), 100)(
        np.random.default_rng(0), 120, 90
    )
    rows, columns = np.nonzero(canvas[..., 1] == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 59, 50, 79)


def test_darken_works_in_place_and_off_the_edge() -> None:
    canvas = np.full((50, 60, 3), 200, np.uint8)
    textures.darken(canvas, 20, 10, 40, 30, 0.5, 2)
    assert canvas[20, 30, 0] == pytest.approx(100, abs=2)
    assert canvas[45, 5, 0] == 200
    textures.darken(canvas, -30, -30, -20, -20, 0.5, 2)
    assert canvas[45, 5, 0] == 200
