from __future__ import annotations

import pytest
import torch
from torch import nn

from placecell.errors import PlacecellError
from placecell.train.devices import launched, leads, touching_all


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_the_first_process_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leads()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not leads()
    monkeypatch.setenv("RANK", "0")  # of torchrun, which counts over all machines
    assert leads()


def test_one_device_is_this_process(capfd: pytest.CaptureFixture[str]) -> None:
    with launched("cpu", 1, "fp32") as fabric:
        assert (fabric.world_size, fabric.global_rank, fabric.device) == (1, 0, torch.device("cpu"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("device", "devices", "text"),
    [
        ("cuda:99", 1, "--device cuda:99: this machine has no such device"),
        ("cuda", 99, "lower --devices|no such device"),
        ("meta", 1, "--device meta: this machine has no such device"),
    ],
)
def test_devices_that_are_not_there(device: str, devices: int, text: str) -> None:
    with pytest.raises(PlacecellError, match=text), launched(device, devices, "fp32"):
        pytest.fail("launched")


def test_a_launcher_and_the_devices_have_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(PlacecellError, match="started 2 processes for --devices 1"), launched("cpu", 1, "fp32"):
        pytest.fail("launched")


def test_a_loss_that_touches_all_is_the_same_loss() -> None:
    network = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    network["unused"].bias.requires_grad_(False)
    given = torch.tensor([[1.0, 2.0]])
    loss = network["used"](given).sum()
    touched = touching_all(loss, network)
    assert torch.equal(touched, loss)
    touched.backward()
    assert torch.equal(network["used"].weight.grad, given)
    assert torch.equal(network["unused"].weight.grad, torch.zeros(1, 2))
    assert network["unused"].bias.grad is None
