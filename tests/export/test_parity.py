"""What an export loses against its map."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from placecell.estimate import Estimate
from placecell.export.parity import Parity, moves
from placecell.pose import Pose


def at(x: float, name: str = "a") -> Estimate:
    return Estimate(name, Pose(np.eye(3), np.array([x, 0.0, 0.0])))


TRUTHS = [Pose.identity()] * 3


def test_the_loss_is_the_share_of_the_median() -> None:
    found = Parity.of([at(0.11), at(0.22), at(0.33)], [at(0.1), at(0.2), at(0.3)], TRUTHS)
    assert (found.distance, found.reference_distance) == (0.22, 0.2)
    assert found.loss == pytest.approx(0.1) and found.moved == pytest.approx(0.02)


def test_medians_that_agree_by_chance_are_not_close() -> None:
    one, other = [at(0.1)] * 3, [Estimate("a", Pose(np.eye(3), np.array([0.0, 0.1, 0.0])))] * 3
    assert Parity.of(other, one, TRUTHS).loss == 0.0
    assert not Parity.of(other, one, TRUTHS).close
    assert Parity.of(one, one, TRUTHS).close
    little = [Estimate("a", Pose(np.eye(3), np.array([0.1, 0.024, 0.0])))] * 3
    assert Parity.of(little, one, TRUTHS).loss == pytest.approx(0.0284, abs=1e-3)
    assert Parity.of(little, one, TRUTHS).close
    assert not Parity.of([at(0.104)] * 3, one, TRUTHS).close


def test_a_better_export_loses_nothing() -> None:
    found = Parity.of([at(0.1)] * 3, [at(0.2)] * 3, TRUTHS)
    assert found.loss == 0.0 and found.distance < found.reference_distance  # of rotation: both have none


def test_the_worse_of_centre_and_rotation_counts() -> None:
    turned = Estimate("a", Pose.exp([0.02, 0, 0, 0.1, 0, 0]))
    straight = Estimate("a", Pose.exp([0.01, 0, 0, 0.1, 0, 0]))
    assert Parity.of([turned] * 3, [straight] * 3, TRUTHS).loss == pytest.approx(1.0, rel=1e-3)


def test_moves_are_squares_in_multiples_of_errors() -> None:
    scale = Parity.of([at(0.1)] * 3, [Estimate("a", Pose.exp([0.02, 0, 0, 0.1, 0, 0]))] * 3, TRUTHS)
    refused = Estimate.refusal("a", "no")
    assert moves([at(0.15)], [at(0.1)], scale) == pytest.approx(0.25, rel=1e-3)
    assert moves([at(0.15), at(9.0)], [at(0.1)] * 2, scale) == pytest.approx(0.625, rel=1e-3)
    assert moves([refused, refused, at(0.1)], [at(0.1), refused, at(0.1)], scale) == pytest.approx(0.5)
    turned = Estimate("a", Pose.exp([0.01, 0, 0, 0, 0, 0]))
    assert moves([turned], [at(0.0)], scale) == pytest.approx(0.25, rel=1e-3)
    assert moves([], [], scale) == 0.0


def test_how_far_stated_errors_move_is_told() -> None:
    def stating(*sigmas: float) -> list[Estimate]:
        return [
            Estimate("a", Pose.identity(), np.diag([s, s, s, 2 * s, 2 * s, 2 * s]) ** 2 / [[1, 1, 1, 4, 4, 4]])
            for s in sigmas
        ]

    found = Parity.of(stating(1.1, 2.0, 0.9), stating(1.0, 1.0, 1.0), TRUTHS)
    assert found.sigma_moved == pytest.approx(0.1) and found.sigma_moved_deg == pytest.approx(0.1)
    bare = Parity.of([at(0.1)] * 3, stating(1.0, 1.0, 1.0), TRUTHS)
    assert bare.sigma_moved is None and json.loads(json.dumps(bare.told))["sigma_moved_deg"] is None


def test_refusing_is_losing_everything() -> None:
    found = Parity.of([Estimate.refusal("a", "no")] * 3, [at(0.1)] * 3, TRUTHS)
    assert found.loss == math.inf and (found.refused, found.reference_refused) == (3, 0)
    json.dumps(found.told, allow_nan=False)
