"""Minimal poses against poselib, and the quartics beneath them against NumPy."""

from __future__ import annotations

import numpy as np
import poselib
from hypothesis import given, settings
from hypothesis import strategies as st

from placecell.families.coordinates.p3p import p3p, pose_of_triangles, quartic_roots
from placecell.pose import Array, Pose

WORLD_FROM_CAM = Pose.exp([0.4, -1.0, 0.3, 1.0, 2.0, 3.0])


def samples(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Unit rays (T, 3, 3) and world points (T, 3, 3) of one camera."""
    cam = np.random.default_rng(seed).uniform([-1.5, -1.2, 1.0], [1.5, 1.2, 4.0], (count, 3, 3))
    return cam / np.linalg.norm(cam, axis=-1, keepdims=True), WORLD_FROM_CAM.apply(cam)


class TestP3P:
    def test_its_solutions_are_those_of_poselib(self) -> None:
        rays, world = samples(400)
        sample, triangles = p3p(rays, world)
        rotation, translation = pose_of_triangles(world[sample], triangles)
        matched = 0
        for index in range(400):
            ours = sample == index
            theirs = [pose.Rt for pose in poselib.p3p(rays[index], world[index])]
            for rt in theirs:
                off = np.abs(rotation[ours] - rt[:, :3].T).max(axis=(1, 2))
                off += np.abs(translation[ours] + rt[:, :3].T @ rt[:, 3]).max(axis=1)
                matched += off.min(initial=np.inf) < 1e-4
        total = sum(len(poselib.p3p(*pair)) for pair in zip(rays, world, strict=True))
        assert total > 600
        assert matched >= 0.995 * total and len(sample) <= 1.005 * total

    def test_the_true_pose_is_among_them(self) -> None:
        rays, world = samples(3000, seed=1)
        sample, triangles = p3p(rays, world)
        rotation, translation = pose_of_triangles(world[sample], triangles)
        off = np.abs(rotation - WORLD_FROM_CAM.rotation).max(axis=(1, 2))
        off += np.abs(translation - WORLD_FROM_CAM.translation).max(axis=1)
        least = np.full(3000, np.inf)
        np.minimum.at(least, sample, off)
        assert (least < 1e-6).mean() > 0.998

    def test_points_lie_ahead_on_their_rays_and_keep_their_distances(self) -> None:
        rays, world = samples(1000, seed=2)
        world = world + np.random.default_rng(0).normal(size=world.shape)  # no longer seen from one place
        sample, triangles = p3p(rays, world)
        depth = np.einsum("ski,ski->sk", triangles, rays[sample])
        assert (depth > 0).all() and 0 < len(sample) < 4000
        np.testing.assert_allclose(triangles, depth[..., None] * rays[sample], atol=1e-9)
        sides = [np.linalg.norm(points - np.roll(points, 1, axis=1), axis=-1) for points in (triangles, world[sample])]
        relative = np.abs(sides[0] / sides[1] - 1).max(axis=1)
        assert np.quantile(relative, 0.99) < 1e-5

    def test_what_is_degenerate_is_left_out_without_a_warning(self) -> None:
        rays, world = samples(5)
        world[0] = world[0, 0]
        rays[1, 1] = rays[1, 0]
        world[2] = world[2, 0] + np.outer([0, 1, 2], world[2, 1] - world[2, 0])
        sample, triangles = p3p(rays, world)
        assert np.isfinite(triangles).all() and 0 not in sample and {3, 4} <= set(sample.tolist())
        nothing, none = p3p(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)))
        assert nothing.shape == (0,) and none.shape == (0, 3, 3)


class TestTriangles:
    def test_the_motion_between_congruent_triangles_is_exact(self) -> None:
        cam = np.random.default_rng(0).normal(size=(50, 3, 3))
        rotation, translation = pose_of_triangles(WORLD_FROM_CAM.apply(cam), cam)
        np.testing.assert_allclose(rotation, np.broadcast_to(WORLD_FROM_CAM.rotation, (50, 3, 3)), atol=1e-9)
        np.testing.assert_allclose(translation, np.broadcast_to(WORLD_FROM_CAM.translation, (50, 3)), atol=1e-8)


class TestQuartic:
    @given(st.integers(0, 10_000))
    @settings(max_examples=30)
    def test_real_roots_are_numpy_s(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        coefficients = rng.normal(size=(5, 20)) * rng.uniform(0.1, 3, (5, 1))
        found = quartic_roots(coefficients)
        for column, ours in zip(coefficients.T, found.T, strict=True):
            theirs = np.roots(column)
            # Double roots are real or not by rounding.
            apart = np.abs(theirs[:, None] - theirs + np.eye(4)).min() > 1e-3
            real = np.sort(theirs[np.abs(theirs.imag) < 1e-9].real)
            if apart and np.abs(theirs).max() < 1e3:
                np.testing.assert_allclose(np.sort(ours[np.isfinite(ours)]), real, rtol=1e-5, atol=1e-6)

    def test_four_given_roots_come_back(self) -> None:
        roots = np.array([[-2.0, -0.5, 0.25, 3.0], [1.0, 2.0, 3.0, 4.0]])
        found = quartic_roots(np.array([np.poly(row) * 2.5 for row in roots]).T)
        np.testing.assert_allclose(np.sort(found.T), roots, atol=1e-9)


def test_triangles_without_an_area_have_no_pose() -> None:
    """Modes of several pixels may be one place."""
    _, world = samples(2)
    world[0, 1] = world[0, 0]
    rotation, translation = pose_of_triangles(world, world)
    assert np.isnan(rotation[0]).any() and np.isnan(translation[0]).any()
    np.testing.assert_allclose(rotation[1], np.eye(3), atol=1e-12)
