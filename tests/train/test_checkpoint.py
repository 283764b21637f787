from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from placecell.errors import FormatError, PlacecellError
from placecell.train.checkpoint import Checkpoint, optimizer_state, read, require_own, restore_optimizer, write

IDENTITY = {"scene": "kitchen", "settings": {"crop": (2, 3)}}


def at(step: int) -> Checkpoint:
    tensors = {
        "network/a": torch.full((2, 3, 4, 5), step + 0.1).to(memory_format=torch.channels_last),
        "network/b": torch.tensor(step),
        "average/c": torch.tensor([step + 0.5], dtype=torch.bfloat16),
    }
    return Checkpoint(step, {**tensors, "tied": tensors["network/b"]}, {"rate": 0.1 / 3, "rows": [{"loss": step}]})


def same(found: Checkpoint | None, wanted: Checkpoint) -> bool:
    assert found is not None
    equal = all(torch.equal(found.tensors[name], wanted.tensors[name]) for name in wanted.tensors)
    return equal and (found.step, found.values, found.tensors.keys()) == (
        wanted.step,
        wanted.values,
        wanted.tensors.keys(),
    )


def test_round_trip(tmp_path: Path) -> None:
    assert read(tmp_path / "work", IDENTITY) is None
    write(tmp_path / "work", at(3), IDENTITY)
    assert same(read(tmp_path / "work", IDENTITY), at(3))


def test_the_next_takes_the_place_of_the_last(tmp_path: Path) -> None:
    for step in (3, 5):
        write(tmp_path, at(step), IDENTITY)
    assert same(read(tmp_path, IDENTITY), at(5))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("writes", [0, 1])
def test_a_disk_that_is_full_at_any_moment_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    write(tmp_path, at(3), IDENTITY)
    done: list[int] = []

    def fsync(number: int) -> None:
        done.append(number)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PlacecellError, match="No space left on device; free some space") as caught:
        write(tmp_path, at(5), IDENTITY)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert same(read(tmp_path, IDENTITY), at(3))
    write(tmp_path, at(7), IDENTITY)
    assert same(read(tmp_path, IDENTITY), at(7))
    assert len(list(tmp_path.iterdir())) == 2


def test_of_another_training(tmp_path: Path) -> None:
    write(tmp_path, at(3), IDENTITY)
    with pytest.raises(PlacecellError) as caught:
        read(tmp_path, {**IDENTITY, "scene": "office"})
    assert str(caught.value) == (
        f'{tmp_path} holds another training: scene was "kitchen", is "office"; delete it or name another map'
    )
    with pytest.raises(PlacecellError, match="seed was null, is 1;"):
        read(tmp_path, {**IDENTITY, "seed": 1})
    with pytest.raises(PlacecellError, match=r"d was null, is 1; and 2 more; delete"):
        read(tmp_path, {**IDENTITY, **dict.fromkeys("bcdef", 1)})


class TestOwn:
    def test_an_empty_a_new_and_a_training_of_ours_may_be(self, tmp_path: Path) -> None:
        require_own(tmp_path / "new", IDENTITY)
        require_own(tmp_path, IDENTITY)
        write(tmp_path, at(3), {**IDENTITY, "frames": 12})
        (tmp_path / "training.csv").touch()
        (tmp_path / ".views.host.1.2.partial").mkdir()
        (tmp_path / "views").mkdir()
        require_own(tmp_path, IDENTITY, beside=("views",))

    def test_another_training_is_told_by_what_is_known_so_far(self, tmp_path: Path) -> None:
        write(tmp_path, at(3), {**IDENTITY, "frames": 12})
        with pytest.raises(PlacecellError, match=r'holds another training: scene was "kitchen", is "office"; delete'):
            require_own(tmp_path, {"scene": "office"})

    def test_somebody_elses_folder_or_file_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        for path, told in ((tmp_path, ": it holds thesis.tex"), (tmp_path / "thesis.tex", "")):
            with pytest.raises(PlacecellError) as caught:
                require_own(path, IDENTITY)
            assert str(caught.value) == (
                f"{path} is in the way and no work folder of a training{told}; name another map"
            )


@pytest.mark.parametrize("damage", ["no tensors", "short tensors", "short note", "no step", "format 2", "list"])
def test_damaged(tmp_path: Path, damage: str) -> None:
    write(tmp_path, at(3), IDENTITY)
    note = tmp_path / "checkpoint.json"
    tensors = tmp_path / "checkpoint-00000003.safetensors"
    whole: dict[str, Any] = json.loads(note.read_text())
    if damage == "no tensors":
        tensors.unlink()
    elif damage == "short tensors":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "short note":
        note.write_bytes(note.read_bytes()[:-9])
    elif damage == "no step":
        note.write_text(json.dumps({key: value for key, value in whole.items() if key != "step"}))
    else:
        note.write_text("[]" if damage == "list" else json.dumps({**whole, "format": 2}))
    with pytest.raises(FormatError, match=r"checkpoint") as caught:
        read(tmp_path, IDENTITY)
    assert "\n" not in str(caught.value)


def step(weights: list[Tensor], optimizer: Optimizer, seed: int) -> None:
    for index, weight in enumerate(weights):
        numbers = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + index))
        weight.grad = torch.empty_like(weight).copy_(numbers)  # as backward does: in the memory order of the weight
    optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: AdamW([{"params": weights[:1], "lr": 0.3}, {"params": weights[1:]}], betas=(0.8, 0.9)),
        lambda weights: AdamW(weights, amsgrad=True),
        lambda weights: SGD(weights, lr=0.1, momentum=0.9),
        lambda weights: SGD(weights, lr=0.1),
        lambda weights: Adagrad(weights),
    ],
)
def test_an_optimizer_goes_on_to_the_bit(make: Any) -> None:
    def weights() -> list[Tensor]:
        kernel = nn.Parameter(torch.ones(4, 3, 5, 5).to(memory_format=torch.channels_last))
        return [kernel, nn.Parameter(torch.ones(()))]

    whole = weights()
    first = make(whole)
    for seed in range(3):
        step(whole, first, seed)
    tensors, values = optimizer_state(first)
    other = weights()
    for mine, kept in zip(other, whole, strict=True):
        mine.data.copy_(kept.data)
    second = make(other)
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    restore_optimizer(second, kept, json.loads(json.dumps(values)))
    for name, tensor in optimizer_state(second)[0].items():
        assert tensor.stride() == tensors[name].stride()
    for seed in range(3, 6):
        step(whole, first, seed)
        step(other, second, seed)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(other, whole, strict=True))


def test_a_state_shares_nothing_with_what_it_was_read_from() -> None:
    weight = nn.Parameter(torch.ones(3))
    first = AdamW([weight])
    step([weight], first, 0)
    tensors, values = optimizer_state(first)
    second = AdamW([nn.Parameter(torch.ones(3))])
    restore_optimizer(second, tensors, values)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    step(list(second.param_groups[0]["params"]), second, 1)
    assert all(torch.equal(tensors[name], before[name]) for name in before)
