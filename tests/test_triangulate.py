"""Points from posed pictures: exact where the matches are, absent where nothing fixes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.log import Silent
from placecell.pairs import exhaustive
from placecell.pose import Array, Pose
from placecell.sift import Features
from placecell.triangulate import Tracks, View, track_covariance, triangulate

CAMERAS = (
    Camera(640, 480, 520.0, 530.0, 315.0, 245.0),
    Camera(640, 480, 500.0, 505.0, 322.0, 238.0, "opencv", (-0.2, 0.05, 0.002, -0.003)),
    Camera(640, 480, 330.0, 328.0, 322.0, 238.0, "fisheye", (0.05, -0.01, 0.003, -0.001)),
)
POINTS = np.random.default_rng(0).uniform([-1.5, -1.2, 4.0], [1.5, 1.2, 8.0], (150, 3))
DESCRIPTORS = np.random.default_rng(1).integers(0, 255, (len(POINTS), 128)).astype(np.uint8)


def path(count: int = 8, step: float = 0.35) -> list[Pose]:
    """Cameras on an arc that look at the points; on one spot when the step is 0."""
    return [
        Pose.exp([0.02 * i, -0.05 * (i - count / 2), 0.03 * i, step * (i - count / 2), step * np.sin(i) / 3, 0.0])
        if step
        else Pose.exp([0.02 * i, -0.05 * (i - count / 2), 0.03 * i, 0, 0, 0])
        for i in range(count)
    ]


class Shots:
    """Pictures of POINTS: features in random order, and which point each of them truly is (-1 for none)."""

    def __init__(self, poses: list[Pose], cameras: tuple[Camera, ...] = CAMERAS[:1], wrong: int = 0) -> None:
        rng = np.random.default_rng(2)
        self.truth: list[NDArray[np.int64]] = []
        self.views: list[View] = []
        for index, pose in enumerate(poses):
            camera = cameras[index % len(cameras)]
            pixels = camera.project(pose.inv.apply(POINTS))
            seen = rng.permutation(np.flatnonzero(camera.contains(pixels)))
            truth = seen.copy()
            truth[:wrong] = -1
            pixels = pixels[seen]
            pixels[:wrong] = rng.uniform((0, 0), (camera.width, camera.height), (wrong, 2))
            marks = np.full(len(seen), 2.0, np.float32)
            features = Features(pixels.astype(np.float32), marks, 0 * marks, DESCRIPTORS[seen])
            self.truth.append(truth)
            self.views.append(View(f"{index}.jpg", camera, pose, features))

    def triangulated(self) -> Tracks:
        return triangulate(self.views, exhaustive(len(self.views)), log=Silent())

    def seen(self, tracks: Tracks) -> NDArray[np.int64]:
        """(M,) the true point of each observation."""
        return np.array([self.truth[p][f] for p, f in zip(tracks.picture, tracks.feature, strict=True)], np.int64)


def errors(tracks: Tracks, truth: NDArray[np.int64]) -> Array:
    """(M,) distance of each observation's triangulated point from its true one."""
    found: Array = np.linalg.norm(tracks.points_world[tracks.point] - POINTS[truth], axis=1)
    return found


class TestTriangulate:
    @pytest.mark.parametrize(
        "cameras", [(c,) for c in CAMERAS] + [CAMERAS], ids=["pinhole", "opencv", "fisheye", "all"]
    )
    def test_exact_tracks_give_exact_points(self, cameras: tuple[Camera, ...]) -> None:
        shots = Shots(path(), cameras)
        tracks = shots.triangulated()
        truth = shots.seen(tracks)
        assert len(tracks.points_world) >= 0.95 * len(POINTS)
        assert errors(tracks, truth).max() < 1e-3
        np.testing.assert_array_equal(np.unique(tracks.point), np.arange(len(tracks.points_world)))

    def test_wrong_matches_are_rejected(self) -> None:
        shots = Shots(path(), wrong=40)
        tracks = shots.triangulated()
        truth = shots.seen(tracks)
        assert len(tracks.points_world) > 100
        # A wrong place may lie on the right epipolar lines by chance, within their two pixels: that much, no more.
        assert (truth < 0).sum() < 0.01 * len(truth)
        assert errors(tracks, truth)[truth >= 0].max() < 5e-3
        assert np.median(errors(tracks, truth)[truth >= 0]) < 1e-5

    def test_matches_may_lie_so_far_off_their_epipolar_lines_and_no_farther(self) -> None:
        shots = Shots(path())
        rng = np.random.default_rng(3)
        for index, view in enumerate(shots.views):
            pixels = view.features.pixels + rng.standard_normal(view.features.pixels.shape).astype(np.float32)
            shots.views[index] = replace(view, features=replace(view.features, pixels=pixels))
        loose, tight = (
            triangulate(shots.views, exhaustive(8), max_error_px=limit, log=Silent()) for limit in (5.0, 0.1)
        )
        assert len(loose.points_world) > 0.9 * len(POINTS)
        assert len(tight.point) < 0.2 * len(loose.point)

    def test_every_point_is_seen_by_three_pictures(self) -> None:
        tracks = Shots(path()).triangulated()
        pictures = [len(set(tracks.picture[tracks.point == point])) for point in range(len(tracks.points_world))]
        assert min(pictures) >= 3
        assert len(Shots(path(2)).triangulated().points_world) == 0

    def test_a_turn_on_the_spot_gives_none(self) -> None:
        shots = Shots(path(step=0.0))
        assert min(len(view.features) for view in shots.views) > 100
        tracks = shots.triangulated()
        assert tracks.points_world.shape == (0, 3)
        assert len(tracks.point) == len(tracks.picture) == len(tracks.feature) == 0

    def test_no_pairs_and_no_features_give_none(self) -> None:
        views = Shots(path()).views
        assert len(triangulate(views, [], log=Silent()).points_world) == 0
        blank = np.zeros(0, np.float32)
        bare = Features(np.zeros((0, 2), np.float32), blank, blank, np.zeros((0, 128), np.uint8))
        views = [replace(view, features=bare) for view in views]
        assert len(triangulate(views, exhaustive(8), log=Silent()).points_world) == 0

    def test_wrong_poses_give_hardly_any(self) -> None:
        views = Shots(path()).views
        inverted = [replace(view, world_from_cam=view.world_from_cam.inv) for view in views]
        assert len(triangulate(inverted, exhaustive(8), log=Silent()).points_world) < 0.1 * len(POINTS)

    def test_moving_the_world_moves_the_points(self) -> None:
        moved_from_world = Pose.exp([0.3, 1.0, -0.7, 5.0, -3.0, 2.0])
        here, there = Shots(path()), Shots(path())
        there.views = [replace(view, world_from_cam=moved_from_world @ view.world_from_cam) for view in there.views]
        before, after = here.triangulated(), there.triangulated()
        truth = there.seen(after)
        off = np.linalg.norm(after.points_world[after.point] - moved_from_world.apply(POINTS)[truth], axis=1)
        assert len(after.points_world) == len(before.points_world) and off.max() < 1e-3

    def test_the_same_input_gives_the_same_bits(self) -> None:
        first, second = (Shots(path(), wrong=20).triangulated() for _ in range(2))
        for name, value in vars(first).items():
            np.testing.assert_array_equal(getattr(second, name), value)

    def test_pycolmap_is_kept_quiet_and_its_level_put_back(self, capfd: pytest.CaptureFixture[str]) -> None:
        before = pycolmap.logging.minloglevel
        Shots(path(4)).triangulated()
        assert capfd.readouterr() == ("", "")
        assert pycolmap.logging.minloglevel == before


class TestTrackCovariance:
    def test_it_is_the_scatter_of_points_from_noisy_pixels(self) -> None:
        """Against a linear triangulation by least squares about the truth, with numeric derivatives."""
        shots = Shots(path())
        tracks = shots.triangulated()
        covariance = track_covariance(tracks, shots.views, noise_px=0.5)
        assert covariance.shape == (len(tracks.points_world), 3, 3)
        point = int(np.bincount(tracks.point).argmax())
        mine = np.flatnonzero(tracks.point == point)
        step = 1e-5
        rows = []
        for picture in tracks.picture[mine]:
            view = shots.views[picture]
            moved = tracks.points_world[point] + step * np.vstack([np.eye(3), -np.eye(3)])
            pixels = view.camera.project(view.world_from_cam.inv.apply(moved))
            rows.append((pixels[:3] - pixels[3:]).T / (2 * step))
        design = np.vstack(rows)
        noise = 0.5 * np.random.default_rng(0).standard_normal((len(design), 4000))
        scatter = np.cov(np.linalg.lstsq(design, noise, rcond=None)[0])
        unit = np.sqrt(np.outer(np.diag(scatter), np.diag(scatter)))
        np.testing.assert_allclose(covariance[point] / unit, scatter / unit, atol=0.08)

    def test_it_grows_with_the_noise_and_turns_with_the_world(self) -> None:
        shots = Shots(path())
        tracks = shots.triangulated()
        once, twice = (track_covariance(tracks, shots.views, noise_px=noise) for noise in (1.0, 2.0))
        np.testing.assert_allclose(twice, 4 * once, rtol=1e-9)
        moved_from_world = Pose.exp([0.3, 1.0, -0.7, 5.0, -3.0, 2.0])
        views = [replace(view, world_from_cam=moved_from_world @ view.world_from_cam) for view in shots.views]
        moved = replace(tracks, points_world=moved_from_world.apply(tracks.points_world))
        turned = moved_from_world.rotation @ once @ moved_from_world.rotation.T
        np.testing.assert_allclose(track_covariance(moved, views, noise_px=1.0), turned, atol=1e-9 * turned.max())

    def test_it_is_longest_along_the_line_of_sight(self) -> None:
        shots = Shots(path(step=0.1))
        tracks = shots.triangulated()
        covariance = track_covariance(tracks, shots.views)
        longest = np.linalg.eigh(covariance)[1][:, :, -1]
        middle = np.mean([view.world_from_cam.translation for view in shots.views], axis=0)
        sight = tracks.points_world - middle
        sight /= np.linalg.norm(sight, axis=1, keepdims=True)
        assert len(sight) > 50
        assert np.abs(np.einsum("nk,nk->n", longest, sight)).min() > 0.95
