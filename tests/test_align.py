"""Laws, oracles and traps of `placecell.align`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from placecell.align import (
    Similarity,
    align_scene,
    ecef_from_geodetic,
    enu_from_geodetic,
    metric_from_depth,
    metric_from_distance,
    metric_from_gps,
    trajectory_error,
    umeyama,
    umeyama_robust,
)
from placecell.camera import Camera
from placecell.errors import SceneError
from placecell.points import PointCloud
from placecell.pose import Array, Pose, pose_error
from placecell.scene import Frame, Scene

SEEDS = st.integers(0, 10_000)


def similarity(seed: int) -> Similarity:
    random = np.random.default_rng(seed)
    return Similarity(
        float(np.exp(random.normal())), Rotation.random(random_state=seed).as_matrix(), random.normal(size=3) * 5
    )


def pose(seed: int) -> Pose:
    random = np.random.default_rng(seed)
    return Pose(Rotation.random(random_state=seed).as_matrix(), random.normal(size=3))


def cloud(seed: int, count: int = 40) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3)) * (3, 2, 1)


def same(one: Similarity, other: Similarity, tolerance: float = 1e-9) -> bool:
    return (
        abs(one.scale / other.scale - 1) < tolerance
        and bool(np.abs(one.rotation - other.rotation).max() < tolerance)
        and bool(np.abs(one.translation - other.translation).max() < tolerance * 100)
    )


def scene_of(poses: list[Pose], points: PointCloud | None = None, metric: bool = False) -> Scene:
    frames = tuple(Frame(f"{i:03}.png", f"{i:03}.png", "c", value) for i, value in enumerate(poses))
    return Scene("room", "sfm", metric, frames, {"c": Camera.from_focal(640, 480, 500)}, Path(), points=points)


@given(SEEDS)
@settings(max_examples=20)
def test_similarities_are_a_group_that_acts_on_points(seed: int) -> None:
    c_from_b, b_from_a = similarity(seed), similarity(seed + 1)
    points = cloud(seed)
    assert np.allclose((c_from_b @ b_from_a).apply(points), c_from_b.apply(b_from_a.apply(points)))
    assert same(b_from_a.inv @ b_from_a, Similarity.identity())
    assert same(b_from_a @ b_from_a.inv, Similarity.identity())


@given(SEEDS)
@settings(max_examples=20)
def test_a_moved_pose_sees_moved_points_at_the_same_place_but_scaled(seed: int) -> None:
    b_from_a, a_from_cam = similarity(seed), pose(seed + 1)
    points = cloud(seed)
    seen = a_from_cam.inv.apply(points)
    assert np.allclose(b_from_a.apply_pose(a_from_cam).inv.apply(b_from_a.apply(points)), b_from_a.scale * seen)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_similarity_refuses_a_scale_that_is_none(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        Similarity.scaling(scale)


@given(SEEDS)
@settings(max_examples=20)
def test_umeyama_recovers_what_moved_the_points(seed: int) -> None:
    b_from_a, points = similarity(seed), cloud(seed)
    assert same(umeyama(points, b_from_a.apply(points)), b_from_a)


def test_umeyama_agrees_with_pycolmap_on_noisy_points() -> None:
    points = cloud(3)
    target = similarity(4).apply(points) + np.random.default_rng(5).normal(size=points.shape) * 0.2
    found = umeyama(points, target)
    theirs = pycolmap.estimate_sim3d(points, target).matrix()
    assert np.allclose(found.scale * found.rotation, theirs[:, :3], atol=1e-9)
    assert np.allclose(found.translation, theirs[:, 3], atol=1e-9)


@pytest.mark.parametrize("scale", [True, False])
def test_umeyama_is_the_least_squares_optimum(scale: bool) -> None:
    points = cloud(3)
    target = similarity(4).apply(points) + np.random.default_rng(5).normal(size=points.shape) * 0.3
    found = umeyama(points, target, scale=scale)
    assert scale or found.scale == 1.0

    def residuals(step: Array) -> Array:
        moved = Similarity(
            found.scale * np.exp(step[0] if scale else 0.0),
            Rotation.from_rotvec(step[1:4]).as_matrix() @ found.rotation,
            found.translation + step[4:],
        )
        return (moved.apply(points) - target).ravel()

    best = least_squares(residuals, np.zeros(7))
    assert np.abs(best.x).max() < 1e-5


def test_planar_centres_align_without_a_reflection() -> None:
    points = cloud(1) * (1, 1, 0)
    b_from_a = similarity(2)
    assert same(umeyama(points, b_from_a.apply(points)), b_from_a)
    mirrored = umeyama(cloud(1), cloud(1) * (1, 1, -1))
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (np.zeros((2, 3)), "at least three"),
        (np.outer(np.arange(5.0), (1, 2, 3)), "one line"),
        (np.ones((5, 3)), "one line"),
        (np.full((5, 3), np.nan), "not finite"),
    ],
)
def test_degenerate_centres_are_refused(points: Array, text: str) -> None:
    with pytest.raises(SceneError, match=text) as caught:
        umeyama(points, points)
    assert "\n" not in str(caught.value)


def test_points_on_a_line_are_refused_in_either_frame() -> None:
    line = np.outer(np.arange(40.0), (1, 2, 3))
    for pair in ((line, cloud(1)), (cloud(1), line)):
        with pytest.raises(SceneError, match="one line"):
            umeyama(*pair)
        with pytest.raises(SceneError, match="bends"):
            umeyama_robust(*pair)


@pytest.mark.parametrize("max_error", [None, 0.1])
def test_the_robust_alignment_survives_forty_percent_of_wild_centres(max_error: float | None) -> None:
    b_from_a, points = similarity(2), cloud(1, 50)
    random = np.random.default_rng(3)
    target = b_from_a.apply(points) + random.normal(size=points.shape) * 0.01
    target[:20] += random.normal(size=(20, 3)) * 50
    target[0] = (3.1e9, -1.4e8, -1.2e9)
    fit = umeyama_robust(points, target, max_error=max_error)
    assert not fit.inliers[:20].any()
    assert fit.inliers[20:].mean() > 0.8
    assert same(fit.b_from_a, b_from_a, 0.01)
    assert fit.residual < 0.03
    again = umeyama_robust(points, target, max_error=max_error)
    assert same(again.b_from_a, fit.b_from_a, 1e-15)


def test_the_robust_alignment_of_clean_centres_is_the_plain_one() -> None:
    b_from_a, points = similarity(2), cloud(1)
    fit = umeyama_robust(points, b_from_a.apply(points))
    assert same(fit.b_from_a, b_from_a)
    rigid = umeyama_robust(points, b_from_a.apply(points) / b_from_a.scale, scale=False)
    assert rigid.b_from_a.scale == 1.0


def test_a_moved_scene_shows_the_same_pictures() -> None:
    poses = [pose(i) for i in range(3)]
    cloud_world = cloud(7, 30)
    none = np.zeros(0, np.int32)
    points = PointCloud(cloud_world, np.zeros((30, 3), np.uint8), none, none, np.zeros((0, 2), np.float32))
    scene = scene_of([*poses], points)
    moved = align_scene(scene, similarity(4), metric=True, note="made metric")
    camera = scene.cameras["c"]
    assert moved.points is not None
    for before, after in zip(scene.posed, moved.posed, strict=True):
        assert before.world_from_cam is not None
        assert after.world_from_cam is not None
        then = camera.project(before.world_from_cam.inv.apply(cloud_world))
        now = camera.project(after.world_from_cam.inv.apply(moved.points.points_world))
        assert np.allclose(then, now, atol=1e-6, equal_nan=True)
    assert moved.metric
    assert moved.notes == ("made metric",)
    assert not scene.metric
    assert np.array_equal(points.points_world, cloud_world)


def test_frames_without_a_pose_stay_without() -> None:
    scene = Scene("room", "sfm", False, (Frame("a", "a", "c"),), {"c": Camera.from_focal(64, 48, 50)}, Path())
    assert align_scene(scene, similarity(1), metric=False, note="").frames[0].world_from_cam is None


@given(SEEDS)
@settings(max_examples=10)
def test_the_trajectory_error_does_not_see_the_frame_of_the_estimates(seed: int) -> None:
    truths = {str(i): pose(seed + i) for i in range(8)}
    estimates = {name: similarity(seed).apply_pose(truth) for name, truth in truths.items()}
    errors = trajectory_error(estimates, truths)
    assert errors.distances.max() < 1e-8
    assert errors.angles_deg.max() < 1e-6
    assert same(errors.truth_from_estimate, similarity(seed).inv, 1e-8)


def test_the_trajectory_error_without_scale_keeps_the_unit() -> None:
    truths = {str(i): pose(i) for i in range(8)}
    estimates = {name: Similarity.scaling(2.0).apply_pose(truth) for name, truth in truths.items()}
    assert trajectory_error(estimates, truths, scale=True).distances.max() < 1e-9
    assert trajectory_error(estimates, truths, scale=False).distances.max() > 0.1


def test_a_wrong_rotation_shows_in_the_angles_alone_and_a_miss_is_infinite() -> None:
    truths = {str(i): pose(i) for i in range(8)}
    turn = Pose(Rotation.from_rotvec((0, 0, np.radians(30))).as_matrix(), np.zeros(3))
    estimates = {name: truth @ turn for name, truth in truths.items() if name != "3"} | {"stranger": pose(99)}
    errors = trajectory_error(estimates, truths)
    answered = np.arange(8) != 3
    assert errors.distances[answered].max() < 1e-9
    assert np.allclose(errors.angles_deg[answered], 30)
    assert (errors.distances[3], errors.angles_deg[3]) == (np.inf, 180)


def test_a_known_distance_makes_metres() -> None:
    scene = scene_of([pose(0), pose(1), pose(2)])
    fit = metric_from_distance(scene, "000.png", "002.png", 1.5)
    moved = align_scene(scene, fit.metric_from_world, metric=True, note=fit.note)
    first, last = moved.posed[0].world_from_cam, moved.posed[2].world_from_cam
    assert first is not None
    assert last is not None
    assert pose_error(first, last).distance == pytest.approx(1.5)
    assert "1.5 m between 000.png and 002.png" in fit.note


@pytest.mark.parametrize(
    ("first", "second", "distance_m", "text"),
    [
        ("000.png", "nowhere.png", 1.0, "nowhere.png"),
        ("000.png", "000.png", 1.0, "same centre"),
        ("000.png", "001.png", -1.0, "-1.0 m"),
        ("000.png", "001.png", float("nan"), "nan m"),
    ],
)
def test_a_distance_that_cannot_be_is_refused(first: str, second: str, distance_m: float, text: str) -> None:
    with pytest.raises(SceneError, match=text):
        metric_from_distance(scene_of([pose(0), pose(1)]), first, second, distance_m)


def test_depth_makes_metres_in_spite_of_holes_and_wild_readings() -> None:
    random = np.random.default_rng(0)
    units = random.uniform(1, 4, 200)
    metres = 0.4 * units * (1 + random.normal(size=200) * 0.01)
    metres[:30] = 0.0
    metres[30:40] = np.nan
    metres[40:60] = 9.0
    fit = metric_from_depth(metres, units)
    assert fit.metric_from_world.scale == pytest.approx(0.4, rel=0.01)
    assert fit.residual < 0.05


def test_depth_that_says_nothing_is_refused() -> None:
    with pytest.raises(SceneError, match="only 3 depth readings"):
        metric_from_depth([1, 1, 1, np.nan], [1, 1, 1, 1])
    random = np.random.default_rng(0)
    with pytest.raises(SceneError, match="disagree"):
        metric_from_depth(random.uniform(0.1, 10, 100), random.uniform(0.1, 10, 100))


def test_geodetic_formulas_agree_with_pycolmap() -> None:
    random = np.random.default_rng(0)
    origin = np.array([55.7, 13.19, 40.0])
    places = origin + random.normal(size=(20, 3)) * (1e-3, 1e-3, 10)
    oracle = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    assert np.allclose(ecef_from_geodetic(places), oracle.ellipsoid_to_ecef(places), atol=1e-6)
    assert np.allclose(enu_from_geodetic(places, origin), oracle.ellipsoid_to_enu(places, *origin), atol=1e-6)
    assert np.abs(enu_from_geodetic(origin, origin)).max() < 1e-9


def test_east_north_and_up_point_where_they_say() -> None:
    origin = np.array([55.7, 13.19, 40.0])
    steps = enu_from_geodetic(origin + np.diag([1e-5, 1e-5, 1.0]), origin)
    assert np.allclose(steps, [[0, 1.113, 0], [0.628, 0, 0], [0, 0, 1]], atol=2e-3)


def gps_of(centres_enu: Array, origin: Array) -> Array:
    oracle = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    places: Array = np.array(oracle.enu_to_ellipsoid(centres_enu, *origin))
    return places


def test_gps_makes_metres_and_up() -> None:
    random = np.random.default_rng(1)
    enu = random.normal(size=(60, 3)) * (40, 30, 3)
    world_from_metric = similarity(6)
    places = gps_of(enu + random.normal(size=enu.shape) * 0.5, np.array([55.7, 13.19, 40.0]))
    places[:5, 0] += 0.5
    places[7] = np.nan
    fit = metric_from_gps(world_from_metric.apply(enu), *places.T)
    assert fit.metric_from_world.scale == pytest.approx(1 / world_from_metric.scale, rel=0.02)
    assert 0.2 < fit.residual < 2.0
    up = fit.metric_from_world.rotation @ world_from_metric.rotation @ (0, 0, 1)
    assert up[2] > 0.99
    assert "of 60 frames" in fit.note


def test_gps_without_altitude_takes_the_path_as_level_and_says_so() -> None:
    enu = np.random.default_rng(1).normal(size=(60, 3)) * (40, 30, 0)
    places = gps_of(enu, np.array([55.7, 13.19, 40.0]))
    fit = metric_from_gps(enu * 2, places[:, 0], places[:, 1])
    assert fit.metric_from_world.scale == pytest.approx(0.5, rel=1e-3)
    assert "altitudes unknown" in fit.note


def test_gps_along_a_straight_street_says_that_the_roll_is_unknown() -> None:
    random = np.random.default_rng(1)
    enu = np.column_stack([np.linspace(0, 200, 40), np.zeros(40), np.zeros(40)]) + random.normal(size=(40, 3)) * 0.05
    places = gps_of(enu + random.normal(size=enu.shape) * 3, np.array([55.7, 13.19, 40.0]))
    fit = metric_from_gps(enu, *places.T)
    assert fit.metric_from_world.scale == pytest.approx(1.0, rel=0.1)
    assert "roll" in fit.note


def test_too_few_gps_positions_are_refused() -> None:
    with pytest.raises(SceneError, match="only 2 frames have GPS"):
        metric_from_gps(cloud(1, 5), [1, 1, np.nan, np.nan, np.nan], [1, 1, 1, 1, 1])
