"""RANSAC as it is in use: the house's own, and that of learned scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from families.coordinates.dsac_place import CAMERA, KINDS, MAX_ERROR
from placecell.families.coordinates.dsac.answering import answered, best_by_score, coordinates
from placecell.families.coordinates.dsac.expected import Ransac
from placecell.families.coordinates.dsac.fcn import CoordinateNetwork
from placecell.families.coordinates.dsac.scores import soft_inliers
from placecell.families.coordinates.dsac.shots import cell_pixels
from placecell.families.coordinates.dsac.sights import Pixels
from placecell.pose import Array, Pose, pose_error

TRUTH = Pose.exp([0.3, -0.2, 0.5, 1.0, 2.0, -1.0])
OTHER = TRUTH @ Pose.exp([0.1, 0.2, 0.0, 0.5, 0.0, 0.3])


def picture(*, noise: float = 0.01, wrong: float = 0.3, of_other: float = 0.0, seed: int = 0) -> tuple[Array, Array]:
    """(h, w, 3) coordinates, and what the cells show in camera axes; some cells wrong, others of another pose."""
    rng = np.random.default_rng(seed)
    rays = CAMERA.rays(cell_pixels(CAMERA, 8))
    seen = rays * rng.uniform(1.5, 4.0, rays.shape[:2])[..., None]
    points = TRUTH.apply(seen) + noise * rng.normal(size=seen.shape)
    drawn = rng.random(rays.shape[:2])
    points[drawn < of_other] = OTHER.apply(seen)[drawn < of_other]
    points[drawn > 1 - wrong] += rng.normal(size=(int((drawn > 1 - wrong).sum()), 3))
    return points, seen


class Counting(nn.Module):
    """Scores as good as counting, or the worse the better."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(sign))
        self.sizes: list[tuple[int, int]] = []

    def forward(self, errors_HN: Tensor, max_error: float, *, size: tuple[int, int], alpha: float) -> Tensor:
        self.sizes.append(size)
        return self.sign * soft_inliers(errors_HN, max_error, alpha=alpha)


class Asked(nn.Module):
    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_pose_and_says_how_sure(kind: str, learned: bool) -> None:
    network: nn.Module = Asked(Counting(1.0)) if learned else nn.Identity()
    errors, sigmas = [], []
    for seed in range(5):
        points, seen = picture(seed=seed)
        told: dict[str, Any] = {"seen_hw3": seen} if kind == "rgbd" else {}
        found = answered(network, points, CAMERA, Ransac(max_error=MAX_ERROR[kind]), **told)
        assert found.world_from_cam is not None and found.covariance is not None
        assert found.count > 0.5 * points.shape[0] * points.shape[1]
        errors.append(pose_error(found.world_from_cam, TRUTH).distance)
        sigmas.append(np.sqrt(found.covariance.diagonal()[3:].sum()))
    assert np.median(errors) < 0.005
    # Cells are independent here, but the near ones are noisier than the far ones, and count alike.
    assert 0.3 < np.sqrt(np.mean(np.square(errors))) / np.mean(sigmas) < 3.0
    if learned:
        (score,) = network.children()
        assert isinstance(score, Counting) and set(score.sizes) == {(30, 40)}


def test_learned_scores_choose() -> None:
    """Where two poses have cells, and the scores like the one with fewer, the answer is that one."""
    points, _ = picture(wrong=0.0, of_other=0.35)
    by_count = answered(Asked(Counting(1.0)), points, CAMERA, Ransac(hypotheses=128))
    by_few = answered(Asked(Counting(-1.0)), points, CAMERA, Ransac(hypotheses=128))
    assert pose_error(by_count.world_from_cam, TRUTH).distance < 0.01
    assert by_few.count < by_count.count
    sight = Pixels.of(cell_pixels(CAMERA, 8).reshape(-1, 2), CAMERA)
    found: Any = Counting(-1.0)
    one, again = (best_by_score(found, points.reshape(-1, 3), sight, Ransac(), (30, 40), 3) for _ in range(2))
    assert one == again and one is not None


@pytest.mark.parametrize("learned", [False, True])
def test_further_runs_widen_the_covariance_alone(learned: bool) -> None:
    network: nn.Module = Asked(Counting(1.0)) if learned else nn.Identity()
    points, _ = picture()
    one, more = (answered(network, points, CAMERA, Ransac(), runs=runs) for runs in (1, 8))
    assert one.world_from_cam == more.world_from_cam and one.count == more.count
    assert one.covariance is not None and more.covariance is not None
    added = np.trace((more.covariance - one.covariance)[3:, 3:])
    assert 0.3 < added / np.trace(one.covariance[3:, 3:]) < 5.0


def test_cells_without_depth_take_no_part() -> None:
    points, seen = picture()
    seen[:, :20] = np.nan
    points[:, :20] += 100.0
    found = answered(nn.Identity(), points, CAMERA, Ransac(max_error=0.1), seen_hw3=seen)
    assert pose_error(found.world_from_cam, TRUTH).distance < 0.01 and found.count < 600
    for score in (nn.Identity(), Asked(Counting(1.0))):
        nothing = answered(score, points, CAMERA, Ransac(max_error=0.1), seen_hw3=np.full_like(seen, np.nan))
        assert nothing.world_from_cam is None and nothing.count == 0


@pytest.mark.parametrize("learned", [False, True])
def test_nothing_that_agrees_is_no_pose(learned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from placecell.families.coordinates.dsac import hypotheses

    monkeypatch.setattr(hypotheses, "MOST_TRIES", 500)
    points, _ = picture(wrong=1.0)
    network: nn.Module = Asked(Counting(1.0)) if learned else nn.Identity()
    found = answered(network, 50 * points, CAMERA, Ransac(max_error=1e-3))
    assert found.world_from_cam is None or found.count <= 6


def test_coordinates_are_those_of_the_network() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CoordinateNetwork(width=8).eval()
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    found = coordinates(network, image)
    assert found.shape == (6, 8, 3) and found.dtype == np.float64
    from placecell.backbones import picture_tensor

    expected = network(picture_tensor(image[None]))[0].detach()
    np.testing.assert_allclose(found[2, 5], expected[:, 2, 5], rtol=1e-5)
