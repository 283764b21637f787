"""Pictures and depth as a network sees them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from placecell.backbones import MEAN, STD, picture_tensor
from placecell.camera import Camera
from placecell.families.regression.depth_code import encode_depth
from placecell.families.regression.sight import depth_as, depth_tensor, turned_depth
from placecell.images import detail
from placecell.pose import Array
from placecell.synthetic import render, room, trajectory

CAMERA = Camera.from_focal(96, 72, 80.0)


def plane_depth(camera: Camera, normal: Array, offset: float) -> NDArray[np.float32]:
    """Depth of the plane normal · x = offset, exact at the middle of each pixel."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.rays(np.stack([columns, rows], axis=-1))
    return (offset / (rays @ normal)).astype(np.float32)


class TestPictures:
    def test_are_normalised_as_imagenet_is(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
        expected = (images / 255.0 - MEAN) / STD
        found = picture_tensor(images)
        assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)

    def test_a_window_that_is_a_view_is_the_window(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
        np.testing.assert_array_equal(
            picture_tensor(images[:, 2:6, 3:8]).numpy(), picture_tensor(images).numpy()[:, :, 2:6, 3:8]
        )

    def test_the_pictures_are_left_as_they_were(self) -> None:
        images = np.full((1, 4, 4, 3), 7, np.uint8)
        picture_tensor(images)
        assert (images == 7).all()


class TestDetail:
    def test_is_the_slope_of_a_ramp(self) -> None:
        ramp = np.tile((3 * np.arange(40, dtype=np.uint8))[None, :, None], (30, 1, 3))
        assert detail(ramp) == pytest.approx(3.0)
        assert detail(np.ascontiguousarray(ramp.transpose(1, 0, 2))) == pytest.approx(3.0)

    def test_falls_with_blur_and_is_none_in_a_blank(self) -> None:
        image = render(room(), CAMERA, trajectory("visit", 1)[0]).image
        blurred = [detail(np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))) for sigma in (1.0, 3.0, 9.0)]
        assert detail(image) > blurred[0] > blurred[1] > blurred[2] > 0
        assert detail(np.full((40, 40, 3), 90, np.uint8)) == 0


class TestDepth:
    def test_codes_each_with_its_camera(self) -> None:
        depth_m = plane_depth(CAMERA, np.array([0.3, -0.2, 1.0]), 2.0)
        other = replace(CAMERA, fx=160.0, fy=160.0)
        found = depth_tensor([(depth_m, CAMERA), (depth_m, other)])
        assert found.shape == (2, 3, 72, 96)
        for index, camera in enumerate((CAMERA, other)):
            np.testing.assert_array_equal(found[index].numpy(), encode_depth(depth_m, camera).transpose(2, 0, 1))
        assert np.abs(found[0].numpy() - found[1].numpy()).max() > 0.1

    def test_of_a_turned_camera_is_along_its_own_line_of_sight(self) -> None:
        normal, offset = np.array([0.3, -0.2, 1.0]), 2.0
        source_from_target = Rotation.from_rotvec([0.1, -0.15, 0.3]).as_matrix()
        found = turned_depth(plane_depth(CAMERA, normal, offset), CAMERA, CAMERA, source_from_target)
        expected = plane_depth(CAMERA, source_from_target.T @ normal, offset)
        seen = np.isfinite(found)
        assert 0.6 < seen.mean() < 0.99  # some of it lies past the picture
        # Nearest pixels: half a pixel of slope.
        np.testing.assert_allclose(found[seen], expected[seen], rtol=0.01)

    def test_of_a_camera_that_is_not_turned_is_itself(self) -> None:
        depth_m = plane_depth(CAMERA, np.array([0.3, -0.2, 1.0]), 2.0)
        depth_m[10, 20] = np.nan
        np.testing.assert_array_equal(turned_depth(depth_m, CAMERA, CAMERA, np.eye(3)), depth_m)

    def test_of_a_window_is_the_window(self) -> None:
        depth_m = plane_depth(CAMERA, np.array([0.3, -0.2, 1.0]), 2.0)
        window = CAMERA.cropped(11, 7, 40, 30)
        np.testing.assert_array_equal(turned_depth(depth_m, CAMERA, window, np.eye(3)), depth_m[7:37, 11:51])

    def test_a_view_backwards_sees_nothing(self) -> None:
        about = Rotation.from_rotvec([0, np.pi, 0]).as_matrix()
        assert np.isnan(turned_depth(np.ones((72, 96), np.float32), CAMERA, CAMERA, about)).all()

    def test_of_another_camera_at_the_same_place_is_what_it_would_measure(self) -> None:
        fine = CAMERA.resized(288, 216)
        shot = render(room(), fine, trajectory("visit", 1)[0])
        found = depth_as(shot.depth_m, fine, CAMERA)
        exact = render(room(), CAMERA, trajectory("visit", 1)[0]).depth_m
        assert np.isfinite(found).mean() > 0.99
        assert np.nanmedian(np.abs(found / exact - 1)) < 0.01
