"""The adapter to timm, against a stand-in that has timm's interface (timm itself is not needed to test placecell)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backbones.patterns import pictures
from placecell.backbones import MEAN, STD, backbone, fused, load_weights
from placecell.errors import MissingExtra, PlacecellError
from placecell.log import Silent


class Whole(nn.Module):
    """As timm saves it: two strided convolutions."""

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        self.conv_a, self.conv_b = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 6, 3, 2, 1)
        if classes:
            self.head = nn.Linear(6, classes)


class FeaturesOnly(nn.Module):
    """As timm cuts it: a list of maps, here the last with channels last, as its Swin transformers give them."""

    feature_info = SimpleNamespace(
        module_name=lambda: ["conv_a", "conv_b"], channels=lambda: [4, 6], reduction=lambda: [4, 8]
    )
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0), "hf_hub_id": "timm/tiny.v1"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.conv_a, self.conv_b = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.conv_a(images)
        return [first, self.conv_b(first).permute(0, 2, 3, 1)]


def create_model(
    name: str,
    pretrained: bool = False,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    *,
    features_only: bool = False,
    num_classes: int = 1000,
) -> nn.Module:
    if name != "tiny":
        raise RuntimeError(f"Unknown model ({name})")
    model = FeaturesOnly() if features_only else Whole(classes=num_classes)
    if pretrained:
        assert pretrained_cfg_overlay is not None
        model.load_state_dict(load_file(pretrained_cfg_overlay["file"]), strict=False)
    return model


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("timm")
    module.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)


def test_without_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'placecell\[timm\]'"):
        backbone("timm:resnet18")


def test_a_torchvision_of_another_torch_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("placecell.backbones.timm.import_module", broken)
    with pytest.raises(PlacecellError, match=r"nms does not exist.*install the torchvision that belongs") as caught:
        backbone("timm:resnet18")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("timm")
class TestWithTimm:
    def test_its_maps_are_timms(self) -> None:
        network = backbone("timm:tiny").eval()
        assert network.taps == {"conv_a": (4, 4), "conv_b": (6, 8)}
        maps = network(pictures(2, 65, 97))
        assert [tuple(value.shape) for value in maps.values()] == [(2, 4, 17, 25), (2, 6, 9, 13)]

    def test_pictures_are_normalised_as_the_network_learned_them(self) -> None:
        network = backbone("timm:tiny")
        rgb = torch.tensor([0.0, 0.4, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        ours = (rgb - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        theirs = (rgb - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(1, 3, 1, 1)
        torch.testing.assert_close(network(ours)["conv_a"], network.get_submodule("network.conv_a")(theirs))

    def test_a_file_fills_it(self, tmp_path: Path) -> None:
        saved = Whole(classes=10).state_dict()
        save_file(saved, tmp_path / "tiny.safetensors")
        network = backbone("timm:tiny")
        line = load_weights(network, "timm:tiny", str(tmp_path / "tiny.safetensors"), log=Silent())
        assert line.startswith("tiny.safetensors, sha256 ")
        assert torch.equal(network.state_dict()["network.conv_b.weight"], saved["conv_b.weight"])

    @pytest.mark.parametrize("change", ["less", "more"])
    def test_a_file_timm_would_take_in_part_is_refused(self, change: str, tmp_path: Path) -> None:
        saved = dict(Whole(classes=10).state_dict())
        if change == "less":
            del saved["conv_b.bias"]
        else:
            saved["conv_c.bias"] = torch.ones(2)
        save_file(saved, tmp_path / "tiny.safetensors")
        with pytest.raises(PlacecellError, match=r"another architecture than timm:tiny: (no tensor|tensor) conv_"):
            load_weights(backbone("timm:tiny"), "timm:tiny", str(tmp_path / "tiny.safetensors"), log=Silent())

    def test_a_name_it_lacks_is_told_in_one_line(self) -> None:
        with pytest.raises(PlacecellError, match=r"timm makes no backbone of 'nosuch' \(Unknown model") as caught:
            backbone("timm:nosuch")
        assert "\n" not in str(caught.value)

    def test_fusing_copies_it(self) -> None:
        network = backbone("timm:tiny")
        copied = fused(network)
        assert copied is not network and not copied.training
        assert torch.equal(copied(pictures())["conv_b"], network.eval()(pictures())["conv_b"])
