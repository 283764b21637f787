"""COLMAP's hands: the same camera projects the same there, and its database holds what we wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placecell.camera import Camera
from placecell.colmap import from_colmap, to_colmap, to_pose, to_rigid, write_database
from placecell.errors import FormatError
from placecell.pose import Array, Pose
from placecell.sift import Features

CAMERAS = {
    "pinhole": Camera(640, 480, 520.0, 530.0, 315.0, 245.0),
    "opencv 4": Camera(640, 480, 520.0, 530.0, 315.0, 245.0, "opencv", (-0.2, 0.05, 0.002, -0.003)),
    "opencv 5": Camera(640, 480, 520.0, 530.0, 315.0, 245.0, "opencv", (-0.2, 0.05, 0.002, -0.003, 0.01)),
    "opencv 8": Camera(
        640, 480, 520.0, 530.0, 315.0, 245.0, "opencv", (0.3, 0.05, 0.002, -0.003, 0.01, 0.4, 0.06, 0.002)
    ),
    "fisheye": Camera(640, 480, 330.0, 328.0, 322.0, 238.0, "fisheye", (0.05, -0.01, 0.003, -0.001)),
}
every_camera = pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())


def points_in_view(camera: Camera) -> Array:
    """Points (N, 3) in camera axes that the picture shows, its corners included."""
    columns, rows = np.meshgrid(np.linspace(0.5, camera.width - 0.5, 12), np.linspace(0.5, camera.height - 0.5, 9))
    rays = camera.rays(np.stack([columns.ravel(), rows.ravel()], axis=1))
    return rays[np.isfinite(rays).all(axis=1)] * 2.5


def features_of(count: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    return Features(
        rng.uniform(0, 480, (count, 2)).astype(np.float32),
        rng.uniform(1, 9, count).astype(np.float32),
        rng.uniform(0, 6, count).astype(np.float32),
        rng.integers(0, 255, (count, 128)).astype(np.uint8),
    )


class TestCameras:
    @every_camera
    def test_the_projection_is_the_same_there(self, camera: Camera) -> None:
        points = points_in_view(camera)
        theirs = to_colmap(camera, 7)
        assert (theirs.camera_id, theirs.width, theirs.height) == (7, 640, 480)
        assert len(points) > 100
        np.testing.assert_allclose(theirs.img_from_cam(points), camera.project(points), atol=1e-6)

    @every_camera
    def test_and_the_same_when_it_comes_back(self, camera: Camera) -> None:
        back = from_colmap(to_colmap(camera, 1))
        assert back.model == camera.model
        assert back.distortion[: len(camera.distortion)] == camera.distortion
        assert not any(back.distortion[len(camera.distortion) :])
        points = points_in_view(camera)
        np.testing.assert_allclose(back.project(points), camera.project(points), atol=1e-9)

    @pytest.mark.parametrize(
        "model, params",
        [
            ("SIMPLE_PINHOLE", [510.0, 322.0, 238.0]),
            ("PINHOLE", [510.0, 520.0, 322.0, 238.0]),
            ("SIMPLE_RADIAL", [510.0, 322.0, 238.0, -0.1]),
            ("RADIAL", [510.0, 322.0, 238.0, -0.1, 0.02]),
            ("OPENCV", [510.0, 520.0, 322.0, 238.0, -0.1, 0.02, 0.003, -0.002]),
            ("FULL_OPENCV", [510.0, 520.0, 322.0, 238.0, -0.1, 0.02, 0.003, -0.002, 0.01, 0.02, 0.03, 0.004]),
            ("OPENCV_FISHEYE", [310.0, 320.0, 322.0, 238.0, 0.05, -0.02, 0.003, -0.002]),
            ("SIMPLE_RADIAL_FISHEYE", [310.0, 322.0, 238.0, 0.05]),
            ("RADIAL_FISHEYE", [310.0, 322.0, 238.0, 0.05, -0.02]),
        ],
    )
    def test_each_model_of_theirs_projects_the_same_here(self, model: str, params: list[float]) -> None:
        theirs = pycolmap.Camera(camera_id=1, model=model, width=640, height=480, params=params)
        ours = from_colmap(theirs)
        points = points_in_view(ours)
        assert len(points) > 100
        np.testing.assert_allclose(ours.project(points), theirs.img_from_cam(points), atol=1e-6)

    @pytest.mark.parametrize(
        "model, params",
        [
            ("FOV", [510.0, 520.0, 322.0, 238.0, 0.5]),
            ("THIN_PRISM_FISHEYE", [310.0, 320.0, 322.0, 238.0, *[0.01] * 8]),
        ],
    )
    def test_a_model_without_an_equal_is_refused_by_name(self, model: str, params: list[float]) -> None:
        theirs = pycolmap.Camera(camera_id=1, model=model, width=640, height=480, params=params)
        with pytest.raises(FormatError, match=f"{model} .*undistort"):
            from_colmap(theirs)


class TestPoses:
    @given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
    def test_they_move_points_alike_and_come_back(self, tangent: list[float]) -> None:
        b_from_a = Pose.exp(tangent)
        theirs = to_rigid(b_from_a)
        point = np.array([0.3, -1.2, 2.5])
        np.testing.assert_allclose(theirs * point, b_from_a.apply(point), atol=1e-12)
        np.testing.assert_allclose(to_pose(theirs).matrix, b_from_a.matrix, atol=1e-12)


class TestDatabase:
    def test_it_holds_pictures_cameras_and_features(self, tmp_path: Path) -> None:
        cameras = [to_colmap(camera, index + 1) for index, camera in enumerate(list(CAMERAS.values())[:2])]
        names = ["a/first picture.jpg", "zweites Bild ü.jpg", "third.jpg"]
        features = [features_of(30, 0), features_of(0, 1), features_of(12, 2)]
        write_database(tmp_path / "database.db", names, features, cameras, [1, 0, 1])
        database = pycolmap.Database.open(tmp_path / "database.db")
        try:
            assert (database.num_images(), database.num_cameras()) == (3, 2)
            assert (database.num_rigs(), database.num_frames()) == (2, 3)
            for index, (name, found) in enumerate(zip(names, features, strict=True)):
                image = database.read_image(index + 1)
                assert (image.name, image.camera_id) == (name, [2, 1, 2][index])
                keypoints = database.read_keypoints(index + 1)
                np.testing.assert_array_equal(keypoints[:, :2], found.pixels)
                np.testing.assert_array_equal(keypoints[:, 2], found.scales_px)
                np.testing.assert_array_equal(keypoints[:, 3], found.angles_rad)
                np.testing.assert_array_equal(database.read_descriptors(index + 1).data, found.descriptors)
            np.testing.assert_array_equal(database.read_camera(2).params, cameras[1].params)
        finally:
            database.close()

    def test_features_and_pictures_must_be_as_many(self, tmp_path: Path) -> None:
        cameras = [to_colmap(CAMERAS["pinhole"], 1)]
        with pytest.raises(ValueError, match="shorter"):
            write_database(tmp_path / "database.db", ["a", "b"], [features_of(3, 0)], cameras, [0, 0])
