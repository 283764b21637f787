from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from families.coordinates.dsac_place import CAMERA, KINDS, place_of
from placecell.camera import Camera
from placecell.families.coordinates.dsac.sights import Depths, Pixels, Sight
from placecell.geometry_torch import matrix_from_log_quat
from placecell.pnp import projection_jacobian
from placecell.pose import Pose

POINTS = 7


def looked(kind: str) -> tuple[Sight, Tensor]:
    """A sight, and points in camera axes that are not where it says; two hypotheses."""
    place = place_of(points=POINTS)
    rng = np.random.default_rng(2)
    points = place.points_cam + 0.1 * rng.normal(size=(2, POINTS, 3))
    return place.sight(kind), torch.from_numpy(points).mT.contiguous()


def stepped(points_3N: Tensor, step_6: Tensor) -> Tensor:
    """Points in the axes of a camera that has stepped: exp(-ω) (y - v)."""
    return matrix_from_log_quat(step_6[:3] / 2).mT @ (points_3N - step_6[3:, None])


def test_residuals_of_pixels_are_those_of_the_camera() -> None:
    sight, points = looked("rgb")
    expected = CAMERA.project(points.mT.numpy()) - place_of(points=POINTS).pixels
    assert_allclose(sight.residuals(points).mT, expected, atol=1e-10)


def test_pixels_of_a_lens_with_distortion_are_straightened() -> None:
    lens = Camera(320, 240, 260.0, 270.0, 150.0, 125.0, "opencv", (0.1, -0.05, 0.001, 0.002))
    points = place_of(points=POINTS).points_cam
    sight = Pixels.of(lens.project(points), lens)
    assert_allclose(sight.residuals(torch.from_numpy(points).mT[None]), np.zeros((1, 2, POINTS)), atol=1e-7)


def test_what_cannot_be_seen_is_infinitely_off_without_harm() -> None:
    sight, points = looked("rgb")
    points[0, 2, 0] = -1.0
    points[0, 2, 1] = 0.0
    points.requires_grad_()
    residuals = sight.residuals(points)
    assert residuals[0, :, :2].isinf().all() and residuals[0, :, 2:].isfinite().all()
    torch.where(residuals.isfinite(), residuals, 0.0).sum().backward()
    assert points.grad is not None and points.grad.isfinite().all()


def test_depth_that_is_not_there_is_not_usable() -> None:
    points = place_of(points=POINTS).points_cam
    points[3] = np.nan
    sight = Depths.of(points)
    assert sight.usable.tolist() == [index != 3 for index in range(POINTS)]
    residuals = sight.residuals(torch.zeros(1, 3, POINTS, dtype=torch.float64))
    assert residuals[0, :, 3].isinf().all()
    assert_allclose(residuals[0, :, :3].mT, -points[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_force_is_the_derivative_of_the_residuals(kind: str) -> None:
    sight, points = looked(kind)
    influence = torch.randn_like(sight.residuals(points))
    expected = jacobian(lambda y: (sight.residuals(y) * influence).sum(), points)
    assert_allclose(sight.force(points, influence), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_normal_is_that_of_the_steps_of_the_pose(kind: str) -> None:
    sight, points = looked(kind)
    weight = torch.rand(2, POINTS, dtype=torch.float64)
    for index in range(2):
        by_step = jacobian(lambda s, i=index: sight.residuals(stepped(points[i], s)[None])[0], torch.zeros(6).double())
        expected = torch.einsum("n,dni,dnj->ij", weight[index], by_step, by_step)
        assert_allclose(sight.normal(points, weight)[index], expected, rtol=1e-9, atol=1e-9)


def test_normal_of_pixels_is_that_of_pnp() -> None:
    sight, points = looked("rgb")
    rows = projection_jacobian(points[0].T.numpy(), CAMERA, Pose.identity())
    expected = np.einsum("ndi,ndj->ij", rows, rows)
    assert_allclose(sight.normal(points, torch.ones(2, POINTS).double())[0], expected, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_curvature_is_the_second_derivative_of_the_residuals(kind: str) -> None:
    sight, points = looked(kind)
    influence = torch.randn_like(sight.residuals(points))
    y, by_pose = points[0], jacobian(lambda s: stepped(points[0], s), torch.zeros(6).double())
    expected = torch.zeros(6, 6).double()
    for index in range(POINTS):

        def value(point: Tensor, index: int = index) -> Tensor:
            one = sight.at(torch.tensor([index]))
            return (one.residuals(point[None, :, None])[0, :, 0] * influence[0, :, index]).sum()

        expected += by_pose[:, index].T @ hessian(value, y[:, index]) @ by_pose[:, index]
    assert_allclose(sight.curvature(points, influence)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_three_points_have_the_true_pose_among_their_solutions(kind: str) -> None:
    place = place_of(points=60, noise=0.0, outliers=0.0)
    three = torch.arange(60).view(20, 3)
    found = place.sight(kind).at(three).poses(place.coordinates()[three])
    off = (found.rotation_S33 - place.truth[0]).abs().amax((1, 2)) + (found.centre_S3 - place.truth[1]).abs().amax(1)
    solved = set(found.sample_S[off < 1e-6].tolist())
    assert solved == set(range(20))
    assert found.sample_S.tolist() == sorted(found.sample_S.tolist())


def test_sets_of_points_have_their_own_measurements() -> None:
    place = place_of(points=POINTS)
    sets = torch.tensor([[2, 5], [6, 0], [1, 1]])
    sight = place.sight("rgb").at(sets)
    assert isinstance(sight, Pixels)
    assert_allclose(sight.flat_px.mT, place.pixels[sets])
