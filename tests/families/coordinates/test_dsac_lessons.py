from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from families.coordinates.test_dsac_shots import VARIED, shots_of
from placecell.families.coordinates.dsac.lessons import Lessons


def lessons_of(**settings: object) -> Lessons:
    return replace(Lessons(shots_of(5), [4, 1, 3], batch_size=2, variation=VARIED, seed=3), **settings)  # type: ignore[arg-type]


def test_each_epoch_goes_through_all_in_its_own_order() -> None:
    lessons = lessons_of(batch_size=3)
    epochs = [lessons.named(step) for step in range(8)]
    assert all(sorted(names) == ["1.jpg", "3.jpg", "4.jpg"] for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


def test_a_batch_is_a_function_of_its_step() -> None:
    first, again = lessons_of().batch(5), lessons_of().batch(5)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key].nan_to_num(), again[key].nan_to_num()) for key in first)
    other = lessons_of().batch(6)
    assert not torch.equal(first["images"], other["images"])
    assert not torch.equal(first["draw"], other["draw"])
    assert not torch.equal(first["draw"], lessons_of(seed=4).batch(5)["draw"])
    assert len(set(first["draw"].tolist())) == 2


def test_ranks_share_a_batch() -> None:
    lessons = lessons_of(batch_size=3)
    whole, parts = lessons.batch(2), [lessons.batch(2, rank, 2) for rank in range(2)]
    assert torch.equal(whole["images"][[0, 2]], parts[0]["images"])
    assert torch.equal(whole["images"][[1]], parts[1]["images"])
    assert torch.equal(whole["draw"][[0, 2]], parts[0]["draw"])


def test_the_names_are_those_of_the_pictures() -> None:
    lessons = replace(lessons_of(), variation=replace(VARIED, turn_deg=0.0, zoom=1.0, colour=0.0))
    for step in range(3):
        centres = [lessons.shots.centres[int(name[0])].tolist() for name in lessons.named(step)]
        assert lessons.batch(step)["centre"].tolist() == centres


@pytest.mark.parametrize("wrong", [{"learned": []}, {"batch_size": 0}])
def test_nothing_to_learn_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="to learn from"):
        lessons_of(**wrong)
