"""What several trees say together, and the picture of it that a second forest reads."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.families.coordinates.forest.features import COLOUR, CONTEXT, Pixels, Planes, Probes, respond
from placecell.families.coordinates.forest.growing import Growing, Samples, grow
from placecell.families.coordinates.forest.leaves import Remembering, remember
from placecell.families.coordinates.forest.stages import Stage

CAMERA = Camera.from_focal(50, 37, 60.0)


def painted(colours: list[int]) -> Planes:
    """Pictures of one colour."""
    values = np.array(colours, np.int16)[:, None, None, None] * np.ones((1, 3, 37, 50), np.int16)
    return Planes(CAMERA, values.astype(np.int16))


def saying(place: tuple[float, float, float], sure: float = 1.0) -> Stage:
    """One tree of one leaf that says the same of every pixel, with some of its samples elsewhere."""
    count = 200
    points = np.tile(np.array(place, np.float32), (count, 1))
    points[: round((1 - sure) * count)] += np.float32(5)
    pixels = Pixels(np.zeros(count, np.int32), *np.full((3, count), 10, np.float32))
    how = Growing((COLOUR,), 0.2, 4, 3, 5)
    grown = grow(painted([9]), Samples(pixels, points), how, np.random.default_rng(0))
    return Stage((grown.tree,), (remember(points[grown.order], grown.border, Remembering(0.05, 3)),))


def together(*stages: Stage) -> Stage:
    return Stage(sum((s.trees for s in stages), ()), sum((s.leaves for s in stages), ()))


THREE = together(saying((1.0, 2.0, 3.0)), saying((1.5, -2.0, 3.5)), saying((1.2, 9.0, 0.0)))


def test_trees_answer_side_by_side() -> None:
    pixels = Pixels(np.zeros(7, np.int32), *np.full((3, 7), 10, np.float32))
    found = together(saying((1, 2, 3), sure=0.8), saying((-1, 0, 0))).modes(painted([9]), pixels, 2, 0.05)
    assert found.points.shape == (7, 4, 3)
    np.testing.assert_allclose(found.points[3], [[1, 2, 3], [6, 7, 8], [-1, 0, 0], found.points[3, 3]], atol=1e-3)
    np.testing.assert_allclose(found.weight[3], [0.4, 0.1, 0.5, 0.0], atol=3e-3)
    assert found.weight.sum(axis=1).max() <= 1


def test_a_coordinate_image_is_the_median_over_the_trees_in_thousandths_of_the_unit() -> None:
    found = THREE.read(painted([9, 70]), unit=0.5, threads=2)
    assert found.values.shape == (2, 7, 37, 50)
    assert (found.values[0, :3] == 9).all() and (found.values[1, :3] == 70).all()
    for axis, expected in enumerate((2400, 4000, 6000)):
        assert np.abs(found.values[:, 3 + axis] - expected).max() <= 1
    assert (found.values[:, 6] == 0).all()


def test_a_tree_is_not_asked_about_pictures_it_has_learned_from() -> None:
    known = np.array([[True, False, True], [True, True, True], [False, True, True]])
    found = THREE.read(painted([9, 9, 9]), unit=1.0, known=known).values[:, 3, 0, 0]
    np.testing.assert_allclose(found, [1200, 1000, 1200], atol=1)  # the last one: all trees, as all know it


def test_coordinates_beyond_what_16_bits_hold_are_at_the_end() -> None:
    found = together(saying((100.0, -100.0, 0.0))).read(painted([9]), unit=1.0)
    assert found.values[0, 3:6, 0, 0].tolist() == [16_000, -16_000, 0]
    assert np.abs(respond(found, _corner(), _between(3, 4))) == 32_000


def test_a_second_forest_may_ask_for_a_coordinate_itself_and_for_differences() -> None:
    probes = Probes.draw((COLOUR, *CONTEXT), 4000, 0.1, np.random.default_rng(0))
    pairs = {tuple(pair) for pair in probes.plane.tolist()}
    for plane in (3, 4, 5):
        assert {(plane, plane), (plane, 6), (6, plane)} <= pairs
    assert not {(3, 4), (0, 3), (4, 5)} & pairs
    found = THREE.read(painted([9]), unit=1.0)
    assert respond(found, _corner(), _between(4, 6)) == pytest.approx(2000, abs=1)
    assert respond(found, _corner(), _between(4, 4)) == 0


def _corner() -> Pixels:
    return Pixels(np.zeros(1, np.int32), *np.ones((3, 1), np.float32))


def _between(first: int, second: int) -> Probes:
    return Probes(np.zeros((1, 2, 2), np.float16), np.array([[first, second]], np.uint8))


def test_a_coordinate_image_shows_where_each_part_of_a_picture_looks() -> None:
    """Two halves of different colour, learned apart: smooth inside, an edge at their border."""
    values = np.full((1, 3, 37, 50), 30, np.int16)
    values[:, 0, :, 25:] = 200
    planes = Planes(CAMERA, values)
    rng = np.random.default_rng(0)
    u_px, v_px = rng.uniform((0, 0), (50, 37), (2000, 2)).T.astype(np.float32)
    points = np.stack([np.where(u_px < 25, -1.0, 1.0), 0 * u_px, 0 * u_px], axis=-1).astype(np.float32)
    samples = Samples(Pixels(np.zeros(2000, np.int32), u_px, v_px, np.full(2000, 60, np.float32)), points)
    grown = grow(planes, samples, Growing((COLOUR,), 0.2, 30, 10, 2), rng)
    stage = Stage((grown.tree,), (remember(points[grown.order], grown.border, Remembering(0.05, 2)),))
    found = stage.read(planes, unit=1.0).values[0, 3]
    assert (found[:, :20] == -1000).mean() > 0.98 and (found[:, 30:] == 1000).mean() > 0.98
