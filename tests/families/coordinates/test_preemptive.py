"""Poses from many modes a pixel: found among outliers, refused for a reason, and as sure as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.families.coordinates.preemptive import Found, Guesses, _survivor, preemptive_kabsch, preemptive_pnp
from placecell.pose import Array, Pose, pose_error

PINHOLE = Camera(640, 480, 520.0, 530.0, 315.0, 245.0)
CAMERAS = [
    PINHOLE,
    Camera(640, 480, 520.0, 530.0, 315.0, 245.0, "opencv", (-0.2, 0.05, 0.002, -0.003)),
    Camera(640, 480, 330.0, 328.0, 322.0, 238.0, "fisheye", (0.05, -0.01, 0.003, -0.001)),
]
every_camera = pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.model)
Floats = NDArray[np.float32]
WORLD_FROM_CAM = Pose.exp([0.9, -1.3, 0.4, 3.0, -2.0, 7.5])


def guesses(
    camera: Camera = PINHOLE,
    *,
    count: int = 1500,
    modes: int = 4,
    share: float = 0.5,
    sigma: float = 0.02,
    seed: int = 0,
) -> Guesses:
    """A share of the pixels have the truth, `sigma` off an axis, among their modes; the others lie about the place."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform((0, 0), (camera.width, camera.height), (count, 2))
    cam = camera.rays(pixels) * rng.uniform(1.0, 4.0, (count, 1))
    world = WORLD_FROM_CAM.translation + rng.uniform(-4, 4, (count, modes, 3))
    weight = rng.uniform(0.5, 1.0, (count, modes))
    true = np.arange(count) < share * count
    best = rng.integers(0, modes, count)
    truth = WORLD_FROM_CAM.apply(cam) + sigma * rng.standard_normal((count, 3))
    world[true, best[true]] = truth[true]
    weight[np.arange(count), best] *= 3
    unused = (rng.random((count, modes)) < 0.2) & (np.arange(modes) != best[:, None])
    world[unused], weight[unused] = np.nan, 0.0
    weight /= weight.sum(axis=1, keepdims=True) * 1.05
    covariance = np.broadcast_to(sigma**2 * np.eye(3), (count, modes, 3, 3))
    single = [values.astype(np.float32) for values in (pixels, world, weight, cam, covariance)]
    return Guesses(*single)


def posed(found: Found) -> tuple[Pose, Array]:
    """Pose and covariance of an answer that has both."""
    assert found.world_from_cam is not None and found.covariance is not None and found.reason is None
    return found.world_from_cam, found.covariance


def answer(kind: str, given: Guesses, *, camera: Camera = PINHOLE, seed: int = 0) -> Found:
    """Either of the two, with fewer hypotheses than usual."""
    if kind == "kabsch":
        return preemptive_kabsch(given, hypotheses=256, seed=seed)
    return preemptive_pnp(replace(given, points_cam=None), camera, hypotheses=128, seed=seed)


either = pytest.mark.parametrize("kind", ["kabsch", "pnp"])


class TestBoth:
    @either
    def test_the_pose_is_found_among_wrong_modes_and_wrong_pixels(self, kind: str) -> None:
        for seed in range(3):
            found = answer(kind, guesses(seed=seed), seed=seed)
            error = pose_error(found.world_from_cam, WORLD_FROM_CAM)
            assert error.distance < 0.01 and error.angle_deg < 0.3
            assert 600 < found.inliers < 850

    @either
    def test_modes_without_spread_will_do(self, kind: str) -> None:
        found = answer(kind, replace(guesses(), covariance=None))
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 0.015

    @either
    def test_one_mode_a_pixel_will_do(self, kind: str) -> None:
        found = answer(kind, guesses(modes=1, share=0.6, sigma=0.01))
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 0.01

    @either
    def test_fewer_pixels_than_a_batch_are_looked_at_again(self, kind: str) -> None:
        found = answer(kind, guesses(count=60, share=0.8))
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 0.05
        assert found.inliers <= 60

    @either
    def test_the_same_seed_gives_the_same_bits(self, kind: str) -> None:
        first, second = (answer(kind, guesses(), seed=4) for _ in range(2))
        assert posed(first)[0] == posed(second)[0] and first.inliers == second.inliers
        np.testing.assert_array_equal(posed(first)[1], posed(second)[1])

    @either
    def test_moving_the_world_moves_the_answer(self, kind: str) -> None:
        given = guesses()
        # By whole powers of two along the axes and quarter turns: single precision moves nothing else.
        moved_from_world = Pose(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([256.0, -512.0, 128.0]))
        world = moved_from_world.apply(given.points_world).astype(np.float32)
        here, there = answer(kind, given), answer(kind, replace(given, points_world=world))
        error = pose_error(there.world_from_cam, moved_from_world @ posed(here)[0])
        assert error.distance < 1e-3 and error.angle_deg < 0.02
        np.testing.assert_allclose(np.diag(posed(there)[1]), np.diag(posed(here)[1]), rtol=0.1)

    @either
    def test_the_covariance_is_that_of_the_errors(self, kind: str) -> None:
        nees = []
        for seed in range(10):
            found, covariance = posed(answer(kind, guesses(sigma=0.008, count=400, share=0.8, seed=seed), seed=seed))
            off = (found.inv @ WORLD_FROM_CAM).log()
            nees.append(off @ np.linalg.solve(covariance, off))
        assert 3.0 < np.mean(nees) < 12.0  # 6 expected; wrong modes that happen to be near add to it

    @either
    def test_random_coordinates_convince_few_pixels(self, kind: str) -> None:
        found = answer(kind, guesses(share=0.0))
        assert found.inliers < 60
        assert (found.world_from_cam is None) == (found.reason is not None)

    @either
    def test_no_modes_are_a_refusal(self, kind: str) -> None:
        given = guesses(count=20)
        for left in (0, 2):
            weight = given.weight.copy()
            weight[left:] = 0.0
            found = answer(kind, replace(given, weight=weight))
            assert found.world_from_cam is None and found.inliers == 0
            assert found.reason is not None and found.reason.startswith(f"{left} pixels have")
        empty = Guesses(*(values[:0] for values in vars(given).values()))
        assert answer(kind, empty).world_from_cam is None

    @either
    def test_coordinates_in_one_point_are_a_refusal(self, kind: str) -> None:
        given = guesses()
        world = np.broadcast_to(np.array([1, 2, 3], dtype=np.float32), given.points_world.shape)
        found = answer(kind, replace(given, points_world=world))
        assert found.world_from_cam is None and found.reason is not None and "\n" not in found.reason


class TestKabsch:
    def test_pixels_without_depth_take_no_part(self) -> None:
        given = guesses()
        assert given.points_cam is not None
        holes = given.points_cam.copy()
        holes[::3] = np.nan
        found = preemptive_kabsch(replace(given, points_cam=holes), hypotheses=256, seed=0)
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 0.01
        assert 420 < found.inliers < 600
        holes[:] = np.nan
        nothing = preemptive_kabsch(replace(given, points_cam=holes), seed=0)
        assert nothing.reason == "0 pixels have both depth and a coordinate, 3 needed"

    def test_pictures_without_depth_are_not_for_it(self) -> None:
        with pytest.raises(ValueError, match="points_cam"):
            preemptive_kabsch(replace(guesses(), points_cam=None), seed=0)

    def test_a_place_of_another_size_is_refused_or_hardly_agreed_with(self) -> None:
        given = guesses()
        found = preemptive_kabsch(replace(given, points_world=2 * given.points_world), hypotheses=256, seed=0)
        assert found.inliers < 150

    def test_a_tenth_of_true_modes_is_enough(self) -> None:
        found = preemptive_kabsch(guesses(count=3000, share=0.1), seed=0)
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 0.03

    def test_tighter_modes_count_more(self) -> None:
        given = guesses(sigma=0.002, modes=2)
        assert given.covariance is not None
        rng = np.random.default_rng(0)
        loose = rng.random(len(given.pixels)) < 0.7
        world, covariance = given.points_world.copy(), given.covariance.copy()
        world[loose] += 0.03 * rng.standard_normal((int(loose.sum()), 2, 3)).astype(np.float32)
        covariance[loose] = 9e-4 * np.eye(3)
        told = replace(given, points_world=world, covariance=covariance)
        errors = [
            pose_error(preemptive_kabsch(some, hypotheses=256, seed=0).world_from_cam, WORLD_FROM_CAM).distance
            for some in (told, replace(told, covariance=None))
        ]
        assert errors[0] < 0.8 * errors[1]


class TestPnP:
    @every_camera
    def test_every_camera_is_understood(self, camera: Camera) -> None:
        found = answer("pnp", guesses(camera), camera=camera)
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 0.02
        assert 600 < found.inliers < 850

    def test_the_pixels_are_those_of_the_distorted_picture(self) -> None:
        naive = answer("pnp", guesses(CAMERAS[1], sigma=0.002), camera=PINHOLE)
        right = answer("pnp", guesses(CAMERAS[1], sigma=0.002), camera=CAMERAS[1])
        assert right.inliers > 1.2 * naive.inliers

    def test_a_place_of_another_size_gives_a_pose_at_that_size(self) -> None:
        given = guesses()
        assert given.covariance is not None
        doubled = replace(given, points_world=2 * given.points_world, covariance=4 * given.covariance)
        found = answer("pnp", doubled)
        expected = Pose(WORLD_FROM_CAM.rotation, 2 * WORLD_FROM_CAM.translation)
        assert pose_error(found.world_from_cam, expected).distance < 0.02


class Scripted:
    """Evidence of 10 pixels; hypothesis i lies at x = i and costs what the script of each round says."""

    def __init__(self, script: list[dict[int, float]], pixels: NDArray[np.intp] | None = None) -> None:
        self.script = script
        self.pixels = np.arange(10) if pixels is None else pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def only(self, pixels: NDArray[np.intp]) -> Scripted:
        return Scripted(self.script, self.pixels[pixels])

    def energy(self, rotation: Floats, translation: Floats) -> Array:
        costs = self.script.pop(0)
        assert len(self) == 4 and {int(x) for x in translation[:, 0]} == set(costs)
        return np.array([costs[int(x)] for x in translation[:, 0]])

    def refined(self, rotation: Floats, translation: Floats) -> tuple[Floats, Floats]:
        assert len(self) == min(10, 4 * (3 - len(self.script)))
        assert len(set(self.pixels.tolist())) == len(self)
        return rotation, translation + np.array([0.0, 1.0, 0.0], dtype=np.float32)


class TestRounds:
    def test_half_is_dropped_energies_add_up_and_the_others_are_refined_on_all_that_was_seen(self) -> None:
        # 3 has cost 1 + 1 + 1.4 and 4 has 0 + 2.5 + 1.2: the last round alone would say 4.
        script = [{i: float(abs(i - 4)) for i in range(8)}, {2: 9.0, 3: 1.0, 4: 2.5, 5: 9.0}, {3: 1.4, 4: 1.2}]
        rotation = np.tile(np.eye(3, dtype=np.float32), (8, 1, 1))
        translation = np.zeros((8, 3), dtype=np.float32)
        translation[:, 0] = np.arange(8)
        left = _survivor(Scripted(script), rotation, translation, 4, np.random.default_rng(0))
        np.testing.assert_array_equal(left.translation, [3.0, 3.0, 0.0])
        assert script == []


class TestGuesses:
    @pytest.mark.parametrize("name", ["pixels", "points_world", "points_cam", "covariance"])
    def test_shapes_that_disagree_are_refused(self, name: str) -> None:
        given = guesses(count=10)
        with pytest.raises(ValueError, match=name):
            replace(given, **{name: getattr(given, name)[:9]})
