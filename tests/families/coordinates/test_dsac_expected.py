from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from families.coordinates.dsac_place import CAMERA, KINDS, MAX_ERROR, generator, place_of, require_slopes
from placecell.datasets import seven_scenes
from placecell.families.coordinates.dsac import hypotheses
from placecell.families.coordinates.dsac.expected import (
    Expected,
    Measure,
    Picture,
    Ransac,
    expected_loss,
    expected_losses,
    pose_losses,
    told_of,
)
from placecell.families.coordinates.dsac.scores import ScoreNetwork
from placecell.families.coordinates.dsac.shots import cell_pixels
from placecell.families.coordinates.dsac.sights import Pixels
from placecell.images import load_query
from placecell.pnp import solve_pnp
from placecell.pose import Pose, pose_error


def tensors(*poses: Pose) -> tuple[Tensor, Tensor]:
    rotations, centres = np.stack([p.rotation for p in poses]), np.stack([p.translation for p in poses])
    return torch.from_numpy(rotations), torch.from_numpy(centres)


def test_losses_are_those_of_pose_error() -> None:
    rng = np.random.default_rng(0)
    truth = Pose.exp(rng.normal(size=6))
    poses = [truth @ Pose.exp(size * rng.normal(size=6)) for size in (1e-4, 0.01, 0.5)]
    errors = [pose_error(pose, truth) for pose in poses]
    rotation, centre = tensors(truth)
    both = (rotation[0], centre[0])
    expected = [max(error.angle_deg, 100 * error.distance) for error in errors]
    assert_allclose(pose_losses(*tensors(*poses), both), expected, rtol=1e-6)
    sums = [error.angle_deg + 30 * error.distance for error in errors]
    soft = [total if total <= 100 else math.sqrt(100 * total) for total in sums]
    assert_allclose(pose_losses(*tensors(*poses), both, measure="sum", cm_per_unit=30.0), soft, rtol=1e-6)


def test_the_soft_clamp_is_the_root_above_100() -> None:
    truth = tensors(Pose.identity())
    far = Pose(np.eye(3), np.array([4.0, 0.0, 0.0]))
    loss = pose_losses(*tensors(far), (truth[0][0], truth[1][0]), measure="sum")
    assert_allclose(loss, [200.0])
    loss = pose_losses(*tensors(far), (truth[0][0], truth[1][0]), measure="sum", soft=4.0)
    assert_allclose(loss, [40.0])


@pytest.mark.parametrize("measure", ["max", "sum"])
def test_at_the_truth_the_loss_is_nothing_and_pulls_nowhere(measure: Measure) -> None:
    place = place_of()
    rotation, centre = (part[None].clone().requires_grad_() for part in place.truth)
    loss = pose_losses(rotation, centre, place.truth, measure=measure)
    assert_allclose(loss.detach(), [0.0], atol=1e-6)
    loss.sum().backward()
    assert rotation.grad is not None and rotation.grad.isfinite().all()
    assert centre.grad is not None and (centre.grad == 0).all()


def expected_of(coordinates: Tensor, kind: str, ransac: Ransac, *, seed: int = 0, **place: Any) -> Expected:
    there = place_of(**place)
    return expected_loss(coordinates, there.sight(kind), there.truth, ransac, generator=generator(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_the_expectation_is_that_of_the_softmax(kind: str) -> None:
    place = place_of()
    found = expected_of(place.coordinates(), kind, Ransac(hypotheses=16, max_error=MAX_ERROR[kind]))
    assert_allclose(found.chances_H.sum(), 1.0)
    assert_allclose(found.loss, (found.chances_H * found.losses_H).sum())
    assert 0 <= float(found.entropy) <= math.log(16) + 1e-9
    sure = expected_of(place.coordinates(), kind, Ransac(hypotheses=16, max_error=MAX_ERROR[kind], alpha=1e6))
    assert_allclose(sure.loss, sure.losses_H[sure.chances_H.argmax()], rtol=1e-6)
    assert_allclose(sure.entropy, 0.0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_refining_lowers_the_loss(kind: str) -> None:
    place = place_of(points=200, noise=0.02)
    rough, fine = (
        expected_of(place.coordinates(), kind, Ransac(max_error=MAX_ERROR[kind], refine=count), points=200, noise=0.02)
        for count in (0, 64)
    )
    assert_allclose(rough.chances_H, fine.chances_H)
    assert float(fine.loss) < 0.5 * float(rough.loss)


def test_unlikely_hypotheses_are_not_refined() -> None:
    place = place_of(points=200, noise=0.02)
    told: dict[str, Any] = {"points": 200, "noise": 0.02}
    rough = expected_of(place.coordinates(), "rgb", Ransac(refine=0), **told)
    some = expected_of(place.coordinates(), "rgb", Ransac(refine=64, least_chance=0.01), **told)
    changed = (rough.losses_H != some.losses_H).tolist()
    assert changed == (some.chances_H >= 0.01).tolist()
    few = expected_of(place.coordinates(), "rgb", Ransac(refine=2, least_chance=0.0), **told)
    assert set((rough.losses_H != few.losses_H).nonzero().squeeze(1).tolist()) == set(
        few.chances_H.topk(2).indices.tolist()
    )


@pytest.mark.parametrize("refine", [0, 3])
@pytest.mark.parametrize("measure", ["max", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_gradient_is_that_of_finite_differences(kind: str, measure: Measure, refine: int) -> None:
    place = place_of(points=25, noise=0.01)
    told: dict[str, Any] = {"points": 25, "noise": 0.01}
    ransac = Ransac(hypotheses=6, max_error=MAX_ERROR[kind], alpha=20.0, refine=refine, measure=measure)

    def value(points: Tensor) -> Tensor:
        return expected_of(points, kind, ransac, **told).loss

    require_slopes(value, place.coordinates())


def test_the_gradient_has_both_parts_of_the_paper() -> None:
    """Σ P_j (∂loss_j + loss_j ∂log P_j), each part by itself."""
    place = place_of(points=25)
    ransac = Ransac(hypotheses=6, alpha=20.0)
    points = place.coordinates().requires_grad_()
    found = expected_of(points, "rgb", ransac, points=25)
    chances, losses = found.chances_H, found.losses_H
    parts = [(chances.detach() * losses).sum(), (chances.detach() * losses.detach() * chances.log()).sum()]
    slopes = [torch.autograd.grad(part, points, retain_graph=True)[0] for part in parts]
    (whole,) = torch.autograd.grad(found.loss, points)
    assert all(float(slope.abs().max()) > 1e-3 for slope in slopes)
    assert_allclose(whole, sum(slopes, torch.zeros(())), rtol=1e-6, atol=1e-9)


def test_the_gradient_through_a_learned_score() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ScoreNetwork(width=8).double()
        torch.nn.init.normal_(network.last.weight)
    place = place_of(points=20)

    def value(points: Tensor) -> Tensor:
        def score(errors_HN: Tensor) -> Tensor:
            return network(errors_HN, 10.0, size=(4, 5), alpha=20.0)

        ransac = Ransac(hypotheses=4)
        return expected_loss(points, place.sight("rgb"), place.truth, ransac, generator=generator(), score=score).loss

    require_slopes(value, place.coordinates())
    value(place.coordinates()).backward()
    assert network.last.weight.grad is not None and network.last.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_following_the_gradient_betters_the_pose(kind: str) -> None:
    """Coordinates as free numbers, under other hypotheses in each step, and judged by others again."""
    place = place_of(points=150, noise=0.05, outliers=0.3)
    told: dict[str, Any] = {"points": 150, "noise": 0.05, "outliers": 0.3}
    ransac = Ransac(hypotheses=16, max_error=MAX_ERROR[kind], refine=4)
    points = place.coordinates().requires_grad_()
    before = float(expected_of(points.detach(), kind, ransac, seed=999, **told).loss)
    optimizer = torch.optim.Adam([points], lr=1e-3)
    for step in range(40):
        optimizer.zero_grad()
        expected_of(points, kind, ransac, seed=step, **told).loss.backward()
        optimizer.step()
    assert float(expected_of(points.detach(), kind, ransac, seed=999, **told).loss) < 0.7 * before


def test_autocast_changes_nothing() -> None:
    place = place_of()
    plain = expected_of(place.coordinates(), "rgb", Ransac()).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(expected_of(place.coordinates(), "rgb", Ransac()).loss, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_at_once_are_pictures_one_by_one(kind: str) -> None:
    """Of other poses, lenses, noise, and one of which nothing can be made: values and gradients."""
    places = [place_of(seed, points=40) for seed in range(3)]
    ransac = Ransac(hypotheses=8, max_error=MAX_ERROR[kind], refine=4)
    sights = [place.sight(kind) for place in places]
    first = sights[0]
    if isinstance(first, Pixels):  # at half the size, which changes its pixels and lengths alike
        sights[0] = Pixels(first.flat_px / 2, (CAMERA.fx / 2, CAMERA.fy / 2), (CAMERA.cx / 2, CAMERA.cy / 2))
    noise = [torch.linspace(0.5, 2.0, 40) * MAX_ERROR[kind] * (1 + index) for index in range(3)]

    def slopes(together: bool) -> tuple[list[Expected], list[Tensor]]:
        leaves = [place.coordinates().requires_grad_() for place in places]
        with torch.no_grad():
            leaves[1].zero_()
        asked = [
            Picture(leaf, sight, *place.truth, generator(index), noise[index])
            for index, (leaf, sight, place) in enumerate(zip(leaves, sights, places, strict=True))
        ]
        groups = [asked] if together else [[one] for one in asked]
        found = [one for group in groups for one in expected_losses(group, ransac)]
        torch.stack([one.loss for one in found]).sum().backward()
        return found, [leaf.grad for leaf in leaves if leaf.grad is not None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hypotheses, "MOST_TRIES", 300)
        (one, by_one), (all_, by_all) = slopes(False), slopes(True)
    assert [len(found.losses_H) for found in all_] == [len(found.losses_H) for found in one] == [8, 0, 8]
    assert len(by_one) == len(by_all) == 3
    for a, b in zip(one, all_, strict=True):
        assert_allclose(a.losses_H.detach(), b.losses_H.detach(), rtol=1e-9)
        assert_allclose(a.chances_H.detach(), b.chances_H.detach(), rtol=1e-9)
    for x, y in zip(by_one, by_all, strict=True):
        assert_allclose(x, y, rtol=1e-7, atol=1e-9 * float(x.abs().max() + 1e-9))
    told = told_of(all_, torch.zeros(()))
    kept = [found for found in one if len(found.losses_H)]
    assert_allclose(told["loss"].detach(), np.mean([found.loss.item() for found in kept]), rtol=1e-6)
    assert told["lost"] == 1 and told["best"] <= told["loss"]


def test_without_hypotheses_nothing_is_lost_and_nothing_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypotheses, "MOST_TRIES", 300)
    place = place_of()
    points = (100 * torch.randn(60, 3, generator=generator(), dtype=torch.float64)).requires_grad_()
    found = expected_loss(points, place.sight("rgb"), place.truth, Ransac(max_error=1e-3), generator=generator())
    assert len(found.losses_H) == 0 and found.loss.item() == 0
    found.loss.backward()
    assert points.grad is not None and (points.grad == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [{"hypotheses": 0}, {"max_error": 0.0}, {"least_chance": 1.0}, {"scale": 0.0}, {"soft": 0.0}, {"measure": "mean"}],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"positive|measure"):
        Ransac(**wrong)  # type: ignore[arg-type]


@pytest.mark.data
def test_coordinates_of_a_real_frame_learn_from_its_pose(data_root: Path) -> None:
    """Those of its depth, with noise and wrong ones in patches, as free numbers; judged by the RANSAC of use."""
    scene = seven_scenes.read(data_root / "redkitchen", labels="kinectfusion")
    frame = next(frame for frame in scene.split("train").posed if frame.sequence == "seq-04")
    query, truth = load_query(scene, frame, depth=True), frame.world_from_cam
    assert query.depth_m is not None and truth is not None
    pixels = cell_pixels(query.camera, 16)
    depth = query.depth_m[8::16, 8::16].astype(np.float64)
    rng = np.random.default_rng(0)
    patches = cv2.GaussianBlur(rng.normal(size=(*depth.shape, 4)), (0, 0), 2.0)
    patches /= patches.std()
    known = query.camera.rays(pixels) * np.nan_to_num(depth, nan=float(np.nanmedian(depth)))[..., None]
    points = truth.apply(known) + 0.05 * patches[..., :3] + np.where(patches[..., 3:] > 0.6, patches[..., :3], 0.0)
    flat, sight = pixels.reshape(-1, 2), Pixels.of(pixels.reshape(-1, 2), query.camera)
    both = (torch.tensor(truth.rotation), torch.tensor(truth.translation))

    def away(points_N3: Tensor) -> float:
        found = solve_pnp(points_N3.detach().numpy(), flat, query.camera, max_error_px=10.0)
        return pose_error(found.world_from_cam, truth).distance

    coordinates = torch.from_numpy(points.reshape(-1, 3)).requires_grad_()
    before, optimizer = away(coordinates), torch.optim.Adam([coordinates], lr=1e-3)
    for step in range(30):
        optimizer.zero_grad()
        expected_loss(coordinates, sight, both, Ransac(hypotheses=32), generator=generator(step)).loss.backward()
        optimizer.step()
    assert away(coordinates) < 0.7 * before
