"""Pictures of sides that are multiples of more than a cell."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.families.coordinates.cells import asked_cells, camera_seen, cell_pixels

USUAL = Camera(640, 480, 525.0, 525.0, 322.0, 238.0)


@pytest.mark.parametrize("whole", [8, 16])
@pytest.mark.parametrize("size", [(640, 480), (648, 472), (1920, 1080), (100, 77)])
def test_sides_are_multiples_and_rays_stay(size: tuple[int, int], whole: int) -> None:
    camera = Camera.from_focal(*size, 0.8 * max(size))
    seen = camera_seen(camera, USUAL, whole=whole)
    assert seen.width % whole == seen.height % whole == 0
    assert abs(seen.fx / USUAL.fx - 1) < 0.01 or seen.width * seen.height * 4 >= USUAL.width * USUAL.height
    pixels = camera.project(seen.rays(cell_pixels(seen)))
    inside = camera.contains(pixels)
    assert inside.mean() > 0.98
    np.testing.assert_allclose(camera.rays(pixels)[inside], seen.rays(cell_pixels(seen))[inside], atol=1e-9)


def test_a_picture_smaller_than_a_multiple_is_one() -> None:
    assert camera_seen(Camera.from_focal(10, 9, 525.0), USUAL, whole=16).width == 16


@pytest.mark.parametrize(("width", "height"), [(64, 48), (47, 33), (8, 8), (17, 40)])
def test_the_cells_that_are_asked_are_the_white_ones_of_a_chessboard(width: int, height: int) -> None:
    camera = Camera.from_focal(width, height, 50.0)
    asked = asked_cells(camera)
    columns, rows = np.round((cell_pixels(camera)[asked] - cell_pixels(camera)[0]) / 8).astype(int).T
    assert ((columns + rows) % 2 == 0).all() and len(set(asked.tolist())) == len(asked)
    assert len(asked) == -(-(width // 8) * (height // 8) // 2)
