from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from families.coordinates.dsac_place import CAMERA, require_slopes
from families.coordinates.test_dsac_shots import VARIED, rngs, shots_of
from placecell.families.coordinates.dsac.fcn import CoordinateNetwork
from placecell.families.coordinates.dsac.initial import Beginning, Initial, initial_loss
from placecell.families.coordinates.dsac.lessons import Lessons
from placecell.families.coordinates.dsac.shots import STILL, Shots, batch_of, cell_pixels
from placecell.log import Silent
from placecell.train.loop import Plan, fit
from placecell.train.optimizers import optimizer

Batch = dict[str, Tensor]
PIXELS = torch.from_numpy(cell_pixels(CAMERA, 8))
FOCAL_PX = (CAMERA.fx + CAMERA.fy) / 2
NUMBERS = Beginning()


def batch_still(*, known: bool = True) -> Batch:
    batch = {key: value.double() for key, value in batch_of(shots_of(), [0, 1], STILL, 8, rngs(2)).items()}
    return batch if known else {**batch, "seen": torch.full_like(batch["seen"], torch.nan)}


def in_map(batch: Batch, points_cam: Tensor) -> Tensor:
    """Coordinates (B, 3, h, w) of points (B, h, w, 3) in camera axes."""
    found = torch.einsum("bij,bhwj->bihw", batch["rotation"], points_cam)
    return found + batch["centre"][:, :, None, None]


def loss_of(batch: Batch, points_cam: Tensor, *, rgbd: bool = False) -> tuple[float, Tensor]:
    loss, errors_px = initial_loss(in_map(batch, points_cam), PIXELS, batch, NUMBERS, rgbd=rgbd)
    return loss.item(), errors_px


def true_points() -> Tensor:
    return batch_still()["seen"]


@pytest.mark.parametrize("rgbd", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_at_the_truth_nothing_is_lost(known: bool, rgbd: bool) -> None:
    loss, errors_px = loss_of(batch_still(known=known), true_points(), rgbd=rgbd)
    assert loss < 1e-3 and errors_px.max() < 1e-3


def test_near_the_truth_pixels_count() -> None:
    """A step along the ray costs nothing, one across it f Δ / z."""
    seen = true_points()
    along, _ = loss_of(batch_still(), seen * 1.01)
    assert along < 1e-2
    step = torch.tensor([0.01, 0.0, 0.0]).double()
    across, errors_px = loss_of(batch_still(), seen + step)
    assert_allclose(across, (0.01 * CAMERA.fx / seen[..., 2]).mean(), rtol=1e-4)
    assert_allclose(errors_px.mean(), across, rtol=1e-6)


def test_far_from_the_truth_distance_counts_as_the_pixels_it_is_there() -> None:
    seen = true_points()
    loss, _ = loss_of(batch_still(), seen * 1.2)
    away = FOCAL_PX * 0.2 * seen.norm(dim=-1) / seen[..., 2]
    assert_allclose(loss, away.mean(), rtol=1e-4)
    both, _ = loss_of(batch_still(), seen * 1.2, rgbd=True)
    assert_allclose(both, loss, rtol=1e-6)


def test_errors_above_the_soft_bound_count_by_their_root() -> None:
    seen = true_points()
    loss, _ = loss_of(batch_still(), seen * 3.0)
    away = FOCAL_PX * 2 * seen.norm(dim=-1) / seen[..., 2]
    assert away.min() > 100
    assert_allclose(loss, (100 * away).sqrt().mean(), rtol=1e-4)


def test_where_nothing_is_known_what_cannot_be_right_is_drawn_to_the_proxy() -> None:
    batch = batch_still(known=False)
    rays = true_points() / true_points()[..., 2:]
    proxy, _ = loss_of(batch, 10.0 * rays)
    assert proxy < 1e-3
    behind, _ = loss_of(batch, -1.0 * rays)
    away = FOCAL_PX * 11.0 * rays.norm(dim=-1) / 10.0
    assert_allclose(behind, torch.where(away > 100, (100 * away).sqrt(), away).mean(), rtol=1e-4)
    anywhere, _ = loss_of(batch, 3.0 * rays)
    assert anywhere < 1e-3


def test_with_depth_only_known_cells_teach() -> None:
    batch = batch_still()
    batch["seen"][:, :, :20] = torch.nan
    points = true_points()
    points[:, :, :20] += 5.0
    assert loss_of(batch, points, rgbd=True)[0] < 1e-3
    nothing = {**batch, "seen": torch.full_like(batch["seen"], torch.nan)}
    assert loss_of(nothing, points, rgbd=True)[0] == 0.0


@pytest.mark.parametrize("rgbd", [False, True])
def test_gradients_are_those_of_finite_differences(rgbd: bool) -> None:
    batch = batch_still()
    batch = {key: value[:1] for key, value in batch.items()}
    batch["seen"][:, 10:] = torch.nan
    rng = np.random.default_rng(0)
    points = true_points()[:1] + torch.from_numpy(0.3 * rng.normal(size=(1, 30, 40, 3)))

    def value(coordinates: Tensor) -> Tensor:
        return initial_loss(coordinates, PIXELS, batch, NUMBERS, rgbd=rgbd)[0]

    require_slopes(value, in_map(batch, points), step=1e-7)


def textured(count: int = 6) -> Shots:
    """Pictures of the wall, coloured by where on it they look."""
    shots = shots_of(count, camera=CAMERA.resized(96, 72))
    assert shots.depths is not None
    images = np.empty_like(shots.images)
    for index in range(count):
        rays = shots.camera.rays(shots.camera.pixel_centres) * shots.depths[index][..., None]
        points = rays @ shots.rotations[index].T + shots.centres[index]
        images[index] = (127 + 127 * np.sin(3 * points)).astype(np.uint8)
    return replace(shots, images=images)


def begun(shots: Shots, steps: int, *, rgbd: bool = False) -> tuple[CoordinateNetwork, list[list[str]]]:
    """A network after its first training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CoordinateNetwork(width=32, middle=torch.tensor([0.0, 0.0, 2.0]), size=1.0)
    lessons = Lessons(shots, list(range(len(shots) - 1)), [len(shots) - 1], batch_size=5, variation=STILL)
    found = fit(
        network,
        Initial(lessons, rgbd=rgbd),
        Plan(steps=steps, batch=5, validate_every=steps),
        optimizer=lambda net, steps: optimizer(net, "adamw", 3e-3, steps=steps, schedule="onecycle"),
        work=None,
        identity={},
        log=Silent(),
    )
    assert isinstance(found.network, CoordinateNetwork)
    return found.network, [line.split(",") for line in found.log_csv.splitlines()]


@pytest.mark.parametrize("known", ["depth", "points", "poses"])
def test_a_network_learns_from_what_is_known(known: str) -> None:
    shots = textured()
    if known != "depth":
        assert shots.depths is not None
        seen = batch_of(shots, list(range(len(shots))), STILL, 8, rngs(len(shots)))["seen"].numpy()
        points = [
            one.reshape(-1, 3)[::3] @ rotation.T + centre
            for one, rotation, centre in zip(seen, shots.rotations, shots.centres, strict=True)
        ]
        shots = replace(shots, depths=None, points=points if known == "points" else None)
    _, rows = begun(shots, 40)
    losses = [float(row[rows[0].index("loss")]) for row in rows[1:]]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    shares = [float(row[rows[0].index("within_10px")]) for row in rows[1:]]
    assert np.mean(shares[-5:]) > np.mean(shares[:5]) + 0.2
    assert any(name.startswith("val_") for name in rows[0])


def test_varied_lessons_teach_the_same_map() -> None:
    """The truth loses nothing under any turn and zoom: no label goes wrong on the way."""
    batch = {key: value.double() for key, value in batch_of(shots_of(), [0, 1, 2], VARIED, 8, rngs(3)).items()}
    _, errors_px = initial_loss(in_map(batch, batch["seen"].nan_to_num(1.0)), PIXELS, batch, NUMBERS)
    known = batch["seen"].isfinite().all(-1).flatten(1)
    assert errors_px[known].max() < 1e-2


@pytest.mark.parametrize("wrong", [{"nearest": 20.0}, {"proxy": 2000.0}, {"tolerance": 0.0}, {"soft_px": -1.0}])
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="nearest < proxy"):
        Beginning(**wrong)
