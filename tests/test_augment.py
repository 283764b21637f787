"""Varied training pictures: what the label says has to be where the picture shows it."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.augment import Augmentation, crop
from placecell.camera import Camera
from placecell.pose import Pose
from placecell.rendering import render
from placecell.resample import resample
from placecell.scene import Scene
from placecell.synthetic import room

CAMERA = Camera.from_focal(160, 120, 140.0)


@pytest.fixture(scope="module")
def taken(room_scene: Scene) -> tuple[np.ndarray, Pose]:
    pose = room_scene.posed[0].world_from_cam
    assert pose is not None
    return render(room(seed=0), CAMERA, pose).image, pose


class TestAugmentation:
    def test_nothing_asked_changes_nothing(self, taken: tuple[np.ndarray, Pose]) -> None:
        varied = Augmentation().vary(taken[0], CAMERA, CAMERA, np.random.default_rng(0))
        np.testing.assert_array_equal(varied.image, taken[0])
        np.testing.assert_array_equal(varied.cam_from_varied, np.eye(3))

    @pytest.mark.parametrize("seed", range(4))
    def test_the_label_is_where_the_varied_picture_was_taken(self, taken: tuple[np.ndarray, Pose], seed: int) -> None:
        image, world_from_cam = taken
        varied = Augmentation(turn_deg=(8, 8, 20)).vary(image, CAMERA, CAMERA, np.random.default_rng(seed))

        def error(cam_from_varied: np.ndarray) -> float:
            truth = render(room(seed=0), varied.camera, world_from_cam @ Pose(cam_from_varied, np.zeros(3))).image
            middle = np.s_[35:85, 45:115]
            return float(np.abs(truth[middle].astype(int) - varied.image[middle]).mean())

        assert error(varied.cam_from_varied) < 8
        assert error(varied.cam_from_varied) < 0.4 * error(varied.cam_from_varied.T)

    def test_turns_reach_as_far_as_asked_and_no_further(self, taken: tuple[np.ndarray, Pose]) -> None:
        rng, vary = np.random.default_rng(0), Augmentation(turn_deg=(0, 10, 0)).vary
        turns = np.array(
            [Pose(vary(taken[0], CAMERA, CAMERA, rng).cam_from_varied, np.zeros(3)).log() for _ in range(60)]
        )
        degrees = np.degrees(np.abs(turns))
        assert degrees[:, 1].max() <= 10 and degrees[:, 1].max() > 9 and degrees[:, [0, 2]].max() == 0

    def test_the_same_generator_makes_the_same_picture(self, taken: tuple[np.ndarray, Pose]) -> None:
        asked = Augmentation((8, 8, 20), 0.3)
        one, two = (asked.vary(taken[0], CAMERA, CAMERA, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(one.image, two.image)

    def test_colour_changes_light_and_not_geometry(self, taken: tuple[np.ndarray, Pose]) -> None:
        rng, vary = np.random.default_rng(1), Augmentation(colour=0.5).vary
        found = [vary(taken[0], CAMERA, CAMERA, rng) for _ in range(12)]
        means = [varied.image.mean() for varied in found]
        assert np.std(means) > 5
        for varied in found:
            np.testing.assert_array_equal(varied.cam_from_varied, np.eye(3))
            assert np.corrcoef(varied.image.ravel(), taken[0].ravel())[0, 1] > 0.8


class TestCrop:
    def test_the_middle_without_a_generator(self, taken: tuple[np.ndarray, Pose]) -> None:
        window = crop(taken[0], CAMERA, 100, None)
        np.testing.assert_array_equal(window.image, taken[0][10:110, 30:130])

    def test_a_point_of_the_window_is_a_point_of_the_picture(self, taken: tuple[np.ndarray, Pose]) -> None:
        rng = np.random.default_rng(3)
        seen = set()
        for _ in range(40):
            window = crop(taken[0], CAMERA, 100, rng)
            u, v = window.camera.project([0.1, -0.05, 1.0]) - CAMERA.project([0.1, -0.05, 1.0])
            left, top = round(-u), round(-v)
            np.testing.assert_array_equal(window.image, taken[0][top : top + 100, left : left + 100])
            seen.add((left, top))
        assert len(seen) > 20 and {top for _, top in seen} <= set(range(21))

    def test_as_large_as_the_picture_is_the_picture(self) -> None:
        square = Camera.from_focal(64, 64, 50.0)
        image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        assert crop(image, square, 64, np.random.default_rng(0)).camera == square
        np.testing.assert_array_equal(resample(image, square, square), image)
