"""Weights from files of three spellings, from a hub on this machine, and everything that can be wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from backbones.patterns import parameters_of, pattern, pictures
from placecell.backbones import MEAN, STD, backbone, load_weights
from placecell.backbones.timm_names import timm_key
from placecell.backbones.weights import PUBLISHED
from placecell.errors import FormatError, PlacecellError
from placecell.log import Silent
from web import Web, web_server


class Heard(Silent):
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def trained(name: str) -> dict[str, Tensor]:
    """What a file of a network's weights holds besides the classifier."""
    return dict(_trained(name))


@cache
def _trained(name: str) -> dict[str, Tensor]:
    return pattern(backbone(name).state_dict())


def in_timms_words(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {timm_key(name, key): value for key, value in tensors.items()}


def written(path: Path, tensors: dict[str, Tensor]) -> str:
    save_file(tensors, path)
    return str(path)


def refused(name: str, source: str) -> str:
    with pytest.raises(PlacecellError) as caught:
        load_weights(backbone(name), name, source, log=Silent())
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_fills_every_parameter(tmp_path: Path) -> None:
    tensors = trained("mobilenet_v2")
    classifier = {"classifier.1.weight": torch.ones(1000, 1280), "classifier.1.bias": torch.ones(1000)}
    source = written(
        tmp_path / "mine.safetensors", {**tensors, **classifier, "features.0.1.num_batches_tracked": torch.tensor(7)}
    )
    network = backbone("mobilenet_v2")
    line = load_weights(network, "mobilenet_v2", source, log=Silent())
    assert line == f"mine.safetensors, sha256 {hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]}"
    loaded = parameters_of(network.state_dict())
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", ["mobilenet_v2", "repvgg_a0", "mobileone_s0"])
def test_timms_spelling_fits_too(name: str, tmp_path: Path) -> None:
    tensors = trained(name)
    source = written(tmp_path / "a.safetensors", {**in_timms_words(name, tensors), "head.fc.bias": torch.ones(3)})
    network = backbone(name)
    load_weights(network, name, source, log=Silent())
    loaded = parameters_of(network.state_dict())
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


@torch.no_grad()
def test_timms_smaller_epsilon_is_made_good(tmp_path: Path) -> None:
    """timm's MobileNetV3 has eps 1e-5 where torchvision's has 1e-3: small variances make that plain."""
    tensors = trained("mobilenet_v3")
    tensors = {key: 0.01 * value if key.endswith("running_var") else value for key, value in tensors.items()}
    wanted = backbone("mobilenet_v3").eval()
    wanted.load_state_dict(tensors, strict=False)
    for module in wanted.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
    source = written(tmp_path / "a.safetensors", in_timms_words("mobilenet_v3", tensors))
    found = backbone("mobilenet_v3").eval()
    load_weights(found, "mobilenet_v3", source, log=Silent())
    pairs = zip(found(pictures()).values(), wanted(pictures()).values(), strict=True)
    for value, target in pairs:
        torch.testing.assert_close(value, target, rtol=1e-3, atol=1e-4 * float(target.abs().max()))


def test_half_precision_files_are_read(tmp_path: Path) -> None:
    tensors = {key: value.half() for key, value in trained("mobilenet_v2").items()}
    network = backbone("mobilenet_v2")
    load_weights(network, "mobilenet_v2", written(tmp_path / "half.safetensors", tensors), log=Silent())
    assert {value.dtype for value in parameters_of(network.state_dict()).values()} == {torch.float32}
    assert torch.equal(network.state_dict()["features.0.0.weight"], tensors["features.0.0.weight"].float())


def test_from_scratch_is_said_and_changes_nothing() -> None:
    network = backbone("mobilenet_v2")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    log = Heard()
    assert load_weights(network, "mobilenet_v2", "none", log=log) == "none, trained from scratch"
    assert "from scratch" in log.lines[0]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class TestRefused:
    def test_another_architecture_is_recognised(self, tmp_path: Path) -> None:
        source = written(tmp_path / "a.safetensors", trained("mobileone_s0"))
        text = refused("mobilenet_v2", source)
        assert f"{source}: weights of another architecture than mobilenet_v2: no tensor" in text
        assert text.endswith("they look like mobileone_s0; name them with --backbone mobileone_s0")

    def test_another_architecture_in_timms_words_is_recognised(self, tmp_path: Path) -> None:
        source = written(tmp_path / "a.safetensors", in_timms_words("mobilenet_v3", trained("mobilenet_v3")))
        assert "--backbone mobilenet_v3" in refused("mobilenet_v2", source)

    def test_a_larger_network_of_the_same_kind_does_not_pass(self, tmp_path: Path) -> None:
        tensors = trained("mobilenet_v2") | {"features.19.0.weight": torch.ones(8, 1280, 1, 1)}
        assert "tensor features.19.0.weight has no place" in refused(
            "mobilenet_v2", written(tmp_path / "a.st", tensors)
        )

    def test_a_network_nobody_knows(self, tmp_path: Path) -> None:
        source = written(tmp_path / "a.safetensors", {"wheel.weight": torch.ones(3)})
        assert "they fit none of googlenet, " in refused("mobilenet_v2", source)

    def test_a_tensor_of_another_shape(self, tmp_path: Path) -> None:
        source = written(
            tmp_path / "a.safetensors", {**trained("mobilenet_v2"), "features.0.0.weight": torch.ones(32, 1, 3, 3)}
        )
        assert "tensor features.0.0.weight is 32x1x3x3, not 32x3x3x3" in refused("mobilenet_v2", source)

    def test_numbers_that_are_none(self, tmp_path: Path) -> None:
        tensors = trained("mobilenet_v2")
        tensors["features.2.conv.3.bias"] = torch.full((24,), torch.nan)
        source = written(tmp_path / "a.safetensors", tensors)
        assert "features.2.conv.3.bias holds NaN" in refused("mobilenet_v2", source)

    @pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00." * 9, b"<html>busy</html>"])
    def test_what_is_no_safetensors_file(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        assert f"{path}: not readable as safetensors" in refused("mobilenet_v2", str(path))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert "no such weights" in refused("mobilenet_v2", str(tmp_path / "gone.safetensors"))

    @pytest.mark.parametrize("name", ["googlenet", "bn_inception"])
    def test_imagenet_where_nobody_published_any(self, name: str) -> None:
        text = refused(name, "imagenet")
        assert f"no ImageNet weights of {name} are published" in text
        assert "--weights none" in text

    def test_a_refused_file_leaves_the_network_as_it_was(self, tmp_path: Path) -> None:
        network = backbone("mobilenet_v2")
        before = {key: value.clone() for key, value in network.state_dict().items()}
        tensors = trained("mobilenet_v2")
        del tensors["features.18.1.weight"]
        with pytest.raises(PlacecellError, match=r"no tensor features\.18\.1\.weight"):
            load_weights(network, "mobilenet_v2", written(tmp_path / "a.safetensors", tensors), log=Silent())
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class TestImageNet:
    ADDRESS = "/timm/repvgg_a0.rvgg_in1k/resolve/main/model.safetensors"

    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
        with web_server() as web:
            monkeypatch.setenv("HF_ENDPOINT", web.url + "/")
            yield web

    def test_comes_from_the_hub_once(self, hub: Web, tmp_path: Path) -> None:
        content = save(in_timms_words("repvgg_a0", trained("repvgg_a0")))
        hub.files[self.ADDRESS] = content
        for _ in range(2):
            network = backbone("repvgg_a0")
            line = load_weights(network, "repvgg_a0", "imagenet", cache=tmp_path, log=Silent())
            assert line == f"imagenet, sha256 {hashlib.sha256(content).hexdigest()[:16]}"
        assert [path for path, _ in hub.asked] == [self.ADDRESS]
        assert [path.name for path in tmp_path.rglob("*.*")] == ["repvgg_a0.rvgg_in1k.safetensors"]
        assert torch.equal(
            network.state_dict()["stage4.0.rbr_dense.bn.bias"], trained("repvgg_a0")["stage4.0.rbr_dense.bn.bias"]
        )

    def test_the_cache_lies_where_the_environment_says(
        self, hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PLACECELL_CACHE", str(tmp_path / "cache"))
        hub.files[self.ADDRESS] = save(trained("repvgg_a0"))
        load_weights(backbone("repvgg_a0"), "repvgg_a0", "imagenet", log=Silent())
        assert (tmp_path / "cache" / "weights" / "repvgg_a0.rvgg_in1k.safetensors").is_file()

    def test_a_hub_without_them_is_told_with_the_way_out(self, hub: Web, tmp_path: Path) -> None:
        with pytest.raises(PlacecellError, match="answers 404") as caught:
            load_weights(backbone("repvgg_a0"), "repvgg_a0", "imagenet", cache=tmp_path, log=Silent())
        assert str(caught.value).endswith("without the hub, pass --weights FILE or --weights none")
        assert "--mirror" not in str(caught.value)

    def test_what_no_hub_would_send_is_not_taken_for_weights(self, hub: Web, tmp_path: Path) -> None:
        hub.files[self.ADDRESS] = b"<html>please log in</html>"
        with pytest.raises(FormatError, match="delete it"):
            load_weights(backbone("repvgg_a0"), "repvgg_a0", "imagenet", cache=tmp_path, log=Silent())

    def test_published_are_named_as_backbones_are(self) -> None:
        assert set(PUBLISHED) == {"mobilenet_v2", "mobilenet_v3", "resnet18", "resnet34", "repvgg_a0", "mobileone_s0"}


@pytest.mark.data
@torch.no_grad()
def test_real_imagenet_weights_fit_and_see_a_real_kitchen(data_root: Path) -> None:
    from placecell.images import read_image

    path = data_root.parent / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no real weights: {path} is not there")
    network = backbone("mobilenet_v2").eval()
    load_weights(network, "mobilenet_v2", str(path), log=Silent())
    images = sorted((data_root / "redkitchen").rglob("*.color.*"))[::250]
    assert len(images) >= 3
    batch = torch.stack([torch.tensor(read_image(image)).permute(2, 0, 1) for image in images]) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    batch = torch.nn.functional.interpolate((batch - mean) / std, size=(192, 256), mode="area")
    final = network(batch)["features.18"]
    assert final.shape == (len(images), 1280, 6, 8)
    assert final.min() >= 0 and final.max() <= 6  # ReLU6
    assert (final.amax((0, 2, 3)) > 0).float().mean() > 0.8
    assert 0.1 < float(final.mean()) < 1
    # With the classifier of the file a kitchen is furniture (desk, washbasin, microwave): classes 0 to 397 are animals.
    head = load_file(path)
    scores = (final.mean((2, 3)) @ head["classifier.1.weight"].T + head["classifier.1.bias"]).softmax(1)
    assert (scores[:, :398].sum(1) < 0.2).all()
