from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from placecell.camera import Camera
from placecell.errors import FormatError
from placecell.pose import Array

PINHOLE = Camera(640, 480, 525.0, 530.0, 318.0, 242.5)
CAMERAS = {
    "pinhole": PINHOLE,
    "opencv4": replace(PINHOLE, model="opencv", distortion=(-0.12, 0.05, 0.002, -0.001)),
    "opencv5": replace(PINHOLE, model="opencv", distortion=(0.15, -0.2, -0.003, 0.001, 0.08)),
    "opencv8": replace(PINHOLE, model="opencv", distortion=(0.2, 0.1, 0.001, -0.002, 0.01, 0.15, 0.05, 0.002)),
    "fisheye": replace(PINHOLE, fx=250.0, fy=248.0, model="fisheye", distortion=(0.05, -0.01, 0.003, -0.0005)),
}
every_camera = pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())


def grid(camera: Camera) -> Array:
    """(7, 9, 2) pixels over the whole image, corners and principal point included."""
    u, v = np.meshgrid(np.linspace(0, camera.width, 9), np.linspace(0, camera.height, 7))
    u[3, 4], v[3, 4] = camera.cx, camera.cy
    return np.stack([u, v], axis=-1)


def points_in_view(camera: Camera, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 1, (200, 2)) * (camera.width, camera.height)
    return camera.rays(pixels) * rng.uniform(0.3, 20, (200, 1))


@every_camera
class TestLaws:
    def test_project_undoes_rays(self, camera: Camera) -> None:
        rays = camera.rays(grid(camera))
        assert_allclose(rays[..., 2], 1.0)
        assert_allclose(camera.project(rays), grid(camera), atol=1e-7)
        assert_allclose(camera.project(7.5 * rays), grid(camera), atol=1e-7)  # depth does not matter

    def test_rays_undo_project(self, camera: Camera) -> None:
        points = points_in_view(camera)
        assert_allclose(camera.rays(camera.project(points)), points / points[:, 2:], atol=1e-9)

    def test_the_axis_meets_the_principal_point(self, camera: Camera) -> None:
        assert_allclose(camera.project([0, 0, 2.0]), [camera.cx, camera.cy])
        assert_allclose(camera.rays([camera.cx, camera.cy]), [0, 0, 1], atol=1e-12)
        assert_allclose(camera.project([1e-12, 0, 1.0]), [camera.cx, camera.cy], atol=1e-8)

    def test_x_is_right_and_y_is_down(self, camera: Camera) -> None:
        u, v = camera.project([0.1, 0.05, 1.0]) - camera.project([0.0, 0.0, 1.0])
        assert u > 0
        assert v > 0

    def test_resizing_the_image_resizes_the_projection(self, camera: Camera) -> None:
        points = points_in_view(camera)
        small = camera.resized(320, 360)
        assert_allclose(small.project(points), camera.project(points) * (320 / 640, 360 / 480), atol=1e-9)
        assert (small.width, small.height) == (320, 360)
        back = small.resized(640, 480)
        assert_allclose(back.project(points), camera.project(points), atol=1e-9)

    def test_cropping_the_image_shifts_the_projection(self, camera: Camera) -> None:
        points = points_in_view(camera)
        crop = camera.cropped(100, 40, 224, 200)
        assert_allclose(crop.project(points), camera.project(points) - (100, 40), atol=1e-9)
        assert (crop.width, crop.height) == (224, 200)

    def test_undistorted_pixels_belong_to_the_pinhole(self, camera: Camera) -> None:
        points = points_in_view(camera)
        assert_allclose(camera.undistort(camera.project(points)), camera.pinhole.project(points), rtol=1e-9, atol=1e-7)

    def test_behind_the_camera_is_no_pixel(self, camera: Camera) -> None:
        pixels = camera.project([[0.1, 0.1, -1.0], [0.1, 0.1, 0.0], [0.0, 0.0, 0.0], [0.1, 0.1, 1.0], [np.nan, 0, 1]])
        assert np.isnan(pixels).all(axis=1).tolist() == [True, True, True, False, True]

    def test_extreme_points_warn_of_nothing(self, camera: Camera) -> None:
        camera.project([[1e200, 1.0, 1e-300], [1e300, 1e300, 1.0], [-1e9, 1e9, 1e-9], [np.inf, 0.0, 1.0]])
        camera.rays([[1e200, 0.0], [np.inf, 0.0], [1e6, -1e6]])

    def test_shapes_follow(self, camera: Camera) -> None:
        assert camera.project(np.zeros((0, 3))).shape == (0, 2)
        assert camera.rays(np.zeros((0, 2))).shape == (0, 3)
        assert camera.rays(np.zeros((4, 2, 2)) + 50).shape == (4, 2, 3)
        assert_allclose(camera.rays([50.0, 60.0]), camera.rays([[50.0, 60.0], [1.0, 2.0]])[0])

    def test_inputs_are_left_alone(self, camera: Camera) -> None:
        pixels = grid(camera)
        camera.undistort(pixels)[...] = 0
        assert_allclose(pixels, grid(camera))


class TestOracles:
    """cv2 and pycolmap compute u = f x + c alike; they differ only in where pixel (0, 0) lies, so in what c means."""

    @pytest.mark.parametrize("key", ["pinhole", "opencv4", "opencv5", "opencv8"])
    def test_opencv(self, key: str) -> None:
        camera = CAMERAS[key]
        points = points_in_view(camera)
        distortion = np.array(camera.distortion or (0, 0, 0, 0), dtype=np.float64)
        expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, distortion)
        assert_allclose(camera.project(points), expected.reshape(-1, 2), atol=1e-7)

    def test_opencv_fisheye(self) -> None:
        camera = CAMERAS["fisheye"]
        points = points_in_view(camera)
        expected, _ = cv2.fisheye.projectPoints(
            points.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.distortion)
        )
        assert_allclose(camera.project(points), expected.reshape(-1, 2), atol=1e-7)

    @pytest.mark.parametrize(
        ("key", "model"),
        [
            ("pinhole", "PINHOLE"),
            ("opencv4", "OPENCV"),
            ("opencv8", "FULL_OPENCV"),
            ("fisheye", "OPENCV_FISHEYE"),
        ],
    )
    def test_colmap(self, key: str, model: str) -> None:
        camera = CAMERAS[key]
        oracle = pycolmap.Camera(
            model=model,
            width=camera.width,
            height=camera.height,
            params=[camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion],
        )
        points = points_in_view(camera)
        assert_allclose(camera.project(points), oracle.img_from_cam(points), atol=1e-7)
        pixels = grid(camera).reshape(-1, 2)
        theirs = oracle.cam_from_img(pixels)
        assert_allclose(camera.rays(pixels)[:, :2], theirs[:, :2], atol=1e-6)

    def test_resize_is_what_an_image_resize_does(self) -> None:
        """The middle of a pixel block lies in the middle of the pixel it is averaged into."""
        image = np.zeros((480, 640), np.float32)
        image[120:124, 200:204] = 1.0  # the block around (202, 122)
        small = cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)
        (row,), (column,) = np.nonzero(small)
        ray = PINHOLE.rays([202.0, 122.0])
        assert_allclose(PINHOLE.resized(160, 120).project(ray), [column + 0.5, row + 0.5])


class TestFold:
    """Strong distortion folds back far outside the view: nothing from there may appear in the image."""

    camera = Camera(640, 480, 500.0, 500.0, 320.0, 240.0, "opencv", (-0.5, 0.1, 0.0, 0.0))  # r(1 - r²/2 + r⁴/10)

    def test_only_the_side_that_grows_is_seen(self) -> None:
        radius = np.array([0.0, 0.3, 0.6, 0.9, 0.99, 1.01, 1.2, 1.41, 2.0])
        u = self.camera.project(np.stack([radius, 0 * radius, 1 + 0 * radius], axis=-1))[:, 0]
        assert np.isnan(u).tolist() == [False] * 5 + [True] * 4  # 1 - 3 r²/2 + r⁴/2 is zero at r = 1
        assert (np.diff(u[:5]) > 0).all()

    def test_rays_take_the_side_that_grows(self) -> None:
        """Beyond its reach of 0.6 the polynomial rises again, so Newton steps end there too: never taken."""
        distorted = np.linspace(0, 3, 601)
        rays = self.camera.rays(np.stack([320 + 500 * distorted, 240 + 0 * distorted], axis=-1))[:, 0]
        assert np.isnan(rays[distorted > 0.6001]).all()
        found = rays[distorted < 0.599]
        assert (np.diff(found) > 0).all()
        assert found[-1] < 1.0

    def test_a_fisheye_that_folds(self) -> None:
        camera = replace(self.camera, model="fisheye", distortion=(-0.3, -0.1, 0.0, 0.0))
        theta = np.linspace(0, 1.5, 40)
        u = camera.project(np.stack([np.tan(theta), 0 * theta, 1 + 0 * theta], axis=-1))[:, 0]
        seen = ~np.isnan(u)
        slope = 1 - 0.9 * theta**2 - 0.5 * theta**4
        assert seen.tolist() == (slope > 0).tolist()
        assert_allclose(camera.rays(np.stack([u[seen], 0 * u[seen] + 240], -1))[:, 0], np.tan(theta[seen]), atol=1e-6)

    def test_a_pole_of_the_denominator_bounds_the_view(self) -> None:
        camera = replace(self.camera, distortion=(0.0, 0.0, 0.0, 0.0, 0.0, -0.25, 0.0, 0.0))  # r / (1 - r²/4)
        u = camera.project([[1.9, 0, 1], [2.1, 0, 1]])[:, 0]
        assert np.isnan(u).tolist() == [False, True]

    def test_no_ray_beyond_ninety_degrees(self) -> None:
        camera = replace(self.camera, fx=200.0, fy=200.0, model="fisheye", distortion=(0.0, 0.0, 0.0, 0.0))
        edge = 320 + 200 * math.pi / 2
        rays = camera.rays([[edge - 5, 240.0], [edge + 5, 240.0]])
        assert np.isfinite(rays[0]).all()
        assert np.isnan(rays[1, :2]).all()

    coefficients = st.floats(-0.6, 0.6)

    @given(st.tuples(coefficients, coefficients, coefficients), st.floats(0, 0.97), st.floats(0, 6.3))
    def test_every_visible_point_is_found_again(
        self, k: tuple[float, float, float], share: float, direction: float
    ) -> None:
        camera = replace(self.camera, distortion=(k[0], k[1], 0.0, 0.0, k[2]))
        fold = next((r for r in np.linspace(0.01, 1.2, 120) if np.isnan(camera.project([r, 0, 1])).any()), 1.2)
        radius = share * (fold - 0.01)
        point = np.array([radius * math.cos(direction), radius * math.sin(direction), 1.0])
        assert_allclose(camera.rays(camera.project(point)), point, atol=1e-6)


def test_contains_the_image_and_nothing_else() -> None:
    pixels = [[0, 0], [639.99, 479.99], [640, 10], [10, 480], [-0.01, 5], [5, -0.01], [np.nan, 5], [5, np.nan]]
    assert PINHOLE.contains(pixels).tolist() == [True, True, False, False, False, False, False, False]


def test_a_focal_length_puts_the_axis_in_the_middle() -> None:
    camera = Camera.from_focal(641, 480, 500.0)
    assert_allclose(camera.rays([320.5, 240.0]), [0, 0, 1])
    assert camera.matrix.tolist() == [[500, 0, 320.5], [0, 500, 240], [0, 0, 1]]


def test_equal_cameras_read_the_same_whatever_numbers_they_are_made_of() -> None:
    numbers: tuple[Any, ...] = (np.int64(640), np.int32(480), 500, np.float32(500), np.int64(320), 240)
    camera = Camera(*numbers, "opencv", (np.float32(0.5), 0, 0, 0))
    assert repr(camera) == repr(Camera(640, 480, 500.0, 500.0, 320.0, 240.0, "opencv", (0.5, 0.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "thin prism"},
        {"model": "opencv", "distortion": (0.1,)},
        {"model": "pinhole", "distortion": (0.1, 0.0, 0.0, 0.0)},
        {"model": "fisheye", "distortion": (0.1, 0.0, 0.0, 0.0, 0.0)},
        {"model": "opencv", "distortion": (0.1, math.nan, 0.0, 0.0)},
        {"width": 0},
        {"height": -480},
        {"width": 640.5},
        {"fx": 0.0},
        {"fy": -500.0},
        {"fx": math.inf},
        {"cx": math.nan},
    ],
)
def test_what_is_no_camera_is_refused_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        replace(PINHOLE, **change)
    assert "\n" not in str(caught.value)
