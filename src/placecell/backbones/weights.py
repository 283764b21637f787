"""Weights of backbones: from scratch, from ImageNet by name, or from a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from placecell.backbones.contract import Backbone
from placecell.backbones.networks import NETWORKS
from placecell.backbones.timm import TimmBackbone
from placecell.backbones.timm_names import timm_key
from placecell.download import Remote, download
from placecell.errors import FormatError, PlacecellError
from placecell.log import Log

HUB = "https://huggingface.co"
"""Where ImageNet weights come from, unless $HF_ENDPOINT names a mirror."""

# Licences: Apache-2.0 (mobilenet), BSD-3 (resnet, the weights of torchvision), MIT (repvgg), Apple's own (mobileone).
PUBLISHED = {
    "mobilenet_v2": "timm/mobilenetv2_100.ra_in1k",
    "mobilenet_v3": "timm/mobilenetv3_large_100.ra_in1k",
    "resnet18": "timm/resnet18.tv_in1k",
    "resnet34": "timm/resnet34.tv_in1k",
    "repvgg_a0": "timm/repvgg_a0.rvgg_in1k",
    "mobileone_s0": "timm/mobileone_s0.apple_in1k",
}
_TIMM_EPS = 1e-5
_CLASSIFIERS = ("fc.", "classifier.", "linear.", "head.", "conv_head.", "aux1.", "aux2.")
_COUNTER = "num_batches_tracked"


def load_weights(network: Backbone, name: str, source: str, *, cache: Path | None = None, log: Log) -> str:
    """Fill a backbone with weights, and say in one line for map.json what they are.

    Args:
        network: of `backbone(name)`, not fused.
        source: `none` keeps it as it is; `imagenet` downloads what is published for `name`, once; else the path of a
            safetensors file with torchvision's, its authors' or timm's parameter names. Classifiers are left out.
        cache: folder for downloads; None for $PLACECELL_CACHE, else ~/.cache/placecell.

    Raises:
        PlacecellError: nothing is published for `name`, the hub cannot be reached, there is no such file, or it holds
            the weights of another architecture.
        FormatError: the file is not readable as safetensors, or its numbers are not finite.
    """
    if source == "none":
        log.say(f"{name} is trained from scratch: it starts without ImageNet weights")
        return "none, trained from scratch"
    path = _fetched(network, name, cache, log) if source == "imagenet" else Path(source)
    label = "imagenet" if source == "imagenet" else path.name
    if not path.is_file():
        raise PlacecellError(f"{path}: no such weights; name imagenet, none, or a .safetensors file with --weights")
    if isinstance(network, TimmBackbone):
        if source != "imagenet":
            _require_fit(network.whole(), name, path, _tensors(path))
        network.load_file(path)
    else:
        _fill(network, name, path)
    with path.open("rb") as file:
        return f"{label}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _fetched(network: Backbone, name: str, cache: Path | None, log: Log) -> Path:
    """The ImageNet weights of a network, downloaded the first time."""
    hub_name = network.hub_name if isinstance(network, TimmBackbone) else PUBLISHED.get(name)
    if hub_name is None:
        raise PlacecellError(
            f"no ImageNet weights of {name} are published as safetensors; pass a converted file, --weights FILE, "
            f"or --weights none, or choose --backbone {' or '.join(PUBLISHED)}"
        )
    folder = cache or Path(os.environ.get("PLACECELL_CACHE") or "~/.cache/placecell").expanduser()
    url = f"{os.environ.get('HF_ENDPOINT', HUB).rstrip('/')}/{hub_name}/resolve/main/model.safetensors"
    try:
        return download(Remote(url), folder / "weights" / f"{hub_name.split('/')[-1]}.safetensors", log=log, tries=3)
    except PlacecellError as error:
        why = str(error).split(";")[0]
        raise PlacecellError(f"{why}; without the hub, pass --weights FILE or --weights none") from error


def _fill(network: Backbone, name: str, path: Path) -> None:
    """Load a file into a network of ours."""
    fitted = _require_fit(network, name, path, _tensors(path))
    for key, tensor in fitted.items():
        if not torch.isfinite(tensor).all():
            raise FormatError(f"{path}: tensor {key} holds NaN or infinity; restore the file or name another")
    counters = {key: value for key, value in network.state_dict().items() if key.endswith(_COUNTER)}
    network.load_state_dict({**counters, **fitted})


def _require_fit(network: nn.Module, name: str, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of the network's parameters, or an error that says whose they are."""
    fitted, trouble = _fitted(network, name, tensors)
    if trouble:
        raise PlacecellError(
            f"{path}: weights of another architecture than {name}: {trouble}; {_advice(name, tensors)}"
        )
    return fitted


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(
            f"{path}: not readable as safetensors ({error}); delete it, or convert it: pickled weights are never opened"
        ) from error


def _fitted(network: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors by the names of the network's parameters, and what is wrong with them or ""."""
    expected = {key: value for key, value in network.state_dict().items() if not key.endswith(_COUNTER)}
    from_timm = not any(key in tensors for key in expected)
    spelled = {key: timm_key(name, key) if from_timm else key for key in expected}
    for key, value in expected.items():
        if spelled[key] not in tensors:
            return {}, f"no tensor {spelled[key]}"
        if tensors[spelled[key]].shape != value.shape:
            return {}, f"tensor {spelled[key]} is {_shape(tensors[spelled[key]])}, not {_shape(value)}"
    spare = tensors.keys() - spelled.values()
    left_over = sorted(key for key in spare if not key.startswith(_CLASSIFIERS) and not key.endswith(_COUNTER))
    if left_over:
        return {}, f"tensor {left_over[0]} has no place"
    fitted = {key: tensors[spelled[key]].to(torch.float32) for key in expected}
    return (_with_our_eps(network, fitted) if from_timm else fitted), ""


def _with_our_eps(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms divide by √(variance + eps): take up in their weights that timm's eps is another."""
    changed = dict(tensors)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.eps != _TIMM_EPS:
            variance = tensors[f"{name}.running_var"]
            factor = ((variance + module.eps) / (variance + _TIMM_EPS)).sqrt()
            changed[f"{name}.weight"] = tensors[f"{name}.weight"] * factor
    return changed


def _advice(name: str, tensors: Mapping[str, Tensor]) -> str:
    for other, make in NETWORKS.items():
        with torch.device("meta"):
            network = make()
        if other != name and not _fitted(network, other, tensors)[1]:
            return f"they look like {other}; name them with --backbone {other}"
    return f"they fit none of {', '.join(NETWORKS)}"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"
