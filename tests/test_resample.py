"""Pictures as another camera at the same place would have taken them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from placecell.camera import Camera
from placecell.pose import Pose
from placecell.rendering import render
from placecell.resample import canonical_camera, resample
from placecell.scene import Scene
from placecell.synthetic import room

PHONE = Camera(320, 240, 250.0, 255.0, 150.0, 130.0)
LENS = replace(PHONE, model="opencv", distortion=(-0.2, 0.05, 0.001, -0.002))


def dots(camera: Camera, points_cam: np.ndarray) -> np.ndarray:
    """A picture of bright dots, drawn to a fraction of a pixel."""
    image = np.zeros((camera.height, camera.width, 3), np.float32)
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    for u, v in camera.project(points_cam):
        image += 250 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 2.5**2))[..., None]
    return image.clip(0, 255).astype(np.uint8)


def centre_of(image: np.ndarray) -> tuple[float, float]:
    weight = image[..., 0].astype(float)
    rows, columns = np.indices(weight.shape) + 0.5
    return float((columns * weight).sum() / weight.sum()), float((rows * weight).sum() / weight.sum())


class TestCanonicalCamera:
    def test_is_the_commonest_without_its_distortion(self) -> None:
        assert canonical_camera([LENS, LENS, PHONE.resized(100, 100)], 120) == PHONE.resized(160, 120)

    def test_a_portrait_keeps_its_shape(self) -> None:
        tall = Camera.from_focal(1080, 1920, 1500.0)
        assert canonical_camera([tall], 270) == tall.resized(270, 480)


class TestResample:
    def test_the_same_camera_is_the_same_picture(self) -> None:
        image = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
        np.testing.assert_array_equal(resample(image, PHONE, PHONE), image)
        np.testing.assert_array_equal(resample(image, PHONE, PHONE, target_from_cam=np.eye(3)), image)

    def test_another_size_is_a_resized_picture(self) -> None:
        image = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
        small = resample(image, PHONE, PHONE.resized(80, 60))
        np.testing.assert_array_equal(small, cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA))

    @given(
        turn=st.tuples(*[st.floats(-0.25, 0.25)] * 3),
        focal=st.floats(0.6, 1.5),
        lens=st.booleans(),
        u=st.floats(140, 180),
        v=st.floats(110, 130),
    )
    def test_a_dot_lands_where_the_target_projects_it(
        self, turn: tuple[float, float, float], focal: float, lens: bool, u: float, v: float
    ) -> None:
        camera = LENS if lens else PHONE
        target = Camera(300, 260, 250.0 * focal, 240.0 * focal, 160.0, 120.0)
        target_from_cam = Rotation.from_rotvec(turn).as_matrix()
        ray = camera.rays([u, v])
        seen = resample(dots(camera, ray[None]), camera, target, target_from_cam=target_from_cam, fill=(0, 0, 0))
        expected = target.project(target_from_cam @ ray)
        assert np.abs(np.array(centre_of(seen)) - expected).max() < 0.35

    @pytest.mark.parametrize("camera", [PHONE, LENS])
    def test_it_is_what_the_turned_camera_sees(self, camera: Camera, room_scene: Scene) -> None:
        """Against the renderer, which knows nothing of homographies."""
        place, turn = room(seed=0), Rotation.from_rotvec([0.05, -0.1, 0.2]).as_matrix()
        world_from_cam = room_scene.posed[0].world_from_cam
        assert world_from_cam is not None
        taken = render(place, camera, world_from_cam).image
        truth = render(place, PHONE, world_from_cam @ Pose(turn, np.zeros(3))).image
        seen = resample(taken, camera, PHONE, target_from_cam=turn.T, fill=(255, 0, 255))
        inside = ~(seen == (255, 0, 255)).all(axis=2)
        inside = cv2.erode(inside.astype(np.uint8), np.ones((7, 7))).astype(bool)
        difference = np.abs(seen.astype(int) - truth)[inside]
        wrong_way = resample(taken, camera, PHONE, target_from_cam=turn, fill=(255, 0, 255))
        assert inside.mean() > 0.5
        assert np.median(difference) <= 3
        assert np.median(difference) < 0.5 * np.median(np.abs(wrong_way.astype(int) - truth)[inside])

    def test_past_the_border_is_the_fill_or_the_border_again(self) -> None:
        image = np.full((240, 320, 3), 90, np.uint8)
        turn = Rotation.from_rotvec([0.0, 0.4, 0.0]).as_matrix()
        filled = resample(image, PHONE, PHONE, target_from_cam=turn, fill=(1, 2, 3))
        assert (filled.reshape(-1, 3) == (1, 2, 3)).all(axis=1).mean() > 0.1
        assert (resample(image, PHONE, PHONE, target_from_cam=turn) == 90).all()

    def test_behind_is_never_mirrored_to_the_front(self) -> None:
        image = np.full((240, 320, 3), 90, np.uint8)
        turn = Rotation.from_rotvec([0.0, np.pi, 0.0]).as_matrix()
        assert (resample(image, PHONE, PHONE, target_from_cam=turn, fill=(1, 2, 3)) == (1, 2, 3)).all()

    def test_shrinking_makes_no_aliases(self) -> None:
        stripes = np.zeros((240, 320, 3), np.uint8)
        stripes[:, ::2] = 255
        turn = Rotation.from_rotvec([0.0, 0.02, 0.0]).as_matrix()
        seen = resample(stripes, PHONE, PHONE.resized(64, 48), target_from_cam=turn)
        assert seen[:, 4:-4].std() < 0.2 * stripes.std()

    def test_a_camera_of_another_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="camera is for 320x240"):
            resample(np.zeros((100, 100, 3), np.uint8), PHONE, PHONE)
