"""Which pictures are matched: laws that hold of every list, and what each way promises."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from placecell.pairs import Pair, exhaustive, posed, retrieved, sequential, unique
from placecell.pose import Pose


def random_vectors(count: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_poses(count: int, seed: int, turn_rad: float = 0.3) -> list[Pose]:
    rng = np.random.default_rng(seed)
    return [Pose.exp([*(turn_rad * rng.standard_normal(3)), *rng.standard_normal(3)]) for _ in range(count)]


def walk(count: int) -> list[Pose]:
    """A step a frame along x, looking along z."""
    return [Pose(np.eye(3), np.array([0.1 * index, 0.0, 0.0])) for index in range(count)]


def keeps_the_laws(pairs: list[Pair], count: int) -> bool:
    in_range = all(0 <= i < j < count for i, j in pairs)
    return in_range and pairs == sorted(set(pairs))


def partners(pairs: list[Pair], index: int) -> set[int]:
    return {i + j - index for i, j in pairs if index in (i, j)}


@given(count=st.integers(0, 40), wanted=st.integers(0, 15), reach=st.integers(0, 60), seed=st.integers(0, 99))
def test_every_list_is_of_distinct_ordered_pairs(count: int, wanted: int, reach: int, seed: int) -> None:
    vectors, poses = random_vectors(count, seed), random_poses(count, seed)
    assert keeps_the_laws(exhaustive(count), count)
    assert keeps_the_laws(sequential(count, overlap=wanted), count)
    assert keeps_the_laws(retrieved(vectors, count=wanted, reach=reach), count)
    assert keeps_the_laws(retrieved(vectors, count=wanted, min_gap=3, reach=reach), count)
    assert keeps_the_laws(posed(poses, count=wanted, reach=reach), count)


def test_unique_orders_and_drops_repeats() -> None:
    assert unique([(3, 1), (0, 2), (1, 3), (2, 0), (0, 1)]) == [(0, 1), (0, 2), (1, 3)]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_exhaustive_is_all_of_them(count: int) -> None:
    assert exhaustive(count) == list(combinations(range(count), 2))


class TestSequential:
    def test_it_is_each_with_the_next_and_the_quadratic_steps(self) -> None:
        pairs = sequential(300, overlap=6)
        assert {j - i for i, j in pairs} == {1, 2, 3, 4, 5, 6, 8, 16, 32}
        assert partners(pairs, 100) == {100 + sign * step for step in (1, 2, 3, 4, 5, 6, 8, 16, 32) for sign in (1, -1)}

    def test_without_the_quadratic_steps_it_is_the_next_only(self) -> None:
        assert {j - i for i, j in sequential(300, overlap=6, quadratic=False)} == {1, 2, 3, 4, 5, 6}

    def test_the_end_is_not_overrun(self) -> None:
        assert sequential(3, overlap=8) == [(0, 1), (0, 2), (1, 2)]


class TestRetrieved:
    def test_it_is_each_with_those_most_alike(self) -> None:
        vectors = random_vectors(30, 0)
        pairs = retrieved(vectors, count=4)
        expected = set()
        for index, row in enumerate(vectors):
            others = sorted(set(range(30)) - {index}, key=lambda other: -float(row @ vectors[other]))
            expected |= {(min(index, other), max(index, other)) for other in others[:4]}
        assert set(pairs) == expected

    def test_neighbours_in_time_are_passed_over(self) -> None:
        angle = np.linspace(0, 1.5, 60)
        vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        assert {j - i for i, j in retrieved(vectors, count=2)} <= {1, 2}
        assert min(j - i for i, j in retrieved(vectors, count=2, min_gap=10)) == 11


class TestPosed:
    def test_it_is_each_with_those_nearest_by(self) -> None:
        poses = random_poses(30, 1)
        centres = np.array([pose.translation for pose in poses])
        expected = set()
        for index in range(30):
            distance = np.linalg.norm(centres - centres[index], axis=1)
            for other in np.argsort(distance)[1:5].tolist():
                expected.add((min(index, other), max(index, other)))
        assert set(posed(poses, count=4, max_angle_deg=180.0)) == expected

    def test_nobody_is_paired_with_those_who_look_elsewhere(self) -> None:
        poses = random_poses(60, 2, turn_rad=1.5)
        pairs = posed(poses, count=8, max_angle_deg=50.0)
        forward = np.array([pose.rotation @ [0.0, 0.0, 1.0] for pose in poses])
        apart_deg = [np.degrees(np.arccos(np.clip(forward[i] @ forward[j], -1, 1))) for i, j in pairs]
        assert 30 < max(apart_deg) <= 50.0
        assert len(pairs) > 60

    def test_back_to_back_is_no_pair_and_rolled_about_the_view_is_one(self) -> None:
        here = Pose.identity()
        behind = Pose.exp([0, np.pi, 0, 0, 0, 0])
        rolled = Pose.exp([0, 0, np.pi / 2, 0.1, 0, 0])
        assert posed([here, behind], count=3) == []
        assert posed([here, rolled], count=3) == [(0, 1)]

    def test_the_world_frame_and_its_unit_are_nothing(self) -> None:
        poses = random_poses(40, 3)
        moved = Pose.exp([1.0, 2.0, -0.5, 10.0, 20.0, 30.0])
        elsewhere = [moved @ Pose(pose.rotation, 7.0 * pose.translation) for pose in poses]
        assert posed(elsewhere, count=5, reach=20) == posed(poses, count=5, reach=20)


class TestReach:
    def test_ranks_spread_from_the_nearest_to_the_far(self) -> None:
        near, far = posed(walk(400), count=8), posed(walk(400), count=8, reach=160)
        assert max(j - i for i, j in near) <= 8
        steps = partners(far, 200)
        assert {abs(200 - step) for step in steps} >= {1}
        assert max(abs(200 - step) for step in steps) >= 70  # the 160th nearest is 80 steps away
        assert len(far) <= 400 * 8

    @pytest.mark.parametrize("reach", [0, 5, 12, 23, 30, 160, 10_000])
    def test_everyone_has_as_many_partners_as_asked_for_while_there_are_so_many(self, reach: int) -> None:
        poses, vectors = random_poses(24, 4), random_vectors(24, 4)
        for pairs in (
            posed(poses, count=12, reach=reach, max_angle_deg=180.0),
            retrieved(vectors, count=12, reach=reach),
        ):
            assert min(len(partners(pairs, index)) for index in range(24)) >= 12

    def test_those_who_look_elsewhere_use_up_no_ranks(self) -> None:
        turned = [pose @ Pose.exp([0, np.pi, 0, 0, 0, 0]) for pose in walk(200)]
        poses = [pose for pair in zip(walk(200), turned, strict=True) for pose in pair][:60]
        pairs = posed(poses, count=10, reach=40)
        assert min(len(partners(pairs, index)) for index in range(60)) >= 10
