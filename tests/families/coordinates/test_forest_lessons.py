"""What a forest learns from: labelled pixels of rendered and of real frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.estimate import Query
from placecell.families.coordinates.forest.features import FARTHEST_MM
from placecell.families.coordinates.forest.lessons import (
    Drawing,
    Lessons,
    as_pixels,
    chosen,
    drawn,
    drawn_anywhere,
    lessons,
    sight,
)
from placecell.images import load_query, write_jpeg
from placecell.log import Silent
from placecell.resample import canonical_camera
from placecell.scene import Scene

DRAWING = Drawing(chosen(2, 6, images=4, seed=0), pixels=200, seed=0)


def learned(scene: Scene, drawing: Drawing = DRAWING, features: str = "da-rgb+d", *, count: int = 6) -> Lessons:
    frames = scene.split("train").posed[:count]
    anchor = Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    camera = canonical_camera([scene.camera_of(frame) for frame in frames], 120)
    return lessons(scene, frames, camera, anchor, drawing, features, Silent())


def test_a_sample_is_the_point_of_the_room_that_its_pixel_shows(room_scene: Scene) -> None:
    found = learned(room_scene)
    frames = room_scene.split("train").posed[:6]
    anchor = Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    for samples in found.samples:
        for picture in np.unique(samples.pixels.picture):
            query = load_query(room_scene, frames[picture], depth=True)
            mine = samples.pixels.picture == picture
            world = anchor.world_from_anchor.apply(samples.points[mine])
            world_from_cam = frames[picture].world_from_cam
            assert world_from_cam is not None and query.depth_m is not None
            points_cam = world_from_cam.inv.apply(world)
            place = query.camera.project(points_cam)
            column, row = np.floor(place).astype(int).T
            np.testing.assert_allclose(points_cam[:, 2], query.depth_m[row, column], atol=2e-4)
            shrunk = np.stack([samples.pixels.u_px[mine], samples.pixels.v_px[mine]], axis=-1)
            np.testing.assert_allclose(shrunk, place * 120 / query.camera.height, atol=0.01)
            zoom = found.planes.camera.fx / points_cam[:, 2]
            np.testing.assert_allclose(samples.pixels.zoom_px[mine], zoom, rtol=1e-3)
            assert abs(place - np.floor(place) - 0.5).max() < 0.01  # the middle of a pixel


def test_each_tree_learns_from_frames_and_pixels_of_its_own(room_scene: Scene) -> None:
    first, second = learned(room_scene).samples
    for samples in (first, second):
        assert len(np.unique(samples.pixels.picture)) == 4
        assert len(samples.points) == 4 * 200
    assert set(first.pixels.picture) != set(second.pixels.picture) or not np.array_equal(first.points, second.points)
    assert len(np.unique(first.points, axis=0)) == len(first.points)


def test_the_seed_decides_what_is_drawn(room_scene: Scene) -> None:
    same, again = learned(room_scene), learned(room_scene)
    np.testing.assert_array_equal(same.samples[1].points, again.samples[1].points)
    other = learned(room_scene, replace(DRAWING, seed=1))
    assert not np.array_equal(same.samples[1].points, other.samples[1].points)


def test_all_frames_are_learned_from_where_there_are_few() -> None:
    assert chosen(3, 7, images=500, seed=0).all()
    assert chosen(3, 7, images=4, seed=0).sum(axis=1).tolist() == [4, 4, 4]


def test_folds_leave_every_frame_and_its_neighbours_to_two_other_trees() -> None:
    mask = chosen(5, 100, images=500, seed=0, folds=True)
    assert (mask.sum(axis=0) == 3).all() and (mask.sum(axis=1) == 60).all()
    assert np.count_nonzero(np.diff(mask.astype(int), axis=1)) < 60  # in runs; at random it would be 240
    assert chosen(5, 100, images=50, seed=0, folds=True).sum(axis=1).tolist() == [50] * 5
    assert chosen(2, 100, images=500, seed=0, folds=True).all()


def test_pictures_hold_depth_only_where_features_ask_for_it(room_scene: Scene) -> None:
    with_depth, without = learned(room_scene), learned(room_scene, features="da-rgb")
    assert with_depth.planes.values.shape == (6, 4, 120, 160) and without.planes.values.shape == (6, 3, 120, 160)
    np.testing.assert_array_equal(with_depth.planes.values[:, :3], without.planes.values)
    known = with_depth.planes.values[:, 3]
    assert 500 < np.median(known[known < FARTHEST_MM]) < 6000


def test_without_depth_offsets_do_not_shrink_and_points_teach(room_scene: Scene) -> None:
    frames = room_scene.split("train").posed[:6]
    anchor = Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    bare = replace(room_scene, frames=tuple(replace(frame, depth=None) for frame in room_scene.frames))
    for scene in (room_scene, bare, replace(bare, metric=False)):
        found = learned(scene, features="rgb")
        for samples in found.samples:
            assert (samples.pixels.zoom_px == np.float32(found.planes.camera.fx)).all()
            assert 50 < len(samples.points) / 4 <= 200
    assert room_scene.points is not None
    seen = anchor.world_from_anchor.inv.apply(room_scene.points.points_world)
    for samples in found.samples:
        off = np.linalg.norm(samples.points[:50, None] - seen, axis=-1).min(axis=1)
        assert off.max() < 1e-4
        centre = anchor.labels([frames[i].world_from_cam for i in samples.pixels.picture])  # type: ignore[misc]
        points_cam = np.einsum("nji,nj->ni", centre.rotations, samples.points - centre.centres)
        place = found.planes.camera.project(points_cam)
        np.testing.assert_allclose(np.stack([samples.pixels.u_px, samples.pixels.v_px], axis=-1), place, atol=0.01)


def test_pixels_are_drawn_from_all_over_a_picture() -> None:
    camera = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002))
    pixels, rays = drawn_anywhere(camera, 1000, np.random.default_rng(0))
    assert len(np.unique(pixels, axis=0)) == 1000 and camera.contains(pixels).all()
    assert (np.ptp(pixels, axis=0) > (60, 45)).all()
    np.testing.assert_allclose(camera.project(3 * rays), pixels, atol=1e-6)


def test_blank_pictures_teach_nothing(room_scene: Scene, tmp_path: Path) -> None:
    frames = room_scene.split("train").posed[:6]
    camera = room_scene.camera_of(frames[0])
    write_jpeg(tmp_path / "black.jpg", np.zeros((camera.height, camera.width, 3), np.uint8))
    black = [replace(frame, image=str(tmp_path / "black.jpg")) for frame in frames]
    scene = replace(room_scene, frames=(*black[:3], *frames[3:]), points=None)
    for samples in learned(scene, Drawing(np.ones((2, 6), bool), 200, 0)).samples:
        assert set(samples.pixels.picture) == {3, 4, 5}
    with pytest.raises(MapError, match="nothing is in its training pictures"):
        learned(replace(room_scene, frames=tuple(black), points=None))


def picture(camera: Camera, depth_m: np.ndarray) -> Query:
    image = np.random.default_rng(0).integers(0, 255, (camera.height, camera.width, 3)).astype(np.uint8)
    return Query("q", image, camera, depth_m.astype(np.float32))


def test_pixels_without_depth_are_never_drawn() -> None:
    camera = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002))
    depth_m = np.full((48, 64), np.nan)
    depth_m[10:12, 20:30], depth_m[0, 0], depth_m[1, 1], depth_m[2, 2] = 2.0, 0.0, -1.0, np.inf
    pixels, points_cam = drawn(picture(camera, depth_m), 1000, np.random.default_rng(0))
    assert len(pixels) == len(np.unique(pixels, axis=0)) == 20
    assert pixels.min(axis=0).tolist() == [20.5, 10.5] and pixels.max(axis=0).tolist() == [29.5, 11.5]
    np.testing.assert_allclose(camera.project(points_cam), pixels, atol=1e-6)
    assert (points_cam[:, 2] == 2.0).all()
    assert len(drawn(picture(camera, depth_m), 7, np.random.default_rng(0))[0]) == 7
    assert len(drawn(replace(picture(camera, depth_m), depth_m=None), 7, np.random.default_rng(0))[0]) == 0


def test_a_distorted_picture_is_read_where_the_canonical_camera_sees_the_point() -> None:
    camera = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002))
    canonical = canonical_camera([camera], 96)
    _, points_cam = drawn(picture(camera, np.full((48, 64), 1.5)), 50, np.random.default_rng(0))
    pixels = as_pixels(points_cam, canonical, picture=3)
    expected = canonical.project(points_cam)
    np.testing.assert_allclose(np.stack([pixels.u_px, pixels.v_px], axis=-1), expected, atol=1e-4)
    assert (pixels.picture == 3).all()
    np.testing.assert_allclose(pixels.zoom_px, canonical.fx / 1.5, rtol=1e-6)


def test_a_picture_is_read_as_the_canonical_camera_would_have_taken_it(room_scene: Scene) -> None:
    query = load_query(room_scene, room_scene.split("test").frames[0], depth=True)
    camera = query.camera.resized(160, 120)
    whole = sight(query, camera, depth=True).values[0]
    area = query.image.reshape(120, 3, 160, 3, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(whole[:3] - area).max() <= 1
    assert query.depth_m is not None
    nearest = np.nanmin(query.depth_m.reshape(120, 3, 160, 3), axis=(1, 3))
    np.testing.assert_allclose(whole[3] / 1000, nearest, atol=2e-3)
