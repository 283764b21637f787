from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from families.regression.small import Patches, pictures, settings
from placecell.backbones import backbone
from placecell.errors import PlacecellError
from placecell.families.regression import network as network_module
from placecell.families.regression.config import PRESETS
from placecell.families.regression.heads import ROTATIONS
from placecell.families.regression.losses import learned_loss, likelihood_loss
from placecell.families.regression.network import Answer, PoseNetwork

every_head = pytest.mark.parametrize("head", ["grid", "posenet", "lstm", "hourglass"])


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The backbone `patches`, and weights drawn alike in every test."""
    monkeypatch.setattr(network_module, "backbone", lambda name: Patches() if name == "patches" else backbone(name))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def assert_same(one: Answer, other: Answer, atol: float = 1e-5) -> None:
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Tensor):
            assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=0, atol=atol)  # type: ignore[union-attr]
        else:
            assert a == b


def identity_batch(batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, 3), torch.eye(3).expand(batch, 3, 3)


class TestAnswers:
    @every_head
    @pytest.mark.parametrize("rotation", ROTATIONS)
    def test_are_poses_about_the_anchor(self, head: str, rotation: str) -> None:
        (answer,) = PoseNetwork(settings(head=head, rotation=rotation), 1.0).eval()(pictures())
        assert answer.centre_B3.shape == (2, 3)
        assert_allclose(
            (answer.rotation_B33 @ answer.rotation_B33.mT).detach(), torch.eye(3).expand(2, 3, 3), atol=1e-6
        )
        assert torch.equal(answer.rotation_B33, ROTATIONS[rotation][0](answer.raw_BK))
        assert (answer.rotation_B33.diagonal(dim1=-2, dim2=-1).sum(-1) > 2).all()

    def test_are_the_main_one_first_and_the_auxiliary_ones_in_training_only(self) -> None:
        net = PoseNetwork(settings(auxiliary=True, head="posenet"), 1.0)
        assert [answer.weight for answer in net(pictures())] == [1.0, 0.3, 0.3]
        assert [answer.weight for answer in net.eval()(pictures())] == [1.0]
        assert len(PoseNetwork(settings(), 1.0)(pictures())) == 1

    @every_head
    def test_scale_with_the_scene(self, head: str) -> None:
        nets = [PoseNetwork(settings(head=head), scale).eval() for scale in (1.0, 3.0)]
        nets[1].load_state_dict(nets[0].state_dict())
        one, three = (net(pictures())[0] for net in nets)
        assert_same(one._replace(centre_B3=3 * one.centre_B3), three)

    @every_head
    def test_of_a_picture_do_not_depend_on_its_batch(self, head: str) -> None:
        net = PoseNetwork(settings(head=head, dropout=0.5), 1.0).eval()
        together = net(pictures(3))[0]
        for i in range(3):
            alone = net(pictures(3)[i : i + 1])[0]
            assert_same(together.parts(3)[i], alone)

    @every_head
    def test_feature_is_what_the_last_layer_reads(self, head: str) -> None:
        net = PoseNetwork(settings(head=head), 2.0).eval()
        answer = net(pictures())[0]
        assert_allclose(
            answer.centre_B3.detach(), (2 * net.head.centre(answer.feature_BD)).detach(), rtol=1e-5, atol=1e-6
        )

    def test_are_in_full_precision_under_autocast(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = PoseNetwork(settings(head="lstm"), 1.0)(pictures())[0]
        assert {t.dtype for t in answer if isinstance(t, Tensor)} == {torch.float32}


class TestTraining:
    @every_head
    @pytest.mark.parametrize("depth", [False, True])
    def test_every_parameter_learns(self, head: str, depth: bool) -> None:
        net = PoseNetwork(settings(head=head, depth=depth, auxiliary=True, dropout=0.2), 1.0)
        answers = net(pictures(5), pictures(5, seed=1) if depth else None)
        truth = (torch.randn(5, 3), torch.linalg.qr(torch.randn(5, 3, 3)).Q)
        total = sum(answer.weight * learned_loss(answer, *truth, net.s_x, net.s_q) for answer in answers)
        assert isinstance(total, Tensor)
        (total + likelihood_loss(answers[0], *truth)).backward()
        idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        # The second stream's middle maps lead nowhere but on; all of it is read at its end.
        assert idle == []

    @pytest.mark.parametrize("loss", ["beta", "learned", "reprojection", "virtual-points", "homography"])
    def test_learned_weights_are_there_when_the_loss_has_them(self, loss: str) -> None:
        names = {name for name, _ in PoseNetwork(settings(loss=loss, s_x=0.5, s_q=-2.5), 1.0).named_parameters()}
        assert ({"s_x", "s_q"} <= names) == (loss in ("learned", "reprojection"))

    def test_learned_weights_begin_as_set(self) -> None:
        net = PoseNetwork(settings(s_x=0.5, s_q=-2.5), 1.0)
        assert (float(net.s_x.detach()), float(net.s_q.detach())) == (0.5, -2.5)

    def test_construction_leaves_no_trace_in_batch_norms(self) -> None:
        net = PoseNetwork(settings(backbone="resnet18"), 1.0)
        assert net.training and net.backbone.training
        assert {int(t) for name, t in net.named_buffers() if name.endswith("num_batches_tracked")} == {0}

    def test_construction_is_a_function_of_the_seed(self) -> None:
        states = []
        for seed in (1, 1, 2):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                states.append(PoseNetwork(settings(head="lstm", auxiliary=True), 1.0).state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


class TestDepth:
    def test_both_streams_tell(self) -> None:
        net = PoseNetwork(settings(depth=True), 1.0).eval()
        here, other = pictures(), pictures(seed=1)
        answers = [net(*pair)[0].centre_B3 for pair in ((here, here), (here, other), (other, here))]
        assert not torch.allclose(answers[0], answers[1], atol=1e-5)
        assert not torch.allclose(answers[0], answers[2], atol=1e-5)

    def test_streams_that_do_not_fit_the_network_are_refused(self) -> None:
        with pytest.raises(ValueError, match="two streams"):
            PoseNetwork(settings(depth=True), 1.0)(pictures())
        with pytest.raises(ValueError, match="two streams"):
            PoseNetwork(settings(), 1.0)(pictures(), pictures())


class TestWindows:
    """`Patches` sees nothing beyond a cell, so that windows of its maps are maps of the windows."""

    @every_head
    def test_are_the_answers_of_the_cropped_pictures_where_borders_do_not_matter(self, head: str) -> None:
        net = PoseNetwork(settings(head=head), 1.5).eval()
        images = pictures(2, 96, 160)
        corners = [(row, column) for row in (0, 32) for column in (0, 32, 64, 96)]
        answers = net.windows(images)
        assert len(answers) == len(corners)
        for answer, (row, column) in zip(answers, corners, strict=True):
            assert_same(answer, net(images[..., row : row + 64, column : column + 64])[0])

    @every_head
    def test_of_a_picture_as_large_as_the_window_is_its_answer(self, head: str) -> None:
        net = PoseNetwork(settings(head=head), 1.0).eval()
        (answer,) = net.windows(pictures())
        assert_same(answer, net(pictures())[0])

    def test_are_windows_of_the_map_of_a_network_whose_cells_see_each_other(self) -> None:
        config = settings(backbone="resnet18", head="posenet")
        net = PoseNetwork(config, 1.0).eval()
        images = pictures(1, 96, 128)
        last = net.backbone(images)["layer4"]
        expected = [last[..., row : row + 2, column : column + 2] for row in range(2) for column in range(3)]
        for answer, window in zip(net.windows(images), expected, strict=True):
            numbers = net.head({"layer4": window})
            assert_allclose(answer.centre_B3.detach(), numbers.centre_B3.detach(), atol=1e-6)
            assert_allclose(answer.raw_BK.detach(), numbers.raw_BK.detach(), atol=1e-6)
        cropped = net(images[..., :64, :64])[0]
        assert not torch.allclose(net.windows(images)[0].raw_BK, cropped.raw_BK, atol=1e-6)  # borders do matter

    def test_take_depth_along(self) -> None:
        net = PoseNetwork(settings(depth=True), 1.0).eval()
        images, depth = pictures(1, 64, 96), pictures(1, 64, 96, seed=1)
        answers = net.windows(images, depth)
        assert_same(answers[1], net(images[..., 32:], depth[..., 32:])[0])

    def test_need_a_window_and_a_picture_that_holds_it(self) -> None:
        with pytest.raises(ValueError, match="set crop"):
            PoseNetwork(settings(crop=0), 1.0).windows(pictures())
        with pytest.raises(ValueError, match="smaller than windows of 64"):
            PoseNetwork(settings(), 1.0).eval().windows(pictures(1, 32, 96))


class TestSizes:
    @pytest.mark.parametrize(
        ("changes", "size", "grid"),
        [
            ({}, None, (2, 2)),
            ({"crop": 0, "short_side": 96}, None, (3, 4)),
            ({"crop": 0}, (160, 64), (2, 5)),
            ({"crop": 0}, (64, 160), (5, 2)),
        ],
    )
    def test_the_grid_is_that_of_the_pictures(
        self, changes: dict[str, Any], size: tuple[int, int] | None, grid: tuple[int, int]
    ) -> None:
        assert PoseNetwork(settings(**changes), 1.0, size=size).head.body.grid == grid

    @every_head
    def test_pictures_of_other_sizes_have_answers_too(self, head: str) -> None:
        net = PoseNetwork(settings(head=head, auxiliary=True), 1.0)
        assert [tuple(answer.centre_B3.shape) for answer in net(pictures(2, 96, 128))] == [(2, 3)] * 3

    @pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2"])
    @every_head
    def test_odd_pictures_of_real_backbones(self, name: str, head: str) -> None:
        size = (75, 97)
        net = PoseNetwork(settings(backbone=name, head=head, crop=0), 1.0, size=size).eval()
        assert net(pictures(1, size[1], size[0]))[0].centre_B3.shape == (1, 3)

    def test_an_unknown_backbone_is_refused_with_the_known(self) -> None:
        with pytest.raises(PlacecellError, match="known are googlenet"):
            PoseNetwork(settings(backbone="alexnet"), 1.0)


class TestPapers:
    def test_posenet_2015_has_the_heads_of_its_prototxt(self) -> None:
        net = PoseNetwork(PRESETS["posenet-2015"], 1.0)
        shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if not name.startswith("backbone")}
        assert shapes["head.body.fc.weight"] == (2048, 1024)
        assert (shapes["head.centre.weight"], shapes["head.rotation.weight"]) == ((3, 2048), (4, 2048))
        for i, channels in enumerate((512, 528)):
            assert shapes[f"auxiliary.{i}.body.conv.weight"] == (128, channels, 1, 1)
            assert shapes[f"auxiliary.{i}.body.fc.weight"] == (1024, 2048)
            assert shapes[f"auxiliary.{i}.rotation.weight"] == (4, 1024)
        assert sum(p.numel() for p in net.head.parameters()) == 2048 * 1025 + 7 * 2049

    def test_poselstm_scans_32_by_64(self) -> None:
        net = PoseNetwork(PRESETS["lstm"], 1.0)
        pooled, scanned = net.head.body
        assert pooled.fc.out_features == 2048 and scanned.shape == (32, 64)
        assert net.head.centre.in_features == 1024
        assert len(net.auxiliary) == 2

    def test_a_grid_head_on_mobilenet_is_light(self) -> None:
        config = settings(backbone="mobilenet_v2", hidden=512, short_side=192, crop=0)
        assert sum(p.numel() for p in PoseNetwork(config, 1.0).parameters()) < 5e6
