"""What a forest asks of a pixel, against a pixel-by-pixel reading of the paper's formula."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.families.coordinates.forest.features import (
    COLOUR,
    DEPTH,
    EDGE_MM,
    FARTHEST_MM,
    GROUPS,
    Pixels,
    Planes,
    Probes,
    respond,
)

CAMERA = Camera(40, 30, 50.0, 60.0, 21.0, 14.0)


def pictures(count: int = 3) -> Planes:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (count, 4, 30, 40)).astype(np.int16)
    values[:, 3] = rng.integers(500, 4000, (count, 30, 40))
    return Planes(CAMERA, values)


def some_pixels(count: int = 200) -> Pixels:
    rng = np.random.default_rng(1)
    place = rng.uniform((0, 0), (40, 30), (count, 2)).astype(np.float32)
    zoom_px = (50.0 / rng.uniform(0.5, 4.0, count)).astype(np.float32)
    return Pixels(rng.integers(0, 3, count).astype(np.int32), place[:, 0], place[:, 1], zoom_px)


def by_the_formula(planes: Planes, pixels: Pixels, probes: Probes, probe: int, pixel: int) -> int:
    """I(p + δ₁ f / D, c₁) − I(p + δ₂ f / D, c₂), each place the nearest one inside the picture."""
    depth_m = CAMERA.fx / float(pixels.zoom_px[pixel])
    read = []
    for offset, plane in zip(probes.offset[probe].astype(float), probes.plane[probe], strict=True):
        u_px = pixels.u_px[pixel] + CAMERA.fx * offset[0] / depth_m
        v_px = pixels.v_px[pixel] + CAMERA.fy * offset[1] / depth_m
        column, row = int(np.clip(np.floor(u_px), 0, 39)), int(np.clip(np.floor(v_px), 0, 29))
        read.append(int(planes.values[pixels.picture[pixel], plane, row, column]))
    return int(np.clip(read[0] - read[1], -EDGE_MM, EDGE_MM))


@pytest.mark.parametrize("features", GROUPS)
def test_every_pixel_is_asked_as_the_formula_says(features: str) -> None:
    planes, pixels = pictures(), some_pixels()
    probes = Probes.draw(GROUPS[features], 12, 0.22, np.random.default_rng(2))
    values = respond(planes, pixels, probes.take((slice(None), None)))
    assert values.shape == (12, 200)
    expected = [[by_the_formula(planes, pixels, probes, f, m) for m in range(200)] for f in range(12)]
    assert np.mean(values == expected) > 0.995  # a place may lie on the border of two pixels, to float32's precision
    assert np.ptp(values) > 100


def test_a_pixel_may_be_asked_a_question_of_its_own() -> None:
    planes, pixels = pictures(), some_pixels()
    probes = Probes.draw((COLOUR, DEPTH), 12, 0.22, np.random.default_rng(2))
    mine = np.random.default_rng(3).integers(0, 12, 200)
    everything = respond(planes, pixels, probes.take((slice(None), None)))
    np.testing.assert_array_equal(respond(planes, pixels, probes.take(mine)), everything[mine, np.arange(200)])


def test_a_surface_answers_the_same_from_twice_as_far() -> None:
    near = np.random.default_rng(0).integers(0, 256, (1, 3, 60, 80)).astype(np.int16)
    far = np.repeat(np.repeat(near, 2, axis=2), 2, axis=3)[:, :, ::2, ::2][:, :, :60, :80]
    large = np.repeat(np.repeat(near, 2, axis=2), 2, axis=3)
    probes = Probes.draw((COLOUR,), 20, 0.2, np.random.default_rng(1)).take((slice(None), None))
    u_px, v_px = (np.random.default_rng(2).uniform(20, 40, (2, 50)) // 1 + 0.25).astype(np.float32)
    zero, zoom = np.zeros(50, np.int32), np.full(50, 40.0, np.float32)
    here = respond(Planes(Camera.from_focal(80, 60, 80.0), far), Pixels(zero, u_px, v_px, zoom), probes)
    twice = Pixels(zero, 2 * u_px, 2 * v_px, 2 * zoom)  # the same camera at half the distance
    np.testing.assert_array_equal(respond(Planes(Camera.from_focal(160, 120, 80.0), large), twice, probes), here)


def test_planes_are_compared_within_their_group_only() -> None:
    probes = Probes.draw((COLOUR, DEPTH), 4000, 0.1, np.random.default_rng(0))
    is_depth = probes.plane == 3
    assert (is_depth[:, 0] == is_depth[:, 1]).all()
    assert 0.45 < is_depth[:, 0].mean() < 0.55
    assert {tuple(pair) for pair in probes.plane[~is_depth[:, 0]].tolist()} == {
        (a, b) for a in range(3) for b in range(3)
    }
    assert 0.095 < np.abs(probes.offset).max() <= 0.1001


def test_the_two_places_of_a_feature_have_nothing_to_do_with_each_other() -> None:
    """The only public code lends the second offset's v to the first."""
    offset = Probes.draw((COLOUR,), 4000, 1.0, np.random.default_rng(0)).offset.reshape(-1, 4).astype(float)
    correlation = np.corrcoef(offset.T)
    assert np.abs(correlation - np.eye(4)).max() < 0.06


def test_depth_is_kept_in_millimetres_and_nothing_measured_is_far() -> None:
    depth_m = np.full((30, 40), 1.5, np.float32)
    depth_m[0, 0], depth_m[0, 1], depth_m[0, 2] = np.nan, 0.75, 1e6
    planes = Planes.of(CAMERA, np.full((30, 40, 3), 7, np.uint8), depth_m)
    assert planes.values.shape == (1, 4, 30, 40)
    assert planes.values[0, 3, 0, :4].tolist() == [FARTHEST_MM, 750, FARTHEST_MM, 1500]
    assert (planes.values[0, :3] == 7).all()
    assert Planes.of(CAMERA, np.zeros((30, 40, 3), np.uint8)).values.shape == (1, 3, 30, 40)
