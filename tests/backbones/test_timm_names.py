"""timm's spelling of our parameters, against the names timm 1.0.31 has."""

from __future__ import annotations

import hashlib

import pytest

from backbones.patterns import parameters_of
from placecell.backbones import backbone
from placecell.backbones.timm_names import timm_key

# sha256 of timm's sorted parameter names, without classifiers and counters.
TIMM_NAMES = {
    "mobilenet_v2": "b029facc8721422a",
    "mobilenet_v3": "e87ab67c3d448c13",
    "repvgg_a0": "826c6ccd97c0e9fe",
    "mobileone_s0": "ba387047172bc32d",
}


@pytest.mark.parametrize("network", TIMM_NAMES)
def test_are_all_of_timms_names(network: str) -> None:
    spelled = sorted(timm_key(network, key) for key in parameters_of(backbone(network).state_dict()))
    assert hashlib.sha256("\n".join(spelled).encode()).hexdigest()[:16] == TIMM_NAMES[network]


@pytest.mark.parametrize(
    ("network", "ours", "theirs"),
    [
        ("mobilenet_v2", "features.0.1.running_mean", "bn1.running_mean"),
        ("mobilenet_v2", "features.1.conv.1.weight", "blocks.0.0.conv_pw.weight"),
        ("mobilenet_v2", "features.2.conv.0.0.weight", "blocks.1.0.conv_pw.weight"),
        ("mobilenet_v2", "features.17.conv.3.bias", "blocks.6.0.bn3.bias"),
        ("mobilenet_v2", "features.18.1.weight", "bn2.weight"),
        ("mobilenet_v3", "features.4.block.2.fc1.bias", "blocks.2.0.se.conv_reduce.bias"),
        ("mobilenet_v3", "features.4.block.3.1.bias", "blocks.2.0.bn3.bias"),
        ("mobilenet_v3", "features.16.0.weight", "blocks.6.0.conv.weight"),
        ("repvgg_a0", "stage0.rbr_1x1.bn.weight", "stem.conv_1x1.bn.weight"),
        ("repvgg_a0", "stage3.13.rbr_identity.bias", "stages.2.13.identity.bias"),
        ("mobileone_s0", "stage2.5.rbr_conv.3.conv.weight", "stages.1.5.conv_kxk.3.conv.weight"),
        ("resnet18", "layer1.0.bn2.bias", "layer1.0.bn2.bias"),
    ],
)
def test_means_the_same_layer(network: str, ours: str, theirs: str) -> None:
    assert timm_key(network, ours) == theirs
