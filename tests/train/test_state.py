from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from placecell.errors import FormatError
from placecell.train.state import State, place
from train.toy import Net, Toy, onecycle, train


def begun(network: nn.Module | None = None) -> State:
    return State.begin(network or Net(), onecycle, 10, 0.9)


def test_what_is_kept_is_all_there_is(tmp_path: Path) -> None:
    train(Toy(), work=tmp_path, steps=10)
    identity = json.loads((tmp_path / "checkpoint.json").read_text())["identity"]
    state = begun(place(Net(), torch.device("cpu"), channels_last=True))
    assert state.read(tmp_path, identity)
    (tmp_path / "again").mkdir()
    state.write(tmp_path / "again", identity)
    for path in [*tmp_path.glob("checkpoint*")]:
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_nothing_is_kept(tmp_path: Path) -> None:
    assert not begun().read(tmp_path, {})


@pytest.mark.parametrize("other", [nn.Linear(2, 2), Net(norm=False)])
def test_another_network(tmp_path: Path, other: nn.Module) -> None:
    begun().write(tmp_path, {})
    with pytest.raises(FormatError, match=r"keeps another network .*; delete it") as caught:
        begun(other).read(tmp_path, {})
    assert "\n" not in str(caught.value)


def test_a_forward_pass_can_be_undone() -> None:
    network = Net()
    state = begun(network)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    for _ in range(2):
        state.remember()
        network(torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
        assert not torch.equal(network.get_buffer("norm.running_mean"), before["norm.running_mean"])
        assert int(network.get_buffer("norm.num_batches_tracked")) == 1
        state.undo()
        assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
