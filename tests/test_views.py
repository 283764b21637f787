"""New views against the renderer, which knows what the room looks like from anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from placecell import views
from placecell.align import Similarity, align_scene
from placecell.camera import Camera
from placecell.errors import SceneError
from placecell.log import Silent
from placecell.points import PointCloud
from placecell.pose import Pose
from placecell.rendering import Rendered, render
from placecell.resample import canonical_camera
from placecell.scene import Scene
from placecell.synthetic import room
from placecell.views import Surfaces, has_depth

MOVE = Pose.exp([0.05, -0.12, 0.08, 0.15, -0.05, 0.1])


@pytest.fixture(scope="module")
def surfaces(room_scene: Scene) -> Surfaces:
    return surfaces_of(room_scene)


def surfaces_of(scene: Scene) -> Surfaces:
    frames = scene.split("train").posed
    camera = canonical_camera([scene.camera_of(frame) for frame in frames], 120)
    return Surfaces.of(scene, frames, camera, Silent())


def without_depth(scene: Scene) -> Scene:
    return replace(scene, frames=tuple(replace(frame, depth=None) for frame in scene.frames))


def _seen_by(scene: Scene, frames: list[int]) -> PointCloud:
    """The points of a scene with the observations of some of its frames only."""
    points = scene.points
    assert points is not None
    kept = np.isin(points.seen_frame, frames)
    parts = (points.seen_point[kept], points.seen_frame[kept], points.seen_px[kept])
    return PointCloud(points.points_world, points.rgb, *parts)


def truth(surfaces: Surfaces, pose: Pose) -> Rendered:
    """What is really there."""
    return render(room(seed=0), surfaces.camera, pose)


def wrong(surfaces: Surfaces, pose: Pose, seen_from: Pose | None = None) -> tuple[float, float, float]:
    """1 - correlation of colours (each picture has its exposure), median relative error of depth, share known."""
    view = surfaces.view(pose)
    real = truth(surfaces, pose if seen_from is None else seen_from)
    colour = 1.0 - np.corrcoef(view.image[view.known].ravel(), real.image[view.known].ravel())[0, 1]
    depth = np.abs(view.depth - real.depth_m)[view.known] / real.depth_m[view.known]
    return float(colour), float(np.nanmedian(depth)), float(view.known.mean())


class TestView:
    def test_from_where_a_picture_was_taken_it_is_that_picture(self, surfaces: Surfaces) -> None:
        view = surfaces.view(surfaces.world_from_cam[3], sources=1)
        assert view.known.mean() > 0.95
        assert np.median(np.abs(view.image.astype(int) - surfaces.images[3])[view.known]) <= 1

    @pytest.mark.parametrize("index", [0, 10, 20])
    def test_from_elsewhere_it_is_what_is_there(self, surfaces: Surfaces, index: int) -> None:
        pose = surfaces.world_from_cam[index] @ MOVE
        colour, depth, known = wrong(surfaces, pose)
        assert known > 0.6
        assert depth < 0.01
        assert colour < 0.1
        assert colour < 0.5 * wrong(surfaces, pose, seen_from=surfaces.world_from_cam[index] @ MOVE.inv)[0]

    def test_more_sources_know_more(self, surfaces: Surfaces) -> None:
        pose = surfaces.world_from_cam[10] @ MOVE
        shares = [surfaces.view(pose, sources=count).known.mean() for count in (1, 2, 4)]
        assert shares[0] < shares[1] <= shares[2]

    def test_what_is_unknown_is_filled_from_around(self, surfaces: Surfaces) -> None:
        view = surfaces.view(surfaces.world_from_cam[0] @ Pose.exp([0, 0.5, 0, 0, 0, 0]), sources=1)
        assert not view.known.all()
        filled = view.image[~view.known]
        assert filled.min() >= view.image[view.known].min() and filled.max() <= view.image[view.known].max()
        assert np.isnan(view.depth[~view.known]).all()

    def test_far_away_nothing_is_known_and_nothing_breaks(self, surfaces: Surfaces) -> None:
        behind = surfaces.world_from_cam[0] @ Pose.exp([0, np.pi, 0, 0, 0, 0])
        view = surfaces.view(Pose(behind.rotation, behind.translation + 100.0))
        assert not view.known.any()
        assert view.image.shape == surfaces.images[0].shape

    def test_near_surfaces_hide_far_ones(self, surfaces: Surfaces) -> None:
        """Where the view is known, hardly any pixel shows what is behind the surface that is there."""
        shine_through = []
        for index in (0, 10, 20):
            pose = surfaces.world_from_cam[index] @ MOVE
            view, real = surfaces.view(pose), truth(surfaces, pose)
            shine_through.append(np.mean(view.depth[view.known] > 1.1 * real.depth_m[view.known]))
        assert np.mean(shine_through) < 0.03


class TestSurfaces:
    def test_points_do_where_there_is_no_depth(self, room_scene: Scene) -> None:
        without = without_depth(room_scene)
        assert has_depth(without, without.frames)
        surfaces = surfaces_of(without)
        colour, depth, known = wrong(surfaces, surfaces.world_from_cam[10] @ MOVE)
        assert (depth < 0.05, colour < 0.3, known > 0.5) == (True, True, True)

    @pytest.mark.parametrize("scale", [2.0**-12, 2.0**13])
    def test_the_unit_of_the_scene_does_not_matter(self, room_scene: Scene, scale: float) -> None:
        few = without_depth(room_scene.split("train").keep([index < 8 for index in range(30)]))
        similarity = Similarity(scale, np.eye(3), np.zeros(3))
        one, other = surfaces_of(few), surfaces_of(align_scene(few, similarity, metric=False, note="scaled"))
        pose = one.world_from_cam[3] @ MOVE
        mine, theirs = one.view(pose), other.view(Pose(pose.rotation, scale * pose.translation))
        assert mine.known.mean() > 0.5 and np.mean(mine.known == theirs.known) > 0.999
        both = mine.known & theirs.known
        np.testing.assert_allclose(theirs.depth[both] / scale, mine.depth[both], rtol=4e-3)
        assert np.mean(mine.image[both] == theirs.image[both]) > 0.99

    def test_pictures_of_which_nothing_is_known_are_no_sources(self, room_scene: Scene) -> None:
        few = without_depth(room_scene.split("train").keep([index < 4 for index in range(30)]))
        surfaces = surfaces_of(replace(few, points=_seen_by(few, [0, 1])))
        assert surfaces.measured.any(axis=(1, 2)).tolist() == [True, True, False, False]
        view, sure = surfaces.view(surfaces.world_from_cam[3]), surfaces_of(few).view(surfaces.world_from_cam[3])
        assert view.known.mean() < sure.known.mean()
        nothing = replace(surfaces, measured=np.zeros_like(surfaces.measured)).view(surfaces.world_from_cam[3])
        assert not nothing.known.any()

    def test_points_that_only_other_frames_see_are_none(self, room_scene: Scene) -> None:
        bare = without_depth(room_scene)
        first = replace(bare, points=_seen_by(bare, [0]))
        assert has_depth(first, first.frames[:1]) and not has_depth(first, first.frames[1:])
        assert has_depth(bare, bare.frames[1:])

    def test_metres_say_nothing_in_a_scene_of_another_unit(self, room_scene: Scene) -> None:
        unknown = replace(room_scene, points=None, metric=False)
        assert has_depth(replace(unknown, metric=True), unknown.frames) and not has_depth(unknown, unknown.frames)

    def test_points_in_one_line_make_no_surface(self) -> None:
        camera, depth = Camera.from_focal(64, 48, 60.0), np.linspace(1.0, 2.0, 12)
        line = np.column_stack([np.zeros(12), np.linspace(-0.2, 0.2, 12) * depth, depth])
        for points_cam in (line, np.tile(line[5], (12, 1))):
            assert np.isnan(views._depth_from_points(points_cam, camera)).all()

    def test_without_either_it_says_what_to_do(self, room_scene: Scene, tmp_path: Path) -> None:
        bare = replace(room_scene, frames=tuple(replace(f, depth=None) for f in room_scene.frames), points=None)
        assert not has_depth(bare, bare.frames)
        with pytest.raises(SceneError, match=r"neither depth pictures nor points.*--new-views 0"):
            surfaces_of(bare)

    def test_missing_depth_is_guessed_and_marked(self, surfaces: Surfaces, room_scene: Scene) -> None:
        assert np.isfinite(surfaces.depth.astype(np.float32)).all()
        assert surfaces.measured.mean() > 0.9
