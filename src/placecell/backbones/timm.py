"""Any convolutional network of timm as a backbone, when timm is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from placecell.backbones.contract import MEAN, STD, Backbone, Tap
from placecell.errors import MissingExtra, PlacecellError


class TimmBackbone(Backbone):
    """timm's `features_only` network of a name; its taps are timm's, named as timm names the modules.

    Pictures normalised as ours are brought to the mean and deviation the network was trained with.

    Raises:
        MissingExtra: timm is not installed.
        PlacecellError: timm has no such network, or none that gives feature maps.
    """

    stages = ()
    _scale: Tensor
    _shift: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        try:
            self.network: Any = _timm().create_model(name, features_only=True, pretrained=False)
        except _REFUSALS as error:
            raise PlacecellError(
                f"timm makes no backbone of {name!r} ({_short(error)}); choose another, see timm.list_models()"
            ) from error
        described = self.network.feature_info
        rows = zip(described.module_name(), described.channels(), described.reduction(), strict=True)
        self.taps = {module: Tap(channels, stride) for module, channels, stride in rows}
        config = self.network.pretrained_cfg
        mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        ours_mean, ours_std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self.register_buffer("_scale", ours_std / std, persistent=False)
        self.register_buffer("_shift", (ours_mean - mean) / std, persistent=False)

    @property
    def hub_name(self) -> str | None:
        """`owner/name` of its ImageNet weights on the Hugging Face hub; None when there are none."""
        found = self.network.pretrained_cfg.get("hf_hub_id")
        return None if not found else str(found)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The feature maps of a batch of normalised pictures (B, 3, H, W), in the order of `taps`."""
        maps = self.network(images * self._scale + self._shift)
        named = zip(self.taps.items(), maps, strict=True)
        return {name: m if m.shape[1] == tap.channels else m.permute(0, 3, 1, 2) for (name, tap), m in named}

    def whole(self) -> nn.Module:
        """A network as timm saves it, classifier aside, with weights drawn afresh: names and shapes to compare with."""
        network: nn.Module = _timm().create_model(self.name, num_classes=0)
        return network

    def load_file(self, path: Path) -> None:
        """Take the weights from a safetensors file of the whole network as timm saves it; timm drops the classifier.

        Raises:
            PlacecellError: timm refuses them.
        """
        try:
            loaded = _timm().create_model(
                self.name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
            )
        except _REFUSALS as error:
            raise PlacecellError(f"{path}: not weights of timm:{self.name}: {_short(error)}; name others") from error
        self.network.load_state_dict(loaded.state_dict())


# What timm and torch raise for names and weights they do not know.
_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError, SafetensorError)


def _timm() -> Any:
    try:
        return import_module("timm")
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "timm", "timm") from error
    except (ImportError, RuntimeError) as error:
        raise PlacecellError(
            f"timm cannot be imported ({_short(error)}); install the torchvision that belongs to this torch"
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
