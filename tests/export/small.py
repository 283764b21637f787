"""Maps of networks that export in a blink: six convolutions, random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from families.coordinates import conftest as coordinates_conftest
from families.coordinates.small import settings as coordinates_settings
from families.regression.small import Patches
from families.regression.small import settings as regression_settings
from placecell.anchor import Anchor
from placecell.backbones import backbone
from placecell.families.coordinates.encoder import Encoder
from placecell.families.coordinates.localizer import CoordinatesMap, heads_of
from placecell.families.coordinates.sight import camera_seen
from placecell.families.regression import network as network_module
from placecell.families.regression.localizer import RegressionMap, answering, size_seen
from placecell.families.regression.network import PoseNetwork
from placecell.localizer import MapInfo
from placecell.resample import canonical_camera
from placecell.scene import Scene

HEADS: dict[str, dict[str, Any]] = {
    "align": {"head": "align", "rotation": "9d", "crop": 0, "loss": "virtual-points"},
    "posenet": {"head": "posenet", "rotation": "quaternion"},
    "grid": {"head": "grid", "rotation": "6d", "crop": 0},
    "lstm": {"head": "lstm", "rotation": "log-quaternion"},
    "passes": {"head": "posenet", "rotation": "log-quaternion", "dropout": 0.3, "map_dropout": 0.2, "passes": 6},
    "align-passes": {"head": "align", "rotation": "9d", "crop": 0, "dropout": 0.2, "passes": 6},
    "dense": {"head": "posenet", "rotation": "9d", "short_side": 96, "inference": "dense", "crops": 6},
    "one-pass": {"head": "posenet", "rotation": "quaternion", "short_side": 96, "inference": "one-pass"},
}
"""Settings of every way that a regression map answers."""


@contextmanager
def patched() -> Iterator[None]:
    """Within the block the backbone `patches` goes by its name in both families."""
    with coordinates_conftest.patched(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_module, "backbone", lambda name: Patches() if name == "patches" else backbone(name))
        yield


def _drawn(network: torch.nn.Module) -> None:
    """Weights with which a network says something else of every picture."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * (1.5 / parameter[0].numel() ** 0.5))


def regression(scene: Scene, kind: str = "align", **changes: Any) -> RegressionMap:
    """An untrained regression map of the room."""
    family = regression_settings(**{"hidden": 32, **HEADS[kind], **changes})
    camera = canonical_camera(list(scene.cameras.values()), family.short_side)
    anchor = Anchor.of([frame.world_from_cam for frame in scene.posed if frame.world_from_cam is not None])
    with patched(), torch.random.fork_rng():
        torch.manual_seed(0)
        network = PoseNetwork(family, anchor.scale, size=size_seen(camera, family))
        _drawn(network)
        if family.head == "align":
            network.head.begin(camera, depth=2.0, middle=np.array([0.1, -0.2, 0.3]))  # type: ignore[operator]
        network = answering(network, family, camera)
    return RegressionMap(family, MapInfo.of(family, scene, 0), network, camera, anchor, least_detail=1.0)


def coordinates(scene: Scene, **changes: Any) -> CoordinatesMap:
    """An untrained scene-coordinate map of the room."""
    family = coordinates_settings(**changes)
    usual = canonical_camera(list(scene.cameras.values()), family.short_side)
    anchor = Anchor.of([frame.world_from_cam for frame in scene.posed if frame.world_from_cam is not None])
    with patched(), torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(family.backbone).settle()
        (head,) = heads_of(family, encoder)
        _drawn(head)
        head.begin(torch.randn(500, encoder.channels) * 0.2, torch.randn(family.clusters, 3), 1.5)
        if head.context is not None:
            head.context.begin(torch.randn(50, encoder.coarse))
    head = head.eval().requires_grad_(False)
    return CoordinatesMap(family, MapInfo.of(family, scene, 0), encoder, head, camera_seen(usual, usual), anchor)
