from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from families.coordinates.dsac_place import CAMERA, KINDS, MAX_ERROR, place_of, poses_near, require_slopes
from placecell.families.coordinates.dsac.refining import refined
from placecell.families.coordinates.dsac.sights import Pixels, Sight
from placecell.pnp import NOISE_PX, refine_pnp
from placecell.pose import Pose, pose_error
from placecell.rigid import kabsch


@pytest.mark.parametrize("kind", KINDS)
def test_refining_finds_the_pose_of_the_right_points(kind: str) -> None:
    place = place_of(points=300, noise=0.0, outliers=0.4)
    found = refined(place.coordinates(), place.sight(kind), poses_near(place, 5, 0.01), max_error=MAX_ERROR[kind])
    assert found.inliers_HN.shape == (5, 300)
    assert found.inliers_HN[:, place.outliers].float().mean() < 0.1
    assert found.inliers_HN[:, ~place.outliers].all()
    away = [pose_error(Pose.nearest(m), place.map_from_cam) for m in matrices(found.rotation_H33, found.centre_H3)]
    assert max(error.distance for error in away) < 0.01


def matrices(rotation: Tensor, centre: Tensor) -> list[np.ndarray]:
    return [np.column_stack([r, c]) for r, c in zip(rotation.detach(), centre.detach(), strict=True)]


def test_refining_in_depth_is_kabsch_of_the_inliers() -> None:
    place = place_of(points=100, noise=0.02, outliers=0.3)
    found = refined(place.coordinates(), place.sight("rgbd"), poses_near(place, 3, 0.02), max_error=0.1)
    for index in range(3):
        used = found.inliers_HN[index].numpy()
        expected = kabsch(place.points_map[used], place.points_cam[used])
        assert_allclose(found.rotation_H33[index], expected[0], atol=1e-9)
        assert_allclose(found.centre_H3[index], expected[1], atol=1e-9)


def test_refining_with_cauchy_is_that_of_pnp() -> None:
    place = place_of(points=100, noise=0.004, outliers=0.3)
    start = poses_near(place, 1, 0.001)
    found = refined(place.coordinates(), place.sight("rgb"), start, max_error=10.0, scale=NOISE_PX)
    began = Pose.nearest(matrices(*start)[0])
    expected = refine_pnp(place.points_map, place.pixels, CAMERA, began, max_error_px=10.0).world_from_cam
    assert expected is not None
    assert_allclose(found.centre_H3[0], expected.translation, atol=2e-5)
    assert_allclose(found.rotation_H33[0], expected.rotation, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pose_is_bettered_or_stays_as_it_was(kind: str) -> None:
    place = place_of(points=200, noise=0.02, outliers=0.5)
    sight, points = place.sight(kind), place.coordinates()
    poses = poses_near(place, 40, 0.3)
    far = torch.tensor([1000.0, 0.0, 0.0], dtype=torch.float64)
    poses = (poses[0], torch.cat([poses[1][:-1], far[None]]))  # from where nothing agrees
    found = refined(points, sight, poses, max_error=MAX_ERROR[kind])
    kept = ~found.inliers_HN.any(1)
    assert kept[-1] and not kept.all()
    assert_allclose(found.rotation_H33[kept], poses[0][kept])
    assert_allclose(found.centre_H3[kept], poses[1][kept])
    assert torch.isfinite(found.rotation_H33).all() and torch.isfinite(found.centre_H3).all()


@pytest.mark.parametrize("scale", [None, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_points_of_which_nothing_was_measured_change_nothing(kind: str, scale: float | None) -> None:
    """Holes in the depth, pixels that no ray reaches: values and gradients are those of the other points alone."""
    place = place_of(points=60, noise=0.01, outliers=0.3)
    holes = torch.arange(60) % 3 == 1
    measured = place.sight(kind)
    numbers = measured.flat_px if isinstance(measured, Pixels) else measured.points_cam  # type: ignore[attr-defined]
    numbers[:, holes] = torch.nan
    others = (~holes).nonzero().squeeze(1)
    start, told = poses_near(place, 4, 0.005), {"max_error": MAX_ERROR[kind], "scale": scale}

    def by(points: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
        leaf = points.clone().requires_grad_()
        found = refined(leaf, sight, start, **told)  # type: ignore[arg-type]
        assert found.inliers_HN.any(1).all()
        (found.centre_H3.sum() + found.rotation_H33[:, 0].sum()).backward()
        assert leaf.grad is not None
        return found.centre_H3.detach(), leaf.grad

    one = by(place.coordinates(), measured)
    other = by(place.coordinates()[others], measured.at(others))
    assert_allclose(one[0], other[0], atol=1e-9)
    assert_allclose(one[1][others], other[1], atol=1e-9)
    assert (one[1][holes] == 0).all()


@pytest.mark.parametrize("scale", [None, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_refining_again(kind: str, scale: float | None) -> None:
    place = place_of(points=40, noise=0.01, outliers=0.3)
    sight, poses = place.sight(kind), poses_near(place, 3, 0.002)
    scale = None if scale is None else scale * MAX_ERROR[kind] / 10
    direction = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0)).double()

    def value(points: Tensor) -> Tensor:
        found = refined(points, sight, poses, max_error=MAX_ERROR[kind], scale=scale)
        assert found.inliers_HN.any(1).all()
        return (torch.cat([found.rotation_H33, found.centre_H3.unsqueeze(-1)], -1) * direction).sum()

    require_slopes(value, place.coordinates())


def test_a_pose_that_stays_keeps_its_gradient() -> None:
    place = place_of(points=40)
    centre = torch.full((1, 3), 1000.0, dtype=torch.float64).requires_grad_()
    found = refined(place.coordinates(), place.sight("rgb"), (place.truth[0][None], centre), max_error=10.0)
    found.centre_H3.sum().backward()
    assert centre.grad is not None
    assert_allclose(centre.grad, np.ones((1, 3)))


def test_a_pose_that_stays_harms_no_gradient() -> None:
    """A pose with inliers, but too few, from which others are seen behind it."""
    place = place_of(points=60, noise=0.05, outliers=0.5)
    rotation, centre = poses_near(place, 30, 0.5)
    points = place.coordinates().requires_grad_()
    found = refined(points, place.sight("rgb"), (rotation, centre), max_error=10.0)
    assert not found.inliers_HN.any(1).all()
    (found.rotation_H33.sum() + found.centre_H3.sum()).backward()
    assert points.grad is not None and points.grad.isfinite().all()
