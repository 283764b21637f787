"""The order in which cells are learned from, and what a step makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from families.coordinates.small import settings
from placecell.families.coordinates.buffer import Buffer
from placecell.families.coordinates.head import Guess
from placecell.families.coordinates.training import CoordinatesTask

LOOKS, SAMPLES = 6, 10
Tasks = Callable[..., CoordinatesTask]


def buffer(looks: tuple[int, ...] = (0, 1, 2, 3, 4, 5)) -> Buffer:
    """Six looks of ten cells; the first feature of a cell is its number."""
    rng = np.random.default_rng(0)
    kind = np.dtype([("feature", np.float16, (4,)), ("ray", np.float32, (2,)), ("depth", np.float32)])
    cells = np.zeros((LOOKS, SAMPLES), kind)
    cells["feature"] = rng.normal(size=(LOOKS, SAMPLES, 4))
    cells["feature"][..., 0] = np.arange(LOOKS * SAMPLES).reshape(LOOKS, SAMPLES)
    cells["ray"] = rng.uniform(-0.5, 0.5, (LOOKS, SAMPLES, 2))
    cells["depth"] = rng.uniform(1, 4, (LOOKS, SAMPLES))
    return Buffer(
        cells=cells,
        names=tuple(f"frame {look % 3}" for look in range(LOOKS)),
        rotations=Rotation.random(LOOKS, random_state=1).as_matrix().astype(np.float32),
        centres=rng.normal(size=(LOOKS, 3)).astype(np.float32),
        focals_px=np.linspace(100, 150, LOOKS, dtype=np.float32),
        overall=rng.normal(size=(LOOKS, 3)).astype(np.float32),
        looks=np.array(looks),
    )


def task(batch: int = 16, seed: int = 0, **changes: Any) -> CoordinatesTask:
    found = CoordinatesTask(settings(batch=batch), buffer(), 100, seed, 2.5, None)
    return replace(found, **changes)


def shown(learning: CoordinatesTask, step: int, rank: int = 0, ranks: int = 1) -> list[int]:
    return learning.batch(step, rank, ranks)["features"][:, 0].int().tolist()


class TestOrder:
    @pytest.mark.parametrize("batch", [20, 16, 7])
    def test_a_round_shows_no_cell_twice_and_leaves_out_less_than_a_step(self, batch: int) -> None:
        learning, per_round = task(batch), 60 // batch
        for turn in range(3):
            cells = [cell for step in range(per_round) for cell in shown(learning, turn * per_round + step)]
            assert len(set(cells)) == len(cells) == per_round * batch

    def test_what_one_round_leaves_out_another_shows(self) -> None:
        learning = task(16)
        assert {cell for step in range(36) for cell in shown(learning, step)} == set(range(60))

    def test_every_round_is_another_and_mixes_the_looks(self) -> None:
        learning, rounds = task(20), (range(3), range(3, 6))
        first, second = ([cell for step in steps for cell in shown(learning, step)] for steps in rounds)
        assert first != second and sorted(first) == sorted(second) == list(range(60))
        assert len({cell // SAMPLES for cell in first[:20]}) >= 4

    def test_is_the_same_for_the_same_seed_and_step(self) -> None:
        assert shown(task(), 5) == shown(task(), 5) != shown(task(), 6)
        assert shown(task(), 5) != shown(task(seed=1), 5)

    def test_ranks_share_what_one_would_take(self) -> None:
        whole = shown(task(), 4)
        shares = [shown(task(), 4, rank, 3) for rank in range(3)]
        assert sorted(cell for share in shares for cell in share) == sorted(whole)
        assert [len(share) for share in shares] == [6, 5, 5]

    def test_of_fewer_cells_than_a_step_takes_all(self) -> None:
        learning = task(4096)
        assert learning.batch_size == 60 and sorted(shown(learning, 3)) == list(range(60))

    def test_looks_that_show_nothing_are_passed_over(self) -> None:
        learning = task(buffer=buffer((1, 4)))
        assert learning.batch_size == 16 and len(learning.buffer) == 20
        assert {cell // SAMPLES for step in range(4) for cell in shown(learning, step)} == {1, 4}
        assert set(learning.named(0)) == {"frame 1"}


class TestBatch:
    def test_what_belongs_together_stays_together(self) -> None:
        learning = task()
        batch, known = learning.batch(2, 0, 1), learning.buffer
        for row, cell in enumerate(shown(learning, 2)):
            look, sample = divmod(cell, SAMPLES)
            expected = known.cells[look, sample]
            np.testing.assert_array_equal(batch["features"][row].numpy(), expected["feature"])
            np.testing.assert_array_equal(batch["rays"][row].numpy(), expected["ray"])
            assert float(batch["depth"][row]) == expected["depth"]
            np.testing.assert_array_equal(batch["rotations"][row].numpy(), known.rotations[look])
            np.testing.assert_array_equal(batch["centres"][row].numpy(), known.centres[look])
            assert float(batch["focals"][row]) == known.focals_px[look]

    def test_it_is_told_what_its_pictures_look_like_where_the_head_asks(self) -> None:
        assert "overall" not in task().batch(2, 0, 1)
        learning = task(config=settings(batch=16, context=True))
        told = learning.batch(2, 0, 1)["overall"].numpy()
        looks = [cell // SAMPLES for cell in shown(learning, 2)]
        np.testing.assert_array_equal(told, learning.buffer.overall[looks])

    def test_some_of_its_frames_are_named(self) -> None:
        learning = task(2)
        for step in range(20):
            own = {f"frame {cell // SAMPLES % 3}" for cell in shown(learning, step)}
            assert 1 <= len(learning.named(step)) <= 3 and set(learning.named(step)) <= own


class Knowing(nn.Module):
    """A network that knows where the cells of a batch lie, but for an offset in metres."""

    def __init__(self, batch: Any, away: float = 0.0) -> None:
        super().__init__()
        rays = torch.cat([batch["rays"], torch.ones(len(batch["rays"]), 1)], dim=1)
        points = torch.einsum("nij,nj->ni", batch["rotations"], rays * batch["depth"][:, None]) + batch["centres"]
        self.points = points + away

    def forward(self, features: Tensor) -> Guess:
        return Guess(self.points, torch.zeros(len(features)))


class TestLoss:
    def test_is_nothing_at_the_truth_and_something_elsewhere(self) -> None:
        learning = task()
        batch = learning.batch(0, 0, 1)
        found = learning.loss(Knowing(batch), batch, 0)
        assert float(found["error_px"]) < 1e-2 and float(found["loss"]) < 1e-2
        assert float(learning.loss(Knowing(batch, 0.05), batch, 0)["error_px"]) > 2

    def test_gives_the_head_what_its_pictures_look_like(self) -> None:
        learning, given = task(config=settings(batch=16, context=True)), []

        class Listening(Knowing):
            def forward(self, features: Tensor, *context: Tensor) -> Guess:
                given.extend(context)
                return super().forward(features)

        batch = learning.batch(0, 0, 1)
        learning.loss(Listening(batch), batch, 0)
        assert len(given) == 1 and given[0] is batch["overall"]

    def test_forgives_less_towards_the_end(self) -> None:
        learning = task()
        batch = learning.batch(0, 0, 1)
        values = [float(learning.loss(Knowing(batch, 0.05), batch, step)["loss"]) for step in (0, 50, 99)]
        assert values[0] > values[1] > values[2]

    def test_is_judged_by_what_it_was_given(self) -> None:
        assert task().validate(Knowing(task().batch(0, 0, 1))) == {}
        judge = task(judge=lambda network: {"cm": 3.0, "deg": 0.5})
        assert judge.validate(nn.Identity()) == {"cm": 3.0, "deg": 0.5}
