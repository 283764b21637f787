"""Laws of two-view matches: what a fundamental matrix explains is kept, what it does not is dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from placecell import two_view
from placecell.camera import Camera
from placecell.colmap import write_database
from placecell.log import Silent
from placecell.pose import Array, Pose, skew
from placecell.sift import UNIT, Features
from placecell.two_view import (
    Verification,
    agree,
    focal_from_fundamentals,
    guess_focal_lengths,
    match_into,
    read_geometries,
    turns_only,
)

CAMERA = Camera.from_focal(640, 480, 500.0)
POINTS = np.random.default_rng(0).uniform([-2, -1.5, 3], [2, 1.5, 7], (300, 3))
SECOND = Pose.exp([0.05, -0.15, 0.02, 0.6, 0.1, 0.1])


def seen_by(world_from_cam: Pose, camera: Camera = CAMERA, wrong: int = 0) -> Features:
    """Features of the points, each with a descriptor of its own; the first `wrong` lie somewhere else."""
    rng = np.random.default_rng(1)
    descriptors = rng.gamma(0.3, size=(len(POINTS), 128))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    pixels = camera.project(world_from_cam.inv.apply(POINTS))
    pixels[:wrong] = np.random.default_rng(2).uniform(0, 480, (wrong, 2))
    count = len(POINTS)
    return Features(
        pixels.astype(np.float32),
        np.ones(count, np.float32),
        np.zeros(count, np.float32),
        np.minimum(descriptors * UNIT, 255).astype(np.uint8),
    )


def fundamental(first: Pose, second: Pose, camera: Camera = CAMERA) -> Array:
    second_from_first = second.inv @ first
    inverse = np.linalg.inv(camera.matrix)
    matrix: Array = inverse.T @ skew(second_from_first.translation) @ second_from_first.rotation @ inverse
    return matrix


def test_wrong_matches_are_dropped_and_the_matrix_leads_from_first_to_second() -> None:
    first, second = seen_by(Pose.identity()), seen_by(SECOND, wrong=60)
    found = agree(first, second, Verification(), 2.0)
    assert found is not None
    assert (found.matches[:, 0] == found.matches[:, 1]).all()
    assert len(found.matches) >= 238
    assert np.count_nonzero(found.matches[:, 0] < 60) <= 4  # a wrong one may lie on its epipolar line
    ours, true = found.fundamental / np.linalg.norm(found.fundamental), fundamental(Pose.identity(), SECOND)
    true /= np.linalg.norm(true)
    assert min(np.abs(ours - true).max(), np.abs(ours + true).max()) < 1e-3
    assert min(np.abs(ours.T - true).max(), np.abs(ours.T + true).max()) > 1e-2


def test_pictures_of_different_places_agree_on_nothing() -> None:
    first, second = seen_by(Pose.identity()), seen_by(SECOND)
    other = Features(second.pixels, second.scales_px, second.angles_rad, second.descriptors[:, ::-1].copy())
    assert agree(first, other, Verification(), 2.0) is None
    few = Features(first.pixels[:10], first.scales_px[:10], first.angles_rad[:10], first.descriptors[:10])
    assert agree(few, second, Verification(), 2.0) is None


def test_matching_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = [seen_by(Pose.exp([0, 0.02 * i, 0, 0.2 * i, 0, 0])) for i in range(4)]
    database = new_database(tmp_path, features)
    pairs = [(0, 1), (0, 2), (1, 2), (2, 3)]
    match_into(database, features, [640] * 4, pairs[:2], Verification(), Silent())
    asked = []

    def spy(first: Features, second: Features, *rest: object) -> None:
        asked.append((features.index(first), features.index(second)))

    monkeypatch.setattr(two_view, "agree", spy)
    match_into(database, features, [640] * 4, pairs, Verification(), Silent())
    assert sorted(asked) == [(1, 2), (2, 3)]
    assert sorted(read_geometries(database)) == [(0, 1), (0, 2)]  # the pairs that agreed on nothing are not evidence
    asked.clear()
    match_into(database, features, [640] * 4, pairs, Verification(), Silent())
    assert asked == []  # though they are remembered


def new_database(folder: Path, features: list[Features], focal_px: float = 768.0, *, known: bool = False) -> Path:
    camera = pycolmap.Camera(
        camera_id=1, model="SIMPLE_RADIAL", width=640, height=480, params=[focal_px, 320.0, 240.0, 0.0]
    )
    camera.has_prior_focal_length = known
    write_database(folder / "x.db", [f"{i}" for i in range(len(features))], features, [camera], [0] * len(features))
    return folder / "x.db"


def motions(count: int) -> list[Pose]:
    rng = np.random.default_rng(3)
    return [Pose.exp(np.concatenate([rng.normal(0, 0.15, 3), rng.normal(0, 0.5, 3)])) for _ in range(count)]


@pytest.mark.parametrize("focal_px", [400.0, 527.0, 900.0])
def test_the_focal_length_is_told_by_fundamental_matrices(focal_px: float) -> None:
    camera = Camera.from_focal(640, 480, focal_px)
    poses = motions(10)
    exact = [fundamental(a, b, camera) for a in poses for b in poses if a is not b]
    wrong = np.random.default_rng(4).normal(size=(30, 3, 3)) * np.outer([1, 1, 300], [1, 1, 300]) / 9e4
    found = focal_from_fundamentals(np.concatenate([exact, wrong]), 640, 480)
    assert found == pytest.approx(focal_px, rel=0.01)


@pytest.mark.parametrize(("known", "expected"), [(False, 500.0), (True, 768.0)])
def test_only_unknown_focal_lengths_are_guessed(tmp_path: Path, known: bool, expected: float) -> None:
    poses = motions(11)
    features = [seen_by(pose) for pose in poses]
    database = new_database(tmp_path, features, known=known)
    pairs = [(i, j) for i in range(11) for j in range(i)]
    match_into(database, features, [640] * 11, pairs, Verification(), Silent())
    camera = pycolmap.Camera(
        camera_id=1, model="SIMPLE_RADIAL", width=640, height=480, params=[768.0, 320.0, 240.0, 0.0]
    )
    camera.has_prior_focal_length = known
    guess_focal_lengths(database, [0] * 11, [camera])
    kept = pycolmap.Database.open(database)
    assert kept.read_camera(1).params[0] == pytest.approx(expected, rel=0.02)
    kept.close()


@pytest.mark.parametrize(("travel", "turned"), [(0.0, True), (0.3, False)])
def test_turning_is_told_from_walking(tmp_path: Path, travel: float, turned: bool) -> None:
    features = [seen_by(Pose.exp([0.01 * i, 0.03 * i, 0.0, travel * i, 0.0, 0.0])) for i in range(6)]
    database = new_database(tmp_path, features)
    match_into(
        database, features, [640] * 6, [(i, j) for i in range(6) for j in range(i + 1, 6)], Verification(), Silent()
    )
    assert len(read_geometries(database)) == 15
    assert turns_only(database, features, [640] * 6, Verification()) == turned
