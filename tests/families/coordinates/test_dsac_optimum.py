from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import least_squares
from torch import Tensor
from torch.autograd.functional import hessian as second
from torch.autograd.functional import jacobian as first

from families.coordinates.dsac_place import KINDS, Place, differences, directions, place_of, poses_near, slopes_of
from placecell.families.coordinates.dsac.optimum import (
    Poses,
    Scale,
    _derivatives,
    descended,
    errors,
    followed,
    in_camera,
)
from placecell.families.coordinates.dsac.sights import Sight
from placecell.geometry_torch import matrix_from_log_quat
from placecell.pose import Pose
from placecell.rigid import kabsch

SCALES = (None, 3.0)


def scale_of(kind: str, scale: float | None) -> float | None:
    return None if scale is None else scale if kind == "rgb" else 0.01 * scale


def half_cost(place: Place, sight: Sight, used_N: Tensor, scale: float | None, pose: Poses, step_6: Tensor) -> Tensor:
    """F / 2 after a step, as the module's docstring has it."""
    rotation, centre = pose[0] @ matrix_from_log_quat(step_6[:3] / 2), pose[1] + pose[0] @ step_6[3:]
    squares = sight.residuals(in_camera(place.coordinates(), (rotation[None], centre[None]))).square().sum(1)[0]
    squares = torch.where(used_N, squares, 0.0)
    if scale is not None:
        squares = torch.log1p(squares / scale**2)
    return squares.sum() / 2


def settled(place: Place, sight: Sight, poses: Poses, used: Tensor, scale: Scale) -> Poses:
    points = place.coordinates()
    for round in range(20):
        poses, step = descended(points, sight, poses, used, scale=scale, exact=round > 8)
    assert step.abs().max() < 1e-10
    return poses


def test_camera_axes_are_those_of_pose() -> None:
    place = place_of(noise=0.0, outliers=0.0)
    found = in_camera(place.coordinates(), (place.truth[0][None], place.truth[1][None]))
    assert_allclose(found[0].T, place.map_from_cam.inv.apply(place.points_map), atol=1e-12)
    assert_allclose(found[0].T, place.points_cam, atol=1e-12)


def test_errors_have_finite_gradients_at_none_and_at_infinite_ones() -> None:
    place = place_of(points=8, noise=0.0, outliers=0.0)
    points = place.coordinates().clone()
    points[0] = place.truth[1] - place.truth[0][:, 2]  # behind
    points.requires_grad_()
    away = errors(place.sight("rgb"), in_camera(points, (place.truth[0][None], place.truth[1][None])))
    assert away[0, 0].isinf() and (away[0, 1:] < 1e-6).all()
    torch.sigmoid(-away).sum().backward()
    assert points.grad is not None and points.grad.isfinite().all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_the_sum(kind: str, scale: float | None) -> None:
    place = place_of(noise=0.001)
    sight, used, scale = place.sight(kind), torch.from_numpy(~place.outliers), scale_of(kind, scale)
    poses = poses_near(place, 1, 0.002)
    pose = poses[0][0], poses[1][0]
    gradient, found = _derivatives(in_camera(place.coordinates(), poses), sight, used[None], scale, exact=True)
    zero = torch.zeros(6, dtype=torch.float64)
    assert_allclose(gradient[0], first(lambda s: half_cost(place, sight, used, scale, pose, s), zero), rtol=1e-8)
    expected = second(lambda s: half_cost(place, sight, used, scale, pose, s), zero)
    assert torch.linalg.eigvalsh(expected)[0] > 0
    assert_allclose(found[0], expected, rtol=1e-8, atol=1e-6 * expected.abs().max())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_end_where_scipy_does(kind: str, scale: float | None) -> None:
    place = place_of()
    sight, used, scale = place.sight(kind), torch.from_numpy(~place.outliers), scale_of(kind, scale)
    start = poses_near(place, 1, 0.01)
    rotation, centre = settled(place, sight, start, used[None], scale)
    began = Pose.nearest(np.column_stack([start[0][0], start[1][0]]))
    points = place.points_map[~place.outliers]

    def residuals(step: np.ndarray) -> np.ndarray:
        points_cam = torch.from_numpy((began @ Pose.exp(step)).inv.apply(points)).mT[None]
        return sight.at(used.nonzero().squeeze(1)).residuals(points_cam).numpy().T.reshape(-1)

    def robust(step: np.ndarray) -> np.ndarray:
        squares = (residuals(step).reshape(len(points), -1) ** 2).sum(1)
        return np.sqrt(squares if scale is None else np.log1p(squares / scale**2))

    best = began @ Pose.exp(least_squares(robust, np.zeros(6), xtol=1e-15, ftol=1e-15, gtol=1e-15).x)
    assert_allclose(rotation[0], best.rotation, atol=1e-6)
    assert_allclose(centre[0], best.translation, atol=1e-6)


def test_least_squares_of_depth_is_kabsch() -> None:
    place = place_of()
    used = torch.from_numpy(~place.outliers)
    rotation, centre = settled(place, place.sight("rgbd"), poses_near(place, 1, 0.05), used[None], None)
    expected = kabsch(place.points_map[~place.outliers], place.points_cam[~place.outliers])
    assert_allclose(rotation[0], expected[0], atol=1e-10)
    assert_allclose(centre[0], expected[1], atol=1e-10)


def test_kabsch_moves_with_its_points() -> None:
    place, count = place_of(points=3, noise=0.02, outliers=0.0), 3
    direction = torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double()
    start = tuple(torch.from_numpy(part)[None] for part in kabsch(place.points_map, place.points_cam))
    used = torch.ones(1, count, dtype=torch.bool)

    def followed_value(points: Tensor) -> Tensor:
        rotation, centre = followed(points, place.sight("rgbd"), (start[0], start[1]), used)
        return (rotation * direction).sum() + (centre * direction[0]).sum()

    def solved(points: Tensor) -> Tensor:
        rotation, centre = kabsch(points.numpy(), place.points_cam)
        return (torch.from_numpy(rotation) * direction).sum() + (torch.from_numpy(centre) * direction[0]).sum()

    expected = differences(solved, place.coordinates())
    assert_allclose(slopes_of(followed_value, place.coordinates()), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_optimum_moves_as_it_does_when_solved_again(kind: str, scale: float | None) -> None:
    # Much noise: a Hessian without second derivatives would be seen.
    place = place_of(points=12, noise=0.05, outliers=0.0)
    sight, scale = place.sight(kind), scale_of(kind, scale)
    used = torch.ones(1, 12, dtype=torch.bool)
    used[0, 4] = False
    best = settled(place, sight, poses_near(place, 1, 0.01), used, scale)
    direction = torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double()

    def value(poses: Poses) -> Tensor:
        return (poses[0] * direction).sum() + (poses[1] * direction[0]).sum()

    found = slopes_of(lambda points: value(followed(points, sight, best, used, scale=scale)), place.coordinates())
    for direction_N3 in directions(place.coordinates()):

        def again(size: float, direction_N3: Tensor = direction_N3) -> Tensor:
            moved = place._replace(points_map=(place.coordinates() + size * direction_N3).numpy())
            return value(settled(moved, sight, best, used, scale))

        expected = (again(1e-5) - again(-1e-5)) / 2e-5
        assert_allclose((found * direction_N3).sum(), expected, rtol=1e-4, atol=1e-5 * found.norm())
    assert (found[4] == 0).all() and (found[5] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimum_moves_with_how_sure_its_points_are(kind: str) -> None:
    """A scale for each point: values and derivatives are those of solving again, by the points and by the scales."""
    place = place_of(points=12, noise=0.05, outliers=0.0)
    sight, used = place.sight(kind), torch.ones(1, 12, dtype=torch.bool)
    alike = 3.0 if kind == "rgb" else 0.03
    scales = alike * torch.from_numpy(np.random.default_rng(5).uniform(0.5, 2.0, 12))
    best = settled(place, sight, poses_near(place, 1, 0.01), used, scales)
    plain = settled(place, sight, poses_near(place, 1, 0.01), used, alike)
    assert float((best[1] - plain[1]).norm()) > 1e-4
    direction = torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double()

    def value(poses: Poses) -> Tensor:
        return (poses[0] * direction).sum() + (poses[1] * direction[0]).sum()

    found = slopes_of(lambda each: value(followed(place.coordinates(), sight, best, used, scale=each)), scales)
    expected = differences(lambda each: value(settled(place, sight, best, used, each)), scales, step=1e-5)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * float(found.norm()))
    assert found.abs().min() > 0


def test_following_changes_no_value() -> None:
    place = place_of()
    used = torch.from_numpy(~place.outliers)[None]
    best = settled(place, place.sight("rgb"), poses_near(place, 1, 0.01), used, None)
    rotation, centre = followed(place.coordinates(), place.sight("rgb"), best, used)
    assert_allclose(rotation, best[0], atol=1e-9)
    assert_allclose(centre, best[1], atol=1e-9)


def test_points_in_a_line_hold_no_pose_and_pull_at_none() -> None:
    line = torch.tensor([[0.0, 0.0, 2.0], [0.1, 0.0, 2.0], [0.3, 0.0, 2.0]], dtype=torch.float64)
    place = place_of(points=3)._replace(points_cam=line.numpy())
    place = place._replace(points_map=place.map_from_cam.apply(line.numpy()))
    used = torch.ones(1, 3, dtype=torch.bool)
    points = place.coordinates().requires_grad_()
    truth = place.truth
    rotation, centre = followed(points, place.sight("rgbd"), (truth[0][None], truth[1][None]), used)
    (rotation.sum() + centre.sum()).backward()
    assert points.grad is not None and (points.grad == 0).all()
