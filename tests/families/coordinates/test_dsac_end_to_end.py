from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from families.coordinates.dsac_place import KINDS, MAX_ERROR
from families.coordinates.test_dsac_initial import textured
from families.coordinates.test_dsac_shots import VARIED, rngs, shots_of
from placecell.families.coordinates.dsac import hypotheses
from placecell.families.coordinates.dsac.end_to_end import EndToEnd, Scored
from placecell.families.coordinates.dsac.expected import Ransac
from placecell.families.coordinates.dsac.judging import median_errors, placed
from placecell.families.coordinates.dsac.lessons import Lessons
from placecell.families.coordinates.dsac.scores import ScoreNetwork
from placecell.families.coordinates.dsac.shots import STILL, Shots, Variation, batch_of
from placecell.log import Silent
from placecell.pose import Pose, pose_error
from placecell.train.loop import Plan, Trained, fit
from placecell.train.optimizers import optimizer


class Free(nn.Module):
    """What any network is to the task; it knows its pictures by heart, and errs by numbers that it learns."""

    def __init__(self, shots: Shots, noise: float) -> None:
        super().__init__()
        batch = batch_of(shots, list(range(len(shots))), STILL, 8, rngs(len(shots)))
        points = torch.einsum("bij,bhwj->bihw", batch["rotation"], batch["seen"]) + batch["centre"][..., None, None]
        rng = np.random.default_rng(0)
        self.register_buffer("images", batch["images"])
        self.images: Tensor
        self.coordinates = nn.Parameter(points + noise * torch.from_numpy(rng.normal(size=points.shape)).float())

    def forward(self, images: Tensor) -> Tensor:
        same = (images.flatten(1)[:, None] - self.images.flatten(1)).abs().sum(-1).argmin(1)
        return self.coordinates[same]


def task_of(kind: str, shots: Shots, *, variation: Variation = STILL, **settings: object) -> EndToEnd:
    lessons = Lessons(shots, [0, 1, 2], [0, 1, 2], batch_size=2, variation=variation)
    ransac = Ransac(hypotheses=16, max_error=MAX_ERROR[kind], refine=4)
    return EndToEnd(lessons, replace(ransac, **settings), rgbd=kind == "rgbd")  # type: ignore[arg-type]


def trained(network: nn.Module, task: EndToEnd, steps: int, rate: float = 2e-3) -> Trained:
    return fit(
        network,
        task,
        Plan(steps=steps, batch=2, clip_norm=100.0, validate_every=steps),
        optimizer=lambda net, steps: optimizer(net, "adam", rate, steps=steps),
        work=None,
        identity={},
        log=Silent(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_betters_the_poses(kind: str) -> None:
    shots = textured(3)
    network, task = Free(shots, 0.06), task_of(kind, shots)
    before = task.validate(network)
    found = trained(network, task, 40)
    assert found.validation["cm"] < 0.7 * before["cm"]
    header, *rows = [line.split(",") for line in found.log_csv.splitlines()]
    assert {"loss", "best", "entropy", "lost", "val_cm", "val_deg"} <= set(header)
    losses = [float(row[header.index("loss")]) for row in rows]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all(float(row[header.index("best")]) <= loss + 1e-5 for row, loss in zip(rows, losses, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_the_truth_under_any_variation(kind: str) -> None:
    """Rotation, centre, focal length and depth of a varied picture fit together."""
    shots = shots_of()
    task = task_of(kind, shots, variation=VARIED)
    for step in range(2):
        batch = task.batch(step)
        points = torch.einsum("bij,bhwj->bihw", batch["rotation"], batch["seen"]) + batch["centre"][..., None, None]
        network = nn.Module()
        network.forward = lambda _, points=points: points.nan_to_num(50.0)  # type: ignore[method-assign]
        losses = task.loss(network, batch, step)
        assert losses["loss"] < 0.05 and losses["lost"] == 0


def test_a_step_is_repeated_to_the_bit() -> None:
    shots = textured(3)
    task, network = task_of("rgb", shots), Free(shots, 0.05)
    first, again = (task.loss(network, task.batch(1), 1) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["loss"], task.loss(network, task.batch(2), 2)["loss"])


def test_pictures_that_make_no_hypothesis_are_lost_and_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypotheses, "MOST_TRIES", 1000)
    shots = textured(3)
    task, network = task_of("rgb", shots, max_error=1e-4), Free(shots, 0.5)
    losses = task.loss(network, task.batch(0), 0)
    assert losses["lost"] == 2 and losses["loss"] == 0
    losses["loss"].backward()
    assert network.coordinates.grad is not None and (network.coordinates.grad == 0).all()


def test_scores_are_learned_alone_where_coordinates_are_frozen() -> None:
    shots = textured(3)
    coordinates = Free(shots, 0.06).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Scored(coordinates, ScoreNetwork(width=8))
    task, frozen = task_of("rgb", shots, alpha=1.0), coordinates.coordinates.clone()
    plain = task.loss(coordinates, task.batch(0), 0)
    assert_allclose(task.loss(network, task.batch(0), 0)["loss"].detach(), plain["loss"], rtol=1e-5)
    found = trained(network, task, 25, 3e-2)
    assert isinstance(found.network, Scored)
    assert torch.equal(coordinates.coordinates, frozen)
    losses = [task.loss(found.network, task.batch(step), step)["loss"].item() for step in range(100, 104)]
    counted = [task.loss(coordinates, task.batch(step), step)["loss"].item() for step in range(100, 104)]
    assert np.mean(losses) < np.mean(counted)


def test_depth_has_to_be_there() -> None:
    with pytest.raises(ValueError, match="need the depth"):
        EndToEnd(Lessons(shots_of(depth=False), [0]), rgbd=True)


@pytest.mark.parametrize("kind", KINDS)
def test_judging_places_what_is_right_and_not_what_is_wrong(kind: str) -> None:
    shots, rgbd, ransac = textured(3), kind == "rgbd", Ransac(max_error=MAX_ERROR[kind])
    network = Free(shots, 0.0)
    for index in range(3):
        truth = Pose.nearest(np.column_stack([shots.rotations[index], shots.centres[index]]))
        error = pose_error(placed(network, shots, index, ransac, rgbd=rgbd), truth)
        assert error.distance < 1e-3 and error.angle_deg < 0.05
    assert median_errors(network, shots, [0, 2], ransac, rgbd=rgbd)["cm"] < 0.1
    assert_allclose(
        median_errors(network, shots, [1], replace(ransac, cm_per_unit=1.0), rgbd=rgbd)["cm"],
        0.01 * median_errors(network, shots, [1], ransac, rgbd=rgbd)["cm"],
    )
    wrong, strict = Free(shots, 20.0), replace(ransac, max_error=1e-3)
    assert median_errors(wrong, shots, [0, 1, 2], strict, rgbd=rgbd) == {"cm": 1e6, "deg": 180.0}
    assert median_errors(network, shots, [], ransac) == {}
    with torch.no_grad():
        wrong.coordinates[:] = torch.nan
    assert placed(wrong, shots, 0, ransac, rgbd=rgbd) is None
