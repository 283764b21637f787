from __future__ import annotations

import pytest
import torch
from numpy.testing import assert_allclose

from placecell.families.coordinates.dsac.fcn import CoordinateNetwork


def network_of(**settings: object) -> CoordinateNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CoordinateNetwork(width=16, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(64, 80), (69, 87), (8, 8)])
def test_one_coordinate_a_whole_cell(height: int, width: int) -> None:
    found = network_of()(torch.randn(2, 3, height, width))
    assert found.shape == (2, 3, height // 8, width // 8) and found.dtype == torch.float32


def test_cells_are_where_they_are_said_to_be() -> None:
    """A change far off changes nothing, one in the middle of a cell changes this cell most."""
    network, images = network_of(), torch.zeros(1, 3, 256, 256)
    spot = images.clone()
    spot[..., 132, 132] = 50.0
    change = (network(spot) - network(images)).detach().norm(dim=1)[0]
    row, column = divmod(int(change.argmax()), 32)
    assert abs(row - 16) <= 1 and abs(column - 16) <= 1
    assert change[0, 0] == 0


def test_middle_and_size_place_the_output() -> None:
    images, middle = torch.randn(1, 3, 32, 32), torch.tensor([1.0, 2.0, 3.0])
    plain, placed = network_of()(images), network_of(middle=middle, size=5.0)(images)
    assert_allclose(placed.detach(), middle.view(3, 1, 1) + 5 * plain.detach(), rtol=1e-5, atol=1e-5)
    assert {"middle", "size"} <= set(network_of().state_dict())


def test_a_grey_network_sees_no_colour() -> None:
    images = torch.randn(1, 3, 32, 32)
    turned = images.roll(1, dims=1)
    assert_allclose(network_of(grey=True)(images).detach(), network_of(grey=True)(turned).detach(), atol=1e-5)
    assert not torch.allclose(network_of()(images), network_of()(turned))


def test_autocast_rounds_no_place() -> None:
    """Half a precision has steps of a centimetre at two metres; what goes in may be rounded, what comes out not."""
    network, images = network_of(size=2.0), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
    assert found.dtype == torch.float32
    assert (found != found.bfloat16().float()).float().mean() > 0.9


@pytest.mark.parametrize("width", [0, 4, 20])
def test_other_widths_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        CoordinateNetwork(width=width)
