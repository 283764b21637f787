"""The backbones by name."""

from __future__ import annotations

from collections.abc import Callable

from placecell.backbones.contract import Backbone
from placecell.backbones.googlenet import GoogLeNet
from placecell.backbones.mobilenet_v2 import MobileNetV2
from placecell.backbones.mobilenet_v3 import MobileNetV3
from placecell.backbones.mobileone import MobileOne
from placecell.backbones.repvgg import RepVGG
from placecell.backbones.resnet import ResNet
from placecell.backbones.timm import TimmBackbone
from placecell.errors import PlacecellError

NETWORKS: dict[str, Callable[[], Backbone]] = {
    "googlenet": GoogLeNet,
    "googlenet_plain": lambda: GoogLeNet(response_norm=False),
    "bn_inception": lambda: GoogLeNet(batch_norm=True),
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "resnet18": lambda: ResNet((2, 2, 2, 2)),
    "resnet34": lambda: ResNet((3, 4, 6, 3)),
    "repvgg_a0": RepVGG,
    "mobileone_s0": MobileOne,
}
NAMES = tuple(NETWORKS)


def backbone(name: str) -> Backbone:
    """A backbone by name, one of `NAMES` or `timm:` and a name of timm, with weights drawn afresh.

    Raises:
        PlacecellError: no backbone has that name.
        MissingExtra: it is a network of timm, which is not installed.
    """
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"))
    if name not in NETWORKS:
        raise PlacecellError(f"no backbone is called {name!r}; known are {', '.join(NAMES)}, and timm:NAME")
    return NETWORKS[name]()
