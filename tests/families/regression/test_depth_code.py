from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from placecell.camera import Camera
from placecell.families.regression.depth_code import MIDDLE_M, encode_depth
from placecell.pose import Array

CAMERA = Camera(64, 48, 50.0, 55.0, 30.0, 25.0)


def plane(normal: Array, offset: float, camera: Camera = CAMERA) -> Array:
    """Depth of the plane normal . x = offset."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    depth: Array = offset / (camera.rays(np.stack([columns, rows], axis=-1)) @ normal)
    return depth


class TestEncodeDepth:
    @pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.3, 0.0), (0.0, -0.4), (-0.2, 0.3)])
    def test_a_plane_has_its_normal_towards_the_camera(self, tilt: tuple[float, float]) -> None:
        normal = np.array([*tilt, -np.sqrt(1 - tilt[0] ** 2 - tilt[1] ** 2)])
        code = encode_depth(plane(normal, -2.0), CAMERA)
        # Differences at a border are one-sided, and on a plane as right as the others.
        assert_allclose(code[..., :2], np.broadcast_to(normal[:2], (48, 64, 2)), atol=1e-5)

    def test_a_floor_points_up(self) -> None:
        floor = plane(np.array([0.0, -0.8, -0.6]), -1.5)  # y is down
        assert (encode_depth(floor, CAMERA)[..., 1] < -0.5).all()

    def test_without_a_camera_it_is_one_of_53_degrees(self) -> None:
        depth = plane(np.array([0.3, 0.1, -0.9]), -2.0)
        assert_allclose(encode_depth(depth), encode_depth(depth, Camera.from_focal(64, 48, 64)))

    def test_depth_runs_from_minus_one_to_one(self) -> None:
        depth = np.array([[1e-6, 0.5, MIDDLE_M, 8.0, 1e6]] * 2)
        code = encode_depth(depth)
        assert_allclose(code[0, :, 2], [-1, -0.6, 0, 0.6, 1], atol=1e-5)
        assert code.dtype == np.float32 and code.shape == (2, 5, 3)

    def test_missing_depth_is_no_distance_and_harms_only_its_neighbours(self) -> None:
        whole = plane(np.array([0.3, 0.1, -0.9]), -2.0)
        holed = whole.copy()
        for row, column, nothing in ((5, 5, 0.0), (20, 30, np.nan), (40, 60, np.inf), (30, 10, -1.0)):
            holed[row, column] = nothing
        code, full = encode_depth(holed, CAMERA), encode_depth(whole, CAMERA)
        assert np.isfinite(code).all()
        assert_allclose(code[20, 30], [0, 0, -1])
        assert_allclose(code[20, 31, :2], [0, 0])
        assert_allclose(code[20, 31, 2], full[20, 31, 2])
        assert_allclose(code[20, 32], full[20, 32])

    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2)])
    def test_pictures_of_a_pixel(self, size: tuple[int, int]) -> None:
        code = encode_depth(np.full(size, 2.0))
        assert code.shape == (*size, 3) and np.isfinite(code).all()
