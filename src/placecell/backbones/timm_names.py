"""How timm spells the parameters of our networks, so that the weights it publishes fit them."""

from __future__ import annotations

import re

_V2_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
_V3_DEPTHS = (1, 2, 3, 4, 2, 3)

# Inside a block that widens first; the first block of both networks does not, so its rows lie one lower.
_V2_BLOCK = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
_V2_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
_V2_ENDS = {"0.0": "conv_stem", "0.1": "bn1", "18.0": "conv_head", "18.1": "bn2"}
_V3_BLOCK = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"}
_V3_BLOCK |= {"2.0": "conv_pwl", "2.1": "bn3", "3.0": "conv_pwl", "3.1": "bn3"}
_V3_BLOCK |= {"2.fc1": "se.conv_reduce", "2.fc2": "se.conv_expand"}
_V3_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1.0": "conv_pw", "1.1": "bn2"}
_V3_ENDS = {"0.0": "conv_stem", "0.1": "bn1", "16.0": "blocks.6.0.conv", "16.1": "blocks.6.0.bn1"}
_BRANCHES = {
    "rbr_dense": "conv_kxk",
    "rbr_conv": "conv_kxk",
    "rbr_1x1": "conv_1x1",
    "rbr_scale": "conv_scale",
    "rbr_identity": "identity",
    "rbr_skip": "identity",
}


def timm_key(network: str, key: str) -> str:
    """timm's name of a parameter of one of our networks; the same name where it has none of its own."""
    module, _, parameter = key.rpartition(".")
    if network == "mobilenet_v2":
        return f"{_mobile(module, 'conv', _V2_DEPTHS, (_V2_ENDS, _V2_FIRST, _V2_BLOCK))}.{parameter}"
    if network == "mobilenet_v3":
        return f"{_mobile(module, 'block', _V3_DEPTHS, (_V3_ENDS, _V3_FIRST, _V3_BLOCK))}.{parameter}"
    if network in ("repvgg_a0", "mobileone_s0"):
        spelled = re.sub("rbr_[a-z0-9]+", lambda found: _BRANCHES[found[0]], key)
        spelled = re.sub(r"^stage0\.", "stem.", spelled)
        return re.sub(r"^stage(\d)\.", lambda found: f"stages.{int(found[1]) - 1}.", spelled)
    return key


def _mobile(
    module: str, inside: str, depths: tuple[int, ...], tables: tuple[dict[str, str], dict[str, str], dict[str, str]]
) -> str:
    """`features.N.…` counts the blocks that timm counts stage by stage."""
    ends, first, rest = tables
    place = module.removeprefix("features.")
    if place in ends:
        return ends[place]
    number, _, row = place.partition(f".{inside}.")
    stage, index = 0, int(number) - 1
    while index >= depths[stage]:
        index -= depths[stage]
        stage += 1
    return f"blocks.{stage}.{index}.{(first if number == '1' else rest)[row]}"
