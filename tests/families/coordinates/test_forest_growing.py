"""Trees: the question of a node against trying all of them, and what every tree keeps to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.families.coordinates.forest.features import COLOUR, Pixels, Planes, respond
from placecell.families.coordinates.forest.growing import Growing, Grown, Samples, grow

HOW = Growing(groups=(COLOUR,), reach=0.3, candidates=12, levels=8, least_samples=5)


def place(count: int = 1500, seed: int = 0) -> tuple[Planes, Samples]:
    """Smooth pictures whose colours tell where a pixel looks, with some noise."""
    rng = np.random.default_rng(seed)
    camera = Camera.from_focal(64, 48, 60.0)
    u_px, v_px = rng.uniform((0, 0), (64, 48), (count, 2)).T
    picture = rng.integers(0, 4, count)
    column, row = np.meshgrid(np.arange(64), np.arange(48))
    waves = [np.sin(column / 9 + k) * np.cos(row / (7 + k)) for k in range(12)]
    tints = rng.integers(0, 100, (4, 3, 1, 1))
    values = (tints + 75 + 75 * np.array(waves).reshape(4, 3, 48, 64)).astype(np.int16)
    points = np.stack([u_px / 20, v_px / 20, picture], axis=-1) + 0.02 * rng.normal(size=(count, 3))
    pixels = Pixels(
        picture.astype(np.int32), *(a.astype(np.float32) for a in (u_px, v_px)), np.full(count, 60, np.float32)
    )
    return Planes(camera, values), Samples(pixels, points.astype(np.float32))


def grown(how: Growing = HOW, *, threads: int = 1, seed: int = 0) -> tuple[Planes, Samples, Grown]:
    planes, samples = place()
    return planes, samples, grow(planes, samples, how, np.random.default_rng(seed), threads=threads)


def scatter(points: np.ndarray) -> float:
    """|S| V(S): the sum of squared distances to the mean."""
    return float(((points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)) ** 2).sum())


def parts(samples: Samples, found: Grown) -> list[np.ndarray]:
    return [samples.points[found.order[a:b]] for a, b in zip(found.border, found.border[1:], strict=False)]


def test_the_root_asks_the_question_that_leaves_the_least_variance() -> None:
    planes, samples, found = grown(replace(HOW, levels=1))
    left, right = parts(samples, found)
    taken = scatter(left) + scatter(right)
    values = respond(planes, samples.pixels, found.tree.probes.take((slice(None), None)))
    best = np.inf
    for row in values:
        low, span = row.min(), row.max() - row.min() + 1
        for step in range(1, 16):
            second = row >= low + np.ceil(step * span / 16)
            if min(second.sum(), (~second).sum()) >= HOW.least_samples:
                best = min(best, scatter(samples.points[second]) + scatter(samples.points[~second]))
    assert taken == pytest.approx(best, rel=1e-5)
    assert best < 0.97 * scatter(samples.points)


def test_samples_fall_into_the_leaf_they_grew() -> None:
    planes, samples, found = grown()
    leaf = np.empty(len(found.order), int)
    leaf[found.order] = np.repeat(np.arange(len(found.border) - 1), np.diff(found.border))
    np.testing.assert_array_equal(found.tree.fall(planes, samples.pixels), leaf)


def test_every_sample_is_in_one_leaf_and_no_leaf_is_too_small() -> None:
    _, samples, found = grown()
    assert sorted(found.order) == list(range(len(samples.points)))
    assert np.diff(found.border).min() >= HOW.least_samples
    assert len(found.border) - 1 == np.count_nonzero(~found.tree.divides) == len(found.tree.probe) + 1
    assert len(found.border) > 40


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_tree_asks_no_more_questions_than_levels(levels: int) -> None:
    _, _, found = grown(replace(HOW, levels=levels))
    assert len(found.border) - 1 == 2**levels


def test_leaves_know_where_their_pixels_look() -> None:
    planes, samples = place(12_000)
    learned, others = samples.take(np.arange(9000)), samples.take(np.arange(9000, 12_000))
    found = grow(planes, learned, replace(HOW, candidates=40, levels=12), np.random.default_rng(0))
    assert sum(map(scatter, parts(learned, found))) < 0.15 * scatter(learned.points)
    means = np.array([part.mean(axis=0) for part in parts(learned, found)])
    error = np.linalg.norm(means[found.tree.fall(planes, others.pixels)] - others.points, axis=1)
    assert np.median(error) < 0.2 * np.median(np.linalg.norm(others.points - learned.points.mean(axis=0), axis=1))


def test_the_same_seed_grows_the_same_tree_on_any_number_of_threads() -> None:
    _, _, first = grown()
    for _, _, other in (grown(), grown(threads=3)):
        for key in ("divides", "probe", "threshold"):
            np.testing.assert_array_equal(getattr(first.tree, key), getattr(other.tree, key))
        np.testing.assert_array_equal(first.order, other.order)
    assert not np.array_equal(first.tree.threshold, grown(seed=1)[2].tree.threshold)


def test_large_nodes_are_judged_by_some_of_their_samples() -> None:
    _, samples, all_of_them = grown(replace(HOW, levels=3))
    _, _, some = grown(replace(HOW, levels=3, judged=300))
    assert sum(map(scatter, parts(samples, some))) < 1.2 * sum(map(scatter, parts(samples, all_of_them)))
    assert np.diff(some.border).min() >= HOW.least_samples


def test_pixels_that_look_alike_stay_together() -> None:
    planes, samples = place()
    found = grow(Planes(planes.camera, np.full_like(planes.values, 9)), samples, HOW, np.random.default_rng(0))
    assert found.border.tolist() == [0, len(samples.points)]
    np.testing.assert_array_equal(found.tree.fall(planes, samples.pixels), 0)


def test_turning_the_world_changes_no_question() -> None:
    """Variance is a sum of squares: an axis of the world is no better than another."""
    planes, samples = place()
    first = grow(planes, samples, replace(HOW, levels=2), np.random.default_rng(0))
    turned = Samples(samples.pixels, samples.points[:, [2, 0, 1]] * np.float32([1, -1, -1]))
    other = grow(planes, turned, replace(HOW, levels=2), np.random.default_rng(0))
    np.testing.assert_array_equal(first.tree.threshold, other.tree.threshold)
    np.testing.assert_array_equal(first.tree.probe, other.tree.probe)
