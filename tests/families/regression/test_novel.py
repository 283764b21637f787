"""New training views, and what cells are told: held against the renderer, which knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from placecell.align import Similarity, align_scene
from placecell.anchor import Anchor
from placecell.families.regression.alignment import STRIDE, cell_rays
from placecell.families.regression.novel import CELL_PX, Known, Wander, surface_targets
from placecell.families.regression.shots import Shots, shots_of
from placecell.log import Silent
from placecell.pose import Pose
from placecell.rendering import render
from placecell.resample import canonical_camera
from placecell.scene import Scene
from placecell.synthetic import room
from placecell.views import Surfaces

WANDER = Wander(0.04, 5.0)


def known_of(scene: Scene, folder: Path) -> tuple[Known, Anchor]:
    frames = scene.split("train").posed[:8]
    anchor = Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    camera = canonical_camera([scene.camera_of(frame) for frame in frames], 96)
    shots = shots_of(scene, frames, camera, anchor, depth=False, folder=folder, log=Silent())
    return Known.of(scene, frames, shots, anchor, folder, Silent()), anchor


@pytest.fixture(scope="module")
def known(room_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> tuple[Known, Anchor]:
    return known_of(room_scene, tmp_path_factory.mktemp("known"))


def grid_of(shots: Shots) -> tuple[int, int]:
    return -(-shots.camera.height // STRIDE), -(-shots.camera.width // STRIDE)


def pose_of(shots: Shots, index: int, anchor: Anchor) -> Pose:
    label = np.column_stack([shots.rotations[index], shots.centres[index]]).astype(np.float64)
    return anchor.world_from_anchor @ Pose.nearest(label)


class TestViews:
    def test_a_view_is_what_is_seen_from_its_label(self, known: tuple[Known, Anchor]) -> None:
        views = known[0].views(WANDER, 6, seed=0)
        alike = []
        for index in range(6):
            truth = render(room(seed=0), views.camera, pose_of(views, index, known[1]))
            alike.append(np.corrcoef(views.images[index].ravel(), truth.image.ravel())[0, 1])
            assert views.surfaces is not None
            depth = views.surfaces[index].astype(np.float64)
            off = np.abs(depth / truth.depth_m[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX] - 1)
            assert np.nanmedian(off) < 0.01
        assert np.median(alike) > 0.8

    def test_they_are_kept_and_not_made_again(
        self, known: tuple[Known, Anchor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = known[0].views(WANDER, 6, seed=0)
        again = replace(known[0], read=lambda: pytest.fail("reads the scene again"))
        np.testing.assert_array_equal(again.views(WANDER, 6, seed=0).images, first.images)

    def test_they_are_made_again_when_the_scene_knows_other_points(
        self, known: tuple[Known, Anchor], room_scene: Scene
    ) -> None:
        points = room_scene.points
        assert points is not None
        moved = replace(room_scene, points=replace(points, points_world=points.points_world + 0.1))
        again, _ = known_of(moved, known[0].folder)
        assert moved.fingerprint == room_scene.fingerprint and again.identity != known[0].identity

    def test_another_seed_makes_others(self, known: tuple[Known, Anchor], tmp_path: Path) -> None:
        one = known[0].views(WANDER, 3, seed=0)
        other = replace(known[0], folder=tmp_path).views(WANDER, 3, seed=1)
        assert not np.array_equal(one.centres, other.centres)

    def test_a_moved_world_makes_the_same_to_the_bit(
        self, known: tuple[Known, Anchor], room_scene: Scene, tmp_path: Path
    ) -> None:
        moved_from_world = Pose.exp([0.4, -1.1, 0.7, 5.0, -3.0, 2.0])
        similarity = Similarity(1.0, moved_from_world.rotation, moved_from_world.translation)
        moved, _ = known_of(align_scene(room_scene, similarity, metric=True, note="moved"), tmp_path)
        one, other = known[0].views(WANDER, 4, seed=0), moved.views(WANDER, 4, seed=0)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.centres, other.centres)
        np.testing.assert_array_equal(known[0].surfaces(), moved.surfaces())

    def test_they_wander_as_far_as_asked(self) -> None:
        poses = Wander(0.1, 5.0).poses([Pose.identity()], 2000, seed=0, depth=3.0)
        twists = np.array([pose.log() for pose in poses])
        np.testing.assert_allclose(np.degrees(twists[:, :3].std(axis=0)), 5.0, rtol=0.1)
        np.testing.assert_allclose(twists[:, 3:].std(axis=0), 0.3, rtol=0.1)


class TestSurfaces:
    def test_they_are_the_depth_of_the_pictures(self, known: tuple[Known, Anchor]) -> None:
        shots, surfaces = known[0].shots, known[0].surfaces()
        for index in (0, 5):
            truth = render(room(seed=0), shots.camera, pose_of(shots, index, known[1])).depth_m
            off = np.abs(surfaces[index] / truth[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX] - 1)
            assert np.nanmedian(off) < 0.01 and np.isfinite(surfaces[index]).mean() > 0.9

    def test_of_many_frames_only_some_are_read(self, known: tuple[Known, Anchor], tmp_path: Path) -> None:
        every_second = replace(known[0], step=2, folder=tmp_path, read=lambda: _thin(known[0].read()))
        surfaces = every_second.surfaces()
        assert np.isnan(surfaces[1::2]).all()
        np.testing.assert_array_equal(surfaces[::2], known[0].surfaces()[::2])


def _thin(surfaces: Surfaces) -> Surfaces:
    return replace(surfaces, depth=surfaces.depth[::2], measured=surfaces.measured[::2])


class TestSurfaceTargets:
    @pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (0.1, -0.12, 0.3)])
    def test_cells_are_told_what_the_turned_camera_sees(
        self, known: tuple[Known, Anchor], turn: tuple[float, float, float]
    ) -> None:
        shots, cam_from_varied = known[0].shots, Rotation.from_rotvec(turn).as_matrix()
        cells = cell_rays(shots.camera, grid_of(shots)).astype(np.float32)
        rotation = (shots.rotations[2] @ cam_from_varied).astype(np.float32)
        label = rotation, shots.centres[2]
        points, depth = surface_targets(known[0].surfaces()[2], shots.camera, cells, cam_from_varied, label)

        world_from_varied = known[1].world_from_anchor @ Pose.nearest(np.column_stack(label).astype(np.float64))
        truth = render(room(seed=0), shots.camera, world_from_varied).depth_m
        columns, rows = np.floor(shots.camera.project(cells)).astype(int).T
        seen = (rows < truth.shape[0]) & (columns < truth.shape[1]) & np.isfinite(depth)
        assert seen.mean() > 0.5
        off = np.abs(depth[seen] / truth[rows[seen], columns[seen]] - 1)
        assert np.median(off) < 0.02

        expected = (cells * depth[:, None]) @ rotation.T + shots.centres[2]
        np.testing.assert_allclose(points[seen], expected[seen], atol=1e-4)

    def test_behind_the_camera_nothing_is_known(self, known: tuple[Known, Anchor]) -> None:
        """A camera turned about by half sees nothing of the picture, and not its mirror image."""
        shots = known[0].shots
        cells = cell_rays(shots.camera, grid_of(shots)).astype(np.float32)
        about = Rotation.from_rotvec([0.0, np.pi, 0.0]).as_matrix()
        label = shots.rotations[0], shots.centres[0]
        points, depth = surface_targets(known[0].surfaces()[0], shots.camera, cells, about, label)
        assert np.isnan(depth).all() and np.isnan(points).all()

    def test_beyond_the_picture_nothing_is_known(self, known: tuple[Known, Anchor]) -> None:
        shots = known[0].shots
        cells = cell_rays(shots.camera, grid_of(shots)).astype(np.float32)
        away = Rotation.from_rotvec([0.0, 1.2, 0.0]).as_matrix()
        label = shots.rotations[0], shots.centres[0]
        points, depth = surface_targets(known[0].surfaces()[0], shots.camera, cells, away, label)
        assert np.isnan(depth).mean() > 0.9 and np.isnan(points[np.isnan(depth)]).all()
