"""How wrong a guess is, against projections by the camera itself and against finite differences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from placecell.camera import Camera
from placecell.families.coordinates.head import Guess
from placecell.families.coordinates.losses import Cells, cell_loss, tolerance_px
from placecell.pose import Pose

CAMERA = Camera(320, 240, 260.0, 260.0, 150.0, 125.0)
USUAL_DEPTH = 2.5
COUNT = 40


def cells(*, known: bool = True, seed: int = 0) -> tuple[Cells, Tensor]:
    """Cells of as many looks from anywhere, and where they truly lie."""
    rng = np.random.default_rng(seed)
    poses = [Pose.exp(rng.normal(size=6)) for _ in range(COUNT)]
    rays = CAMERA.rays(rng.uniform((0, 0), (320, 240), (COUNT, 2)))
    depth = rng.uniform(1, 4, COUNT)
    truth = np.array([pose.apply(ray * z) for pose, ray, z in zip(poses, rays, depth, strict=True)])
    values = (
        rays[:, :2],
        depth if known else np.full(COUNT, np.nan),
        np.array([pose.rotation for pose in poses]),
        np.array([pose.translation for pose in poses]),
        np.full(COUNT, CAMERA.fx),
    )
    return Cells(*(torch.from_numpy(value) for value in values)), torch.from_numpy(truth)


def along(cells_: Cells, depth: float, sideways: float = 0.0) -> Tensor:
    """(N, 3) points at a depth in the cameras of the cells, so far beside their rays."""
    rays = torch.cat([cells_.rays_N2, torch.ones(COUNT, 1, dtype=torch.float64)], dim=1)
    points_cam = depth * rays + torch.tensor([sideways, -sideways, 0.0], dtype=torch.float64)
    return torch.einsum("nij,nj->ni", cells_.rotation_N33, points_cam) + cells_.centre_N3


def guess(points: Tensor, spread: float = 0.0) -> Guess:
    return Guess(points, torch.full((COUNT,), spread, dtype=torch.float64))


def loss(points: Tensor, known: Cells, *, tolerance: float = 20.0, spread: float = 0.0) -> Tensor:
    return cell_loss(guess(points, spread), known, tolerance, USUAL_DEPTH)["loss"]


def moved(truth: Tensor, size: float, seed: int = 3) -> Tensor:
    return truth + size * torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("known", [True, False])
def test_it_is_nothing_at_the_truth(known: bool) -> None:
    given, truth = cells(known=known)
    found = cell_loss(guess(truth), given, 20.0, USUAL_DEPTH)
    assert float(found["loss"]) == pytest.approx(0, abs=1e-9)
    assert float(found["error_px"]) == pytest.approx(0, abs=1e-9) and float(found["seen"]) == 1.0


def test_it_is_the_cameras_own_reprojection_error() -> None:
    given, truth = cells()
    points = moved(truth, 0.02).requires_grad_()
    off = []
    for index in range(COUNT):
        pose = Pose.nearest(torch.cat([given.rotation_N33[index], given.centre_N3[index, :, None]], dim=1).numpy())
        pixels = [CAMERA.project(pose.inv.apply(p[index].detach().numpy())) for p in (points, truth)]
        off.append(np.abs(pixels[0] - pixels[1]).sum())
    found = cell_loss(guess(points), given, 20.0, USUAL_DEPTH)
    assert float(found["error_px"]) == pytest.approx(sorted(off)[(COUNT - 1) // 2], rel=1e-9)
    only = [loss(points, given, tolerance=t) - loss(points, given, tolerance=2 * t) for t in (1.0, 20.0)]
    for tolerance, difference in zip((1.0, 20.0), only, strict=True):
        expected = np.mean([t * np.tanh(np.array(off) / t) for t in (tolerance, 2 * tolerance)], axis=1)
        assert float(difference.detach()) == pytest.approx(expected[0] - expected[1], rel=1e-9)


@pytest.mark.parametrize("case", ["near the truth", "behind", "too near", "beside, far", "behind, depth unknown"])
def test_gradients_are_those_of_finite_differences(case: str) -> None:
    given, truth = cells(known="unknown" not in case)
    points = {
        "near the truth": moved(truth, 0.03),
        "behind": along(given, -1.3, 0.2),
        "too near": along(given, 0.1, 0.2),
        "beside, far": along(given, 2.0, 9.0),
        "behind, depth unknown": along(given, -1.3, 0.2),
    }[case].requires_grad_()
    vast = 6.0  # so that what the spread costs, by which no point moves, hardly changes with the points

    def value(points: Tensor) -> Tensor:
        return loss(points, given, spread=vast)

    (slopes,) = torch.autograd.grad(value(points), points)
    assert slopes.isfinite().all() and (slopes.norm(dim=1) > 1e-3 / COUNT).all()
    with torch.no_grad():
        for seed in range(5):
            way = moved(torch.zeros_like(points), 1.0, seed)
            expected = (value(points + 1e-6 * way) - value(points - 1e-6 * way)) / 2e-6
            torch.testing.assert_close((slopes * way).sum(), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("depth", [-3.0, 0.0, 0.1])
def test_what_cannot_be_seen_is_drawn_to_where_it_lies(depth: float) -> None:
    """To the truth where the depth is known, else along its ray to the usual depth."""
    for known in (True, False):
        given, truth = cells(known=known)
        target = truth if known else along(given, USUAL_DEPTH)
        points = along(given, depth, 0.01).requires_grad_()
        (slopes,) = torch.autograd.grad(loss(points, given), points)
        with torch.no_grad():
            towards = target - points
            assert ((slopes * towards).sum(dim=1) < 0).all()
            assert loss(points + 0.1 * towards, given) < loss(points, given)


def test_what_cannot_be_seen_costs_more_than_what_can() -> None:
    given, truth = cells()
    assert loss(along(given, -1.0), given) > loss(moved(truth, 0.3), given, tolerance=50.0)


def test_it_is_a_number_wherever_a_guess_lies() -> None:
    given, truth = cells()
    for points in (given.centre_N3.clone(), 1e8 * truth, -1e8 * truth, along(given, 0.25), along(given, 1e-12)):
        points = points.float().requires_grad_()
        single = Cells(*(value.float() for value in given))
        found = cell_loss(Guess(points, torch.zeros(COUNT)), single, 1.0, USUAL_DEPTH)["loss"]
        found.backward()
        assert found.isfinite() and points.grad is not None and points.grad.isfinite().all()


def test_a_guess_that_is_no_number_makes_none() -> None:
    """So that training tells, and does not go on."""
    given, truth = cells()
    truth[3, 1] = torch.nan
    assert loss(truth, given).isnan()


class TestSpread:
    def test_is_learned_as_the_mean_distance_in_pixels(self) -> None:
        """The scale of Laplace's distribution: exp(s) is the mean of |e|₂."""
        given, truth = cells()
        points = moved(truth, 0.02)
        off = []
        for index in range(COUNT):
            rotation, centre = given.rotation_N33[index].numpy(), given.centre_N3[index].numpy()
            pixels = [CAMERA.project((p[index].numpy() - centre) @ rotation) for p in (points, truth)]
            off.append(np.linalg.norm(pixels[0] - pixels[1]))
        spread = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([spread], lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            cell_loss(Guess(points, spread.expand(COUNT)), given, 20.0, USUAL_DEPTH)["loss"].backward()
            optimizer.step()
        assert float(spread.detach().exp()) == pytest.approx(np.mean(off), rel=0.01)

    def test_moves_no_point(self) -> None:
        given, truth = cells()
        points = moved(truth, 0.05).requires_grad_()
        one, other = (torch.autograd.grad(loss(points, given, spread=s), points)[0] for s in (0.0, 3.0))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("spread", [-4.0, 7.0])
    def test_comes_back_from_where_it_overshot(self, spread: float) -> None:
        """A cell that is far too sure, or far too unsure, of an error of some pixels still learns what it is."""
        given, truth = cells()
        said = torch.full((COUNT,), spread, dtype=torch.float64, requires_grad=True)
        cell_loss(Guess(moved(truth, 0.05), said), given, 20.0, USUAL_DEPTH)["loss"].backward()
        assert said.grad is not None
        assert ((said.grad < 0) if spread < 0 else (said.grad > 0)).all()


def test_the_tolerance_shrinks_from_the_first_to_the_last() -> None:
    """ACE: 51 px at the beginning, 1 px at the end."""
    found = [tolerance_px(t, 50.0, 1.0) for t in np.linspace(0, 1, 11)]
    assert found[0] == 51.0 and found[-1] == 1.0
    assert all(a > b for a, b in pairwise(found))
    assert found[6] == pytest.approx(50.0 * 0.8 + 1.0)
    assert tolerance_px(1.2, 50.0, 1.0) == 1.0
