"""The backbones against the networks they are named after, as torchvision 0.28.0 and timm 1.0.31 have them."""

from __future__ import annotations

import hashlib

import pytest
import torch

from backbones.patterns import parameters_of, patterned, pictures
from placecell.backbones import NAMES, backbone
from placecell.errors import PlacecellError

# Published counts of the whole networks less their classifiers of 1000 classes.
PARAMETERS = {
    "googlenet": 6_998_552 - 1024 * 1000 - 1000,
    "mobilenet_v2": 3_504_872 - 1280 * 1000 - 1000,
    "mobilenet_v3": 5_483_032 - (960 * 1280 + 1280) - (1280 * 1000 + 1000),
    "resnet18": 11_689_512 - 512 * 1000 - 1000,
    "resnet34": 21_797_672 - 512 * 1000 - 1000,
    "repvgg_a0": 9_108_968 - 1280 * 1000 - 1000,
    "mobileone_s0": 5_293_272 - 1024 * 1000 - 1000,
}

# sha256 of the sorted lines "name (shape)" of torchvision's state dicts, without classifiers and counters.
TORCHVISION_NAMES = {
    "mobilenet_v2": "ddfa7f160ae84a36",
    "mobilenet_v3": "497f6a393a4ed5b6",
    "resnet18": "43a9b5e01e6dc88a",
    "resnet34": "ccdf35a55b18384f",
}

# Of the final map of `pictures()` under the weights of `patterned`, as torchvision computes it (timm for the last two):
# mean, standard deviation, mean over every third channel, mean at row 1 and column 2.
FINAL_MAP = {
    "mobilenet_v2": (0.315265, 0.386961, 0.310588, 0.320020),
    "mobilenet_v3": (0.537202, 0.992897, 0.529527, 0.528894),
    "resnet18": (308657.0, 365432.0, 307435.0, 334868.0),
    "repvgg_a0": (3.52266e9, 5.33748e9, 3.52425e9, 2.03890e9),
    "mobileone_s0": (7.92286e8, 1.52724e9, 7.93548e8, 4.08236e8),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_number_of_parameters(name: str) -> None:
    assert sum(parameter.numel() for parameter in backbone(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_has_the_parameter_names_and_shapes_of_torchvision(name: str) -> None:
    state = parameters_of(backbone(name).state_dict())
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == TORCHVISION_NAMES[name]


@pytest.mark.parametrize("name", FINAL_MAP)
@torch.no_grad()
def test_computes_what_the_original_computes(name: str) -> None:
    final = list(patterned(backbone(name))(pictures()).values())[-1]
    found = (final.mean(), final.std(), final[:, ::3].mean(), final[..., 1, 2].mean())
    assert [float(value) for value in found] == pytest.approx(FINAL_MAP[name], rel=2e-4)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(PlacecellError, match="no backbone is called 'resnet19'") as caught:
        backbone("resnet19")
    assert all(name in str(caught.value) for name in (*NAMES, "timm:NAME"))
    assert "\n" not in str(caught.value)
