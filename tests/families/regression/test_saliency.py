"""Saliency is the Jacobian of the answer, and lies on the picture where the network looked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from placecell.camera import Camera
from placecell.families.regression.saliency import on_picture, saliency_of
from placecell.resample import resample

SIZE = (3, 6, 8)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Toy(nn.Module):
    """centre = f(weights · picture), ω = g(turns · picture), the rotation exp([ω]×)."""

    def __init__(
        self, weights: Tensor, turns: Tensor | None = None, curve: Callable[[Tensor], Tensor] = lambda values: values
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.turns = None if turns is None else nn.Parameter(turns)
        self.curve = curve

    def forward(self, images_B3HW: Tensor) -> list[tuple[Tensor, Tensor]]:
        centre = self.curve(torch.einsum("kchw,bchw->bk", self.weights, images_B3HW))
        if self.turns is None:
            return [(centre, torch.eye(3).expand(len(centre), 3, 3))]
        x, y, z = torch.einsum("kchw,bchw->kb", self.turns, images_B3HW)
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
        return [(centre, torch.linalg.matrix_exp(skew))]


class TestLinearNetworks:
    def test_one_number_out_the_saliency_is_its_weights(self) -> None:
        weights = torch.zeros(3, *SIZE)
        weights[1] = noise(*SIZE)
        found = saliency_of(Toy(weights), noise(2, *SIZE, seed=1))
        torch.testing.assert_close(found, weights[1].abs().amax(dim=0).expand(2, 6, 8))

    def test_several_count_by_their_norm_and_length_is_the_unit(self) -> None:
        weights = noise(3, *SIZE)
        found = saliency_of(Toy(weights), noise(1, *SIZE, seed=1), length=4.0)
        torch.testing.assert_close(found[0], weights.norm(dim=0).amax(dim=0) / 4.0)

    def test_a_turn_counts_in_radians_whatever_the_length(self) -> None:
        turns = torch.zeros(3, *SIZE)
        turns[2] = noise(*SIZE)
        network = Toy(torch.zeros(3, *SIZE), turns)
        found = saliency_of(network, noise(1, *SIZE, seed=1), length=100.0)
        torch.testing.assert_close(found[0], turns[2].abs().amax(dim=0))

    def test_what_the_network_ignores_is_exactly_zero(self) -> None:
        weights, turns = noise(3, *SIZE), noise(3, *SIZE, seed=2)
        weights[..., 2:4, 5], turns[..., 2:4, 5] = 0.0, 0.0
        found = saliency_of(Toy(weights, turns), noise(1, *SIZE, seed=1), smooth=3)[0]
        ignored = torch.zeros(6, 8, dtype=torch.bool)
        ignored[2:4, 5] = True
        assert (found[ignored] == 0).all() and (found[~ignored] > 0).all()

    def test_noise_changes_nothing_of_a_linear_network(self) -> None:
        network, image = Toy(noise(3, *SIZE)), noise(1, *SIZE, seed=1)
        torch.testing.assert_close(saliency_of(network, image, smooth=5), saliency_of(network, image))


def curved(seed: int = 0) -> Toy:
    return Toy(noise(3, *SIZE, seed=seed) / 5, noise(3, *SIZE, seed=seed + 1) / 5, curve=torch.tanh)


def test_it_is_the_jacobian_that_finite_differences_find() -> None:
    network, image, length, step = curved().double(), noise(1, *SIZE, seed=7).double(), 2.0, 1e-5

    def answer(picture: Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            centre, rotation = network(picture)[0]
        return centre[0].numpy(), rotation[0].numpy()

    centre, rotation = answer(image)
    rows = []
    for index in range(image.numel()):
        picture = image.clone()
        picture.view(-1)[index] += step
        moved, turned = answer(picture)
        turn = Rotation.from_matrix(rotation.T @ turned).as_rotvec()
        rows.append(np.linalg.norm(np.concatenate([(moved - centre) / length, turn])) / step)
    expected = np.array(rows).reshape(SIZE).max(axis=0)
    np.testing.assert_allclose(saliency_of(network, image, length=length)[0].numpy(), expected, rtol=1e-3, atol=1e-6)


class TestNoise:
    def test_the_seed_is_all_that_matters(self) -> None:
        network, image = curved(), noise(2, *SIZE, seed=3)
        first = saliency_of(network, image, smooth=4, seed=5)
        torch.rand(3)  # no generator of anybody else takes part
        assert torch.equal(first, saliency_of(network, image, smooth=4, seed=5))
        assert not torch.equal(first, saliency_of(network, image, smooth=4, seed=6))

    def test_it_averages_what_a_kink_hides(self) -> None:
        """At the corner of relu the plain gradient is one of its two; the average over noise is about half of it."""
        weights = torch.zeros(3, *SIZE)
        weights[0] = 1.0
        image = noise(1, *SIZE, seed=4)
        image -= image.mean() - 1e-6  # just above the corner
        network = Toy(weights, curve=torch.relu)
        torch.testing.assert_close(saliency_of(network, image), torch.ones(1, 6, 8))
        assert 0.3 < float(saliency_of(network, image, smooth=200).mean()) < 0.7


class Real(nn.Module):
    """With all that makes a network answer otherwise in training: dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm1d(3).eval()
        self.head = nn.Linear(4 * 4 * 6, 3)

    def forward(self, images_B3HW: Tensor, depth_B3HW: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        both = images_B3HW if depth_B3HW is None else images_B3HW * depth_B3HW
        centre = self.frozen(self.head(self.trunk(both).flatten(1)))
        return [(centre, torch.eye(3).expand(len(centre), 3, 3))]


@pytest.fixture
def real() -> Real:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Real().train()
    network.frozen.eval()
    return network


class TestTheNetworkAsItIsInUse:
    def test_it_is_left_as_it_was(self, real: Real) -> None:
        before = {name: value.clone() for name, value in real.state_dict().items()}
        first = saliency_of(real, noise(2, *SIZE))
        assert torch.equal(first, saliency_of(real, noise(2, *SIZE)))  # no dropout
        assert real.training and real.trunk[3].training and not real.frozen.training
        assert all(parameter.grad is None for parameter in real.parameters())
        assert all(torch.equal(value, before[name]) for name, value in real.state_dict().items())

    def test_a_batch_is_its_singles(self, real: Real) -> None:
        images = noise(3, *SIZE)
        singles = torch.cat([saliency_of(real, image[None]) for image in images])
        torch.testing.assert_close(saliency_of(real, images), singles)

    def test_it_works_where_gradients_are_off(self, real: Real) -> None:
        expected = saliency_of(real, noise(1, *SIZE))
        with torch.inference_mode():
            images = noise(1, *SIZE)
            torch.testing.assert_close(saliency_of(real, images), expected)
        assert not images.requires_grad

    def test_depth_goes_along_and_the_picture_is_what_is_asked(self, real: Real) -> None:
        images, depth = noise(1, *SIZE), torch.ones(1, *SIZE)
        torch.testing.assert_close(saliency_of(real, images, depth), saliency_of(real, images))
        depth[..., 3, 3] = 0.0
        found = saliency_of(real, images, depth)
        assert found[0, 3, 3] == 0 and found[0, 3, 4] > 0


class TestOnThePicture:
    def test_nothing_changes_where_the_cameras_are_one(self) -> None:
        camera, saliency = Camera.from_focal(64, 48, 50.0), noise(48, 64).abs().numpy()
        np.testing.assert_allclose(on_picture(saliency, camera, camera), saliency, atol=1e-6)

    def test_outside_the_crop_there_is_none(self) -> None:
        camera = Camera(64, 48, 50.0, 51.0, 30.0, 25.0)
        crop = camera.cropped(10, 4, 32, 32)
        found = on_picture(np.ones((32, 32), np.float32), crop, camera)
        assert found.dtype == np.float32
        assert (found[4:36, 10:42] == 1).all() and found.sum() == 32 * 32

    @pytest.mark.parametrize("size", [(320, 240), (1600, 1200)])  # below and above the finest
    @pytest.mark.parametrize("distortion", [(), (-0.2, 0.05, 0.002, -0.001)])
    def test_it_lies_where_the_network_saw_it(self, size: tuple[int, int], distortion: tuple[float, ...]) -> None:
        width, height = size
        model = "opencv" if distortion else "pinhole"
        camera = Camera(width, height, 0.8 * width, 0.82 * width, 0.48 * width, 0.53 * height, model, distortion)
        seen = camera.pinhole.resized(128, 96).cropped(8, 6, 112, 84)
        image = np.zeros((height, width, 3), np.uint8)
        u, v = width // 4, height // 3
        image[v - height // 40 : v + height // 40, u - width // 40 : u + width // 40] = 255
        found = on_picture(resample(image, camera, seen)[..., 0].astype(np.float32), seen, camera)
        rows, columns = np.mgrid[:height, :width] + 0.5
        at = np.array([(columns * found).sum(), (rows * found).sum()]) / found.sum()
        np.testing.assert_allclose(at, (u, v), atol=0.15 * width / 112)
        assert found.shape == (height, width) and float(found[v, u]) > 250
