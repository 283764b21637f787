"""Depth and colour are exact: against a slow ray caster, between frames, behind the camera and through lenses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from placecell.camera import Camera
from placecell.pose import Array, Pose
from placecell.rendering import Quad, Room, render, visible
from placecell.synthetic import room, trajectory

CAMERA = Camera(160, 120, 130.0, 128.0, 78.0, 62.0)


def quad(corner: tuple[float, ...], u: tuple[float, ...], v: tuple[float, ...], texture: NDArray[np.uint8]) -> Quad:
    levels = [texture]
    while min(levels[-1].shape[:2]) >= 2:
        half = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return Quad(np.array(corner, float), np.array(u, float), np.array(v, float), tuple(levels))


def flat(value: int) -> NDArray[np.uint8]:
    return np.full((16, 16, 3), value, np.uint8)


def without_vignette(image: NDArray[np.uint8]) -> Array:
    x, y = np.linspace(-1, 1, image.shape[1]), np.linspace(-1, 1, image.shape[0])[:, None]
    return image / (1 - 0.12 * (x * x + y * y))[..., None]


def cast(place: Room, world_from_cam: Pose, ray_cam: Array) -> float:
    """Depth along z of one ray by solving for every rectangle in turn."""
    nearest = np.inf
    ray = world_from_cam.rotation @ ray_cam
    for surface in place.quads:
        if np.cross(surface.edge_u, surface.edge_v) @ (surface.corner_world - world_from_cam.translation) <= 0:
            continue
        columns = np.column_stack([ray, -surface.edge_u, -surface.edge_v])
        if abs(np.linalg.det(columns)) < 1e-12:
            continue
        depth, s, t = np.linalg.solve(columns, surface.corner_world - world_from_cam.translation)
        if depth > 0 and 0 <= s <= 1 and 0 <= t <= 1:
            nearest = min(nearest, depth)
    return nearest


def test_a_texture_seen_one_texel_a_pixel_is_itself() -> None:
    texture = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    camera = Camera.from_focal(64, 48, 64.0)
    wall = quad((-1.0, -0.75, 2.0), (2.0, 0, 0), (0, 1.5, 0), texture)
    seen = render(Room((wall,)), camera, Pose.identity())
    assert np.abs(without_vignette(seen.image) - texture).max() <= 1.5
    np.testing.assert_array_equal(seen.depth_m, np.float32(2.0))


def test_a_fine_texture_far_away_is_its_mean() -> None:
    texture = np.zeros((310, 310, 3), np.uint8)  # 4.8 texels a pixel, so that no sample falls between two texels alike
    texture[::2, ::2] = texture[1::2, 1::2] = 200
    wall = quad((-2.0, -2.0, 4.0), (4.0, 0, 0), (0, 4.0, 0), texture)
    seen = without_vignette(render(Room((wall,)), Camera.from_focal(64, 64, 64.0), Pose.identity()).image)
    assert np.abs(seen[2:-2, 2:-2] - 100).max() <= 3


def test_the_nearest_surface_wins_whatever_the_order() -> None:
    far = quad((-4, -4, 3), (8, 0, 0), (0, 8, 0), flat(50))
    near = quad((-0.5, -0.5, 1), (1, 0, 0), (0, 1, 0), flat(200))
    for quads in ((far, near), (near, far)):
        seen = render(Room(quads), CAMERA, Pose.identity())
        assert (seen.depth_m[62, 78], seen.depth_m[2, 2]) == (1.0, 3.0)
        assert seen.image[62, 78, 0] >= 195
        assert seen.image[30, 5, 0] <= 50


def test_a_surface_has_one_side() -> None:
    wall = quad((-4, -4, 3), (8, 0, 0), (0, 8, 0), flat(50))
    behind = Pose(np.diag([-1.0, 1.0, -1.0]), np.array([0.0, 0.0, 6.0]))  # looking back at it from z = 6
    assert np.isfinite(render(Room((wall,)), CAMERA, Pose.identity()).depth_m).all()
    nothing = render(Room((wall,)), CAMERA, behind)
    assert np.isnan(nothing.depth_m).all()
    assert (nothing.image == 0).all()


def test_a_floor_that_reaches_behind_the_camera() -> None:
    # y points down: a floor 1 m below the camera, from 5 m behind it to 5 m before it.
    floor = quad((-5, 1, 5), (10, 0, 0), (0, 0, -10), flat(120))
    seen = render(Room((floor,)), CAMERA, Pose.identity())
    rows = np.arange(120) + 0.5
    expected = 1.0 / ((rows - CAMERA.cy) / CAMERA.fy)
    ground = (expected > 0) & (expected <= 5)
    np.testing.assert_allclose(seen.depth_m[ground, 78], expected[ground], rtol=1e-6)
    assert np.isnan(seen.depth_m[~ground, 78]).all()
    assert ground.any()
    assert not ground.all()


@pytest.mark.parametrize("index", [0, 3, 7])
def test_depth_agrees_with_a_ray_caster(index: int) -> None:
    pose = trajectory("visit", 10)[index]
    depth_m = render(room(0), CAMERA, pose).depth_m
    rng = np.random.default_rng(index)
    for column, row in zip(rng.integers(0, 160, 60), rng.integers(0, 120, 60), strict=True):
        expected = cast(room(0), pose, CAMERA.rays([column + 0.5, row + 0.5]))
        assert depth_m[row, column] == pytest.approx(expected, rel=1e-6)


def seen_points(camera: Camera, pose: Pose) -> tuple[Array, NDArray[np.uint8], NDArray[np.float32]]:
    seen = render(room(0), camera, pose)
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    points = pose.apply(camera.rays(np.stack([columns, rows], -1)) * seen.depth_m[..., None])
    return points, seen.image, seen.depth_m


def sampled(image: NDArray[np.generic], pixels: Array) -> Array:
    x, y = pixels.T - 0.5
    channels = np.atleast_3d(image).astype(float)
    found = [map_coordinates(channels[..., c], [y, x], order=1, mode="nearest") for c in range(channels.shape[2])]
    return np.squeeze(np.stack(found, axis=-1), axis=-1) if image.ndim == 2 else np.stack(found, axis=-1)


def test_points_of_one_frame_are_found_in_another() -> None:
    first, second = trajectory("walk", 40)[5], trajectory("walk", 40)[6]
    camera = Camera.from_focal(320, 240, 262.0)
    points, image, _ = seen_points(camera, first)
    other = render(room(0), camera, second)
    other_image = without_vignette(other.image)
    points, colours = points.reshape(-1, 3), without_vignette(image).reshape(-1, 3)

    def disagreement(second_estimate: Pose) -> tuple[float, float]:
        in_second = second_estimate.inv.apply(points)
        pixels = camera.project(in_second)
        inside = camera.contains(pixels - 2) & camera.contains(pixels + 2)
        depth = sampled(other.depth_m, pixels[inside])
        same = np.abs(depth - in_second[inside, 2]) < 0.01
        away = np.abs(sampled(other_image, pixels[inside]) - colours[inside])
        return float(away[same].mean()), float(same.mean())

    exact, share = disagreement(second)
    assert exact < 4  # two samplings remain
    assert share > 0.8
    for axis in range(3):
        turn = np.zeros(6)
        turn[axis] = 0.01
        wrong, share_wrong = disagreement(second @ Pose.exp(turn))
        assert wrong > 1.3 * exact or share_wrong < 0.5 * share


@pytest.mark.parametrize(
    ("model", "distortion"), [("opencv", (-0.2, 0.05, 0.002, -0.001)), ("fisheye", (0.02, 0.0, 0.0, 0.0))]
)
def test_lenses_bend_pictures_not_the_place(model: str, distortion: tuple[float, ...]) -> None:
    camera = Camera(160, 120, 110.0, 110.0, 81.0, 58.0, model, distortion)  # type: ignore[arg-type]
    pose = trajectory("walk", 10)[2]
    points, image, depth_m = seen_points(camera, pose)
    assert np.isfinite(depth_m).all()
    for column, row in ((3, 4), (80, 60), (155, 20)):
        assert depth_m[row, column] == pytest.approx(cast(room(0), pose, camera.rays([column + 0.5, row + 0.5])), 1e-6)
    # The lens moves what the pinhole shows, and the colours come along.
    straight = render(room(0), camera.pinhole, pose).image
    pixels = camera.pinhole.project(pose.inv.apply(points.reshape(-1, 3)))
    inside = camera.contains(pixels - 1) & camera.contains(pixels + 1)
    found = sampled(straight, pixels[inside])
    bent = image.reshape(-1, 3)[inside].astype(float)
    assert np.abs(found - bent).mean() < 0.5 * np.abs(straight.reshape(-1, 3)[inside] - bent).mean()


def test_visible_is_what_depth_shows() -> None:
    pose = trajectory("walk", 10)[4]
    points, _, depth_m = seen_points(CAMERA, pose)
    points = points[::7, ::7].reshape(-1, 3)
    assert visible(room(0), pose, points).all()
    behind = pose.translation + 1.05 * (points - pose.translation)
    before = pose.translation + 0.95 * (points - pose.translation)
    assert not visible(room(0), pose, behind).any()
    assert visible(room(0), pose, before).all()
    assert not visible(room(0), pose, 2 * pose.translation - points).any()  # at the back of the camera
    assert depth_m.min() > 0.3


def test_exposure_and_noise() -> None:
    wall = Room((quad((-4, -4, 3), (8, 0, 0), (0, 8, 0), flat(100)),))
    clean = render(wall, CAMERA, Pose.identity()).image
    bright = render(wall, CAMERA, Pose.identity(), exposure=1.5).image
    assert bright[62, 78, 0] == pytest.approx(1.5 * clean[62, 78, 0], abs=1)
    assert int(clean[62, 78, 0]) > int(clean[0, 0, 0]) + 10  # darker corners
    noisy = [render(wall, CAMERA, Pose.identity(), noise_seed=seed).image for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert 0.5 < (noisy[0].astype(int) - noisy[2]).std() < 5
    assert abs(float(noisy[0].mean()) - float(clean.mean())) < 0.2
