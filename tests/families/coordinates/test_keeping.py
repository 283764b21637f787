from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from placecell.errors import FormatError
from placecell.families.coordinates.keeping import Kept, fill, packed, rounded


class Net(nn.Module):
    """A kernel, a matrix, biases, and lengths that no half precision holds."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.kernel = nn.Conv2d(3, 5, 3)
        self.matrix = nn.Linear(7, 4)
        self.register_buffer("centres", torch.tensor([123_456.789, 0.1]))
        with torch.no_grad():
            self.matrix.weight[0] *= 100
            self.matrix.weight[2] = 0


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize(("kept", "off"), [("half", 2**-11), ("int8", 0.51 / 127)])
class TestRounded:
    def test_is_near(self, kept: Kept, off: float) -> None:
        network = Net()
        before, after = weights(network), weights(rounded(network, kept))
        assert torch.equal(before["centres"], after["centres"])
        for key in ("kernel.weight", "matrix.weight"):
            largest = before[key].abs().flatten(1).amax(dim=1).clamp_min(1e-9)
            gone = (after[key] - before[key]).abs().flatten(1).amax(dim=1)
            assert (gone <= off * largest).all() and gone.max() > 0

    def test_what_is_kept_answers_bit_by_bit(self, kept: Kept, off: float) -> None:
        network, other = rounded(Net(), kept), Net(seed=1)
        tensors = packed(network, "part", kept)
        used = fill(other, "part", {**tensors, "strange": np.zeros(1)}, Path("map"))
        assert used == set(tensors)
        for key, value in weights(network).items():
            assert torch.equal(weights(other)[key], value), key
        again = packed(other, "part", kept)
        assert all(again[key].tobytes() == value.tobytes() for key, value in tensors.items())


def test_a_byte_a_weight_is_half_of_half() -> None:
    sizes = [
        sum(value.nbytes for value in packed(nn.Linear(200, 100), "x", kept).values()) for kept in ("half", "int8")
    ]
    assert sizes == [2 * 20_100, 20_000 + 200 + 200]


def test_what_does_not_fit_is_refused() -> None:
    tensors: dict[str, NDArray[Any]] = packed(Net(), "part", "int8")
    for key, wrong in (("part.matrix.weight", np.zeros((4, 6), np.int8)), ("part.kernel.weight.scale", np.ones(4))):
        with pytest.raises(FormatError, match=r"map: tensor part\.\w+\.weight does not fit"):
            fill(Net(), "part", {**tensors, key: wrong}, Path("map"))
    with pytest.raises(KeyError):
        fill(Net(), "other", tensors, Path("map"))
