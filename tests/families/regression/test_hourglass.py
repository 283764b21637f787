from __future__ import annotations

import pytest
import torch
from torch import Tensor

from placecell.families.regression.hourglass import Hourglass

CHANNELS = (6, 7, 8, 9)


def maps(height: int, width: int, *, up: bool = True, batch: int = 2) -> list[Tensor]:
    """Maps of strides 4 to 32, rounded up or down."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(-(-height // s), -(-width // s)) if up else (height // s, width // s) for s in (4, 8, 16, 32)]
    return [torch.randn(batch, c, *size, generator=generator) for c, size in zip(CHANNELS, sizes, strict=True)]


class TestHourglass:
    @pytest.mark.parametrize("up", [True, False])
    @pytest.mark.parametrize("size", [(64, 96), (65, 97), (127, 63), (100, 75)])
    def test_takes_pictures_that_do_not_halve_evenly(self, size: tuple[int, int], up: bool) -> None:
        given = maps(*size, up=up)
        net = Hourglass(CHANNELS, tuple(given[2].shape[-2:]), 16, 0.0)  # type: ignore[arg-type]
        assert net(*given).shape == (2, 16)

    def test_the_decoder_doubles_three_times(self) -> None:
        given = maps(64, 96)
        decoded = given[-1]
        net = Hourglass(CHANNELS, (4, 6), 16, 0.0)
        for up, finer in zip(net.up, given[-2::-1], strict=True):
            decoded = up(decoded)
            assert decoded.shape[-2:] == finer.shape[-2:]
        assert decoded.shape[1] == 64

    def test_every_map_matters(self) -> None:
        given = [one.requires_grad_() for one in maps(64, 96)]
        Hourglass(CHANNELS, (4, 6), 16, 0.0)(*given).sum().backward()
        assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in given)

    def test_every_parameter_learns(self) -> None:
        net = Hourglass(CHANNELS, (4, 6), 16, 0.0)
        net(*maps(64, 96)).square().sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_knows_where_things_are(self) -> None:
        net = Hourglass(CHANNELS, (4, 6), 16, 0.0).eval()
        given = maps(64, 96)
        assert not torch.allclose(net(*given), net(*(one.flip(-1) for one in given)), atol=1e-4)
