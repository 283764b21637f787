"""The laws every backbone keeps."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from backbones.patterns import pictures
from placecell.backbones import MEAN, NAMES, STD, Backbone, backbone

every_network = pytest.mark.parametrize("name", NAMES)


def made(name: str, seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return backbone(name)


@cache
def unused(name: str) -> Backbone:
    """A network that tests only look at."""
    return made(name).eval()


def test_pictures_are_normalised_as_imagenet_is() -> None:
    # Printed in every training recipe for ImageNet; RGB, so that the mean falls and blue varies most relative to it.
    assert (MEAN, STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@every_network
@torch.no_grad()
def test_taps_say_what_comes_out_of_odd_sizes_too(name: str) -> None:
    network = unused(name)
    for height, width in ((64, 96), (65, 97), (95, 63), (33, 50)):
        maps = network(pictures(1, height, width))
        assert list(maps) == list(network.taps)
        for key, tap in network.taps.items():
            assert maps[key].shape[:2] == (1, tap.channels)
            for length, cells in zip((height, width), maps[key].shape[2:], strict=True):
                assert cells in (math.floor(length / tap.stride), math.ceil(length / tap.stride)), (key, length)


@every_network
def test_taps_run_from_fine_to_coarse_through_all_strides(name: str) -> None:
    strides = [tap.stride for tap in unused(name).taps.values()]
    assert strides == sorted(strides)
    assert {4, 8, 16, 32} <= set(strides)
    assert strides[-1] == 32 and strides.count(32) == 1


@every_network
@torch.no_grad()
def test_shifting_the_picture_by_a_stride_shifts_its_map_by_a_cell(name: str) -> None:
    network = unused(name)
    wide = pictures(1, 96, 104)
    (key, tap), *_ = [(key, tap) for key, tap in network.taps.items() if tap.stride == 4]
    left, right = network(wide[..., :96])[key], network(wide[..., 8:])[key]
    shift = 8 // tap.stride
    moved, still = left[..., 9:-9, 9 + shift : -9], left[..., 9:-9, 9 : -9 - shift]
    torch.testing.assert_close(right[..., 9:-9, 9 : -9 - shift], moved)
    assert (moved - still).abs().max() > 1e-3


@every_network
def test_gradients_reach_every_parameter(name: str) -> None:
    network = made(name).train()
    final = list(network(pictures(3, 48, 48)).values())[-1]
    (final * torch.linspace(-1, 1, final.numel()).view_as(final)).sum().backward()
    dead = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@every_network
@torch.no_grad()
def test_channels_last_and_bfloat16_give_the_same_but_for_rounding(name: str) -> None:
    network = made(name).train()  # batch norms by the batch, as first weights of batch norms let numbers grow or vanish
    images = pictures(3, 48, 48)
    plain = network(images)
    network.to(memory_format=torch.channels_last)
    turned = network(images.contiguous(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network(images.contiguous(memory_format=torch.channels_last))
    for key in network.taps:
        assert relative(turned[key], plain[key]) < 2e-3
        assert turned[key].is_contiguous(memory_format=torch.channels_last)
        assert coarse[key].dtype == torch.bfloat16
    first = next(iter(network.taps))
    assert relative(coarse[first].float(), plain[first]) < 0.03


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@every_network
def test_first_weights_follow_the_seed_and_nothing_else(name: str) -> None:
    first, again, other = (net.state_dict() for net in (unused(name), made(name), made(name, seed=4)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_network
def test_later_stages_leave_earlier_maps_alone(name: str) -> None:
    network = unused(name)
    maps = network(pictures(1, 64, 64))
    features = pictures(1, 64, 64)
    for stage in network.stages:
        features = network.get_submodule(stage)(features)
        if stage in maps:
            assert torch.equal(maps[stage], features), stage
            features = features.clone()
