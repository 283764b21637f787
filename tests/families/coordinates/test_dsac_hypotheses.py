from __future__ import annotations

from typing import Any

import numpy as np
import poselib
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from families.coordinates.dsac_place import CAMERA, KINDS, MAX_ERROR, differences, generator, place_of, slopes_of
from placecell.camera import Camera
from placecell.families.coordinates.dsac import hypotheses
from placecell.families.coordinates.dsac.hypotheses import Hypotheses, moving, sample_poses, sample_rigid, sampled
from placecell.families.coordinates.dsac.optimum import errors, in_camera
from placecell.families.coordinates.dsac.sights import Depths
from placecell.rigid import kabsch


def of_place(kind: str, count: int = 32, seed: int = 0, **place: Any) -> Hypotheses:
    there = place_of(**place)
    return sampled(there.coordinates(), there.sight(kind), count, max_error=MAX_ERROR[kind], generator=generator(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_true_points_make_the_true_pose(kind: str) -> None:
    found, place = of_place(kind, noise=0.0, outliers=0.5), place_of(noise=0.0, outliers=0.5)
    assert len(found.indices_HM) == 32
    right = ~torch.from_numpy(place.outliers)[found.indices_HM].any(1)
    assert right.sum() > 24  # three wrong points may agree by chance, not often
    assert_allclose(found.rotation_H33[right], place.truth[0].expand(int(right.sum()), 3, 3), atol=1e-6)
    assert_allclose(found.centre_H3[right], place.truth[1].expand(int(right.sum()), 3), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_all_points_of_a_sample_agree_and_differ(kind: str) -> None:
    place, found = place_of(outliers=0.5, noise=0.03), of_place(kind, outliers=0.5, noise=0.03)
    points_cam = in_camera(place.coordinates()[found.indices_HM], (found.rotation_H33, found.centre_H3))
    away = errors(place.sight(kind).at(found.indices_HM), points_cam)
    assert (away < MAX_ERROR[kind]).all()
    assert all(len(set(sample)) == {"rgb": 4, "rgbd": 3}[kind] for sample in found.indices_HM.tolist())
    assert_allclose(torch.linalg.det(found.rotation_H33), 1.0, atol=1e-9)


def test_the_fourth_point_decides() -> None:
    place = place_of(noise=0.0, outliers=0.0)
    found = of_place("rgb", count=200, noise=0.0, outliers=0.0)
    rays = CAMERA.rays(place.pixels)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    several = 0
    for indices in found.indices_HM[:, :3].tolist():
        several += len(poselib.p3p(rays[indices], place.points_map[indices])) > 1
    assert several > 20
    off = (found.centre_H3 - place.truth[1]).norm(dim=1)
    assert (off < 1e-5).all()


def test_rigid_samples_are_those_of_kabsch() -> None:
    place, found = place_of(noise=0.02), of_place("rgbd", noise=0.02)
    expected = kabsch(place.points_map[found.indices_HM], place.points_cam[found.indices_HM])
    assert_allclose(found.rotation_H33, expected[0], atol=1e-10)
    assert_allclose(found.centre_H3, expected[1], atol=1e-10)


def test_samples_by_name() -> None:
    place = place_of()
    lens = Camera(320, 240, 260.0, 270.0, 150.0, 125.0, "opencv", (0.1, -0.05, 0.001, 0.002))
    found = sample_poses(place.coordinates(), lens.project(place.points_cam), lens, 32, generator=generator())
    assert_allclose(found.centre_H3, of_place("rgb").centre_H3, atol=1e-6)
    rigid = sample_rigid(place.coordinates(), place.points_cam, 32, generator=generator())
    assert_allclose(rigid.centre_H3, of_place("rgbd").centre_H3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides(kind: str) -> None:
    assert (of_place(kind, seed=1).indices_HM == of_place(kind, seed=1).indices_HM).all()
    assert (of_place(kind, seed=1).indices_HM != of_place(kind, seed=2).indices_HM).any()


def test_points_without_depth_are_not_drawn() -> None:
    place = place_of()
    points_cam = place.points_cam.copy()
    points_cam[::2] = np.nan
    found = sampled(place.coordinates(), Depths.of(points_cam), 64, max_error=0.1, generator=generator())
    assert len(found.indices_HM) == 64 and (found.indices_HM % 2 == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_points_or_none_that_agree_make_no_hypotheses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(of_place(kind, points=2).indices_HM) == 0
    monkeypatch.setattr(hypotheses, "MOST_TRIES", 600)
    place = place_of()
    rng = np.random.default_rng(0)
    nonsense = torch.from_numpy(100 * rng.normal(size=place.points_map.shape))
    found = sampled(nonsense, place.sight(kind), 8, max_error=1e-3, generator=generator())
    assert found.indices_HM.shape == (0, {"rgb": 4, "rgbd": 3}[kind])
    assert found.rotation_H33.shape == (0, 3, 3) and found.centre_H3.shape == (0, 3)
    rotation, _ = moving(nonsense.requires_grad_(), place.sight(kind), found)
    assert rotation.shape == (0, 3, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_hypotheses_move_as_when_made_again(kind: str) -> None:
    """P3P's and Kabsch's poses by their points: the implicit function theorem against the solvers themselves."""
    place = place_of(noise=0.02, outliers=0.0)
    sight, points = place.sight(kind), place.coordinates()
    found = sampled(points, sight, 4, max_error=MAX_ERROR[kind], generator=generator())
    direction = torch.randn(4, 3, 4, generator=generator(5), dtype=torch.float64)
    three = found.indices_HM[:, :3]

    def value(rotation: Tensor, centre: Tensor) -> Tensor:
        return (torch.cat([rotation, centre.unsqueeze(-1)], -1) * direction).sum()

    def again(moved: Tensor) -> Tensor:
        solutions = sight.at(three).poses(moved[three])
        poses = []
        for index in range(4):  # the solution that was chosen
            mine = solutions.sample_S == index
            off = (solutions.centre_S3[mine] - found.centre_H3[index]).norm(dim=1)
            best = int(off.argmin())
            poses.append((solutions.rotation_S33[mine][best], solutions.centre_S3[mine][best]))
        return value(torch.stack([pose[0] for pose in poses]), torch.stack([pose[1] for pose in poses]))

    slopes = slopes_of(lambda moved: value(*moving(moved, sight, found)), points)
    expected = differences(again, points, step=1e-5)
    assert_allclose(slopes, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
    touched = torch.zeros(len(points), dtype=torch.bool).index_fill(0, three.flatten(), True)
    assert (slopes[~touched] == 0).all() and (slopes[touched] != 0).any(1).all()
