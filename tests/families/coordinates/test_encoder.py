"""What cells look like: whose pixels their numbers come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from families.coordinates.small import Averages
from families.regression.small import Patches
from placecell.backbones import Tap
from placecell.camera import Camera
from placecell.errors import MapError, PlacecellError
from placecell.families.coordinates import encoder as encoder_module
from placecell.families.coordinates.encoder import MIDDLE_PX, STRIDE, Encoder
from placecell.families.coordinates.sight import cell_pixels

pytestmark = pytest.mark.usefixtures("patches")


def encoder(name: str = "patches", seed: int = 0) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Encoder(name)


def places(width: int, height: int) -> Tensor:
    """(1, 3, H, W) a picture whose colours say where its pixels are."""
    centres = torch.from_numpy(Camera.from_focal(width, height, 100.0).pixel_centres)
    return torch.cat([centres, centres[..., :1] + centres[..., 1:]], dim=-1).permute(2, 0, 1)[None].float()


def test_where_a_cell_looks_moves_with_it() -> None:
    """Of an encoder that averages squares, each stride says the cell's place, all cells alike beside it."""
    width, height = 72, 56
    features = encoder("averages")(places(width, height))[0].flatten(1).T.numpy()
    middles = cell_pixels(Camera.from_focal(width, height, 100.0))
    fine, even, coarse = features[:, :12].reshape(-1, 3, 4), features[:, 12:15], features[:, 15:]
    np.testing.assert_allclose(fine[:, :2].mean(axis=2), middles + (4.0 - MIDDLE_PX), atol=1e-4)
    np.testing.assert_allclose(even[:, :2], middles + (4.0 - MIDDLE_PX), atol=1e-4)
    inner = ((middles > 8) & (middles < (width - 8 - 8, height - 8 - 8))).all(axis=1)
    assert inner.sum() >= 20
    np.testing.assert_allclose(coarse[inner, :2], middles[inner] + (8.0 - MIDDLE_PX), atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_all_maps_look_where_the_cell_is_said_to(name: str) -> None:
    """By the middle of the gradients of random weights, over many draws, within two pixels and a half."""
    found: list[list[float]] = []
    for seed in range(6):
        network = encoder(name, seed).eval()
        image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        fine, even, coarse = (network.backbone.taps[tap].channels for tap in network.taps)
        parts = network(image)[0, :, 8, 8].split([4 * fine, even, coarse])
        row = []
        for part in parts:
            (slopes,) = torch.autograd.grad(part.square().sum(), image, retain_graph=True)
            weight = slopes[0].square().sum(dim=0)
            at = torch.arange(128) + 0.5
            row.append(float((weight.sum(dim=0) * at).sum() / weight.sum()) - 8 * 8 - MIDDLE_PX)
        found.append(row)
    assert np.abs(np.mean(found, axis=0)).max() < 2.5


def test_the_finer_map_keeps_its_four_places() -> None:
    features = encoder("averages")(places(32, 16))[0].numpy()
    quarters = features[:8].reshape(2, 4, 2, 4)[:, :, 0, 1].T - np.array([12.0, 4.0])
    assert sorted(map(tuple, quarters.round(3).tolist())) == [(-2, -2), (-2, 2), (2, -2), (2, 2)]


@pytest.mark.parametrize("name", ["patches", "mobilenet_v2"])
@pytest.mark.parametrize("size", [(64, 48), (72, 40)])
def test_there_is_one_vector_a_cell(name: str, size: tuple[int, int]) -> None:
    """Whether a network rounds half cells up, as ours do, or down, as `patches` does."""
    found = encoder(name).settle()
    features = found(torch.zeros(1, 3, size[1], size[0]))
    assert features.shape == (1, found.channels, size[1] // STRIDE, size[0] // STRIDE)
    assert features.dtype == torch.float32 and features.isfinite().all()


def test_it_is_used_frozen_and_says_the_same() -> None:
    images = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    before = encoder("mobilenet_v2").eval()
    after = encoder("mobilenet_v2").settle()
    assert not after.training and not any(parameter.requires_grad for parameter in after.parameters())
    with torch.no_grad():
        torch.testing.assert_close(after(images), before(images), rtol=1e-3, atol=1e-4)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (before, after)]
    assert sizes[1] < 0.7 * sizes[0]  # what lies behind its last map is gone


def test_a_backbone_without_these_strides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Coarse(Patches):
        def __init__(self) -> None:
            super().__init__()
            self.taps = {"last": Tap(12, 32)}

    monkeypatch.setattr(encoder_module, "backbone", lambda name: Coarse())
    with pytest.raises(MapError, match="backbone vit has no map of stride 4; choose another --backbone") as caught:
        Encoder("vit")
    assert "\n" not in str(caught.value)


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(PlacecellError, match="mobilenet_v2"):
        Encoder("alexnet-2031")


def test_averages_average() -> None:
    """The stand-in that other tests lean on."""
    images = torch.arange(2 * 3 * 16 * 16, dtype=torch.float32).reshape(2, 3, 16, 16)
    assert torch.equal(Averages()(images)["pool16"][:, :, 0, 0], images.mean(dim=(2, 3)))
