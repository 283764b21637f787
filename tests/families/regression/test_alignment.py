"""The pose of an alignment, against scipy's and against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from families.regression.small import pictures, settings
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.families.regression.alignment import (
    STRIDE,
    Alignment,
    Surface,
    aligned,
    cell_rays,
    surface_loss,
)
from placecell.families.regression.network import PoseNetwork
from placecell.geometry_torch import matrix_from_9d

CAMERA = Camera(96, 64, 80.0, 82.0, 45.0, 33.0)


def scattered(seed: int = 0, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points, where a motion takes them, weights, and the motion; two of each, float64."""
    rng = np.random.default_rng(seed)
    base, weight = rng.normal(size=(2, 12, 3)), rng.uniform(0.1, 1.0, (2, 12))
    rotation, centre = Rotation.random(2, random_state=seed).as_matrix(), rng.normal(size=(2, 3))
    onto = base @ rotation.transpose(0, 2, 1) + centre[:, None] + noise * rng.normal(size=base.shape)
    weight /= weight.sum(axis=1, keepdims=True)
    found: list[Any] = [torch.from_numpy(values) for values in (onto, base, weight, rotation, centre)]
    onto_t, base_t, weight_t, rotation_t, centre_t = found
    return onto_t, base_t, weight_t, rotation_t, centre_t


@pytest.fixture
def network(patches: None) -> PoseNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = PoseNetwork(settings(head="align", rotation="9d", crop=0, hidden=16), 1.0, size=(96, 64))
    made.head.begin(CAMERA, depth=2.0, middle=np.array([0.5, 0.0, 2.0]))
    return made.eval()


class TestAligned:
    def test_a_motion_is_found_again(self) -> None:
        onto, base, weight, rotation, centre = scattered()
        raw, turned, found = aligned(onto, base, weight)
        torch.testing.assert_close(matrix_from_9d(raw), rotation)
        torch.testing.assert_close(turned, rotation)
        torch.testing.assert_close(found, centre)

    def test_with_noise_it_is_the_weighted_least_squares_of_scipy(self) -> None:
        onto, base, weight, _, _ = scattered(1, noise=0.3)
        raw, _, found = aligned(onto, base, weight)
        for index in range(2):
            a, b, w = (values[index].numpy() for values in (onto, base, weight))
            expected, _ = Rotation.align_vectors(a - w @ a, b - w @ b, weights=w)
            np.testing.assert_allclose(matrix_from_9d(raw)[index], expected.as_matrix(), atol=1e-9)
            np.testing.assert_allclose(found[index], w @ a - expected.apply(w @ b), atol=1e-9)

    def test_points_of_no_weight_say_nothing(self) -> None:
        onto, base, weight, rotation, centre = scattered(2)
        onto, weight = onto.clone(), weight.clone()
        onto[:, 0] += 100.0
        weight[:, 0] = 0.0
        raw, _, found = aligned(onto, base, weight / weight.sum(1, keepdim=True))
        torch.testing.assert_close(matrix_from_9d(raw), rotation)
        torch.testing.assert_close(found, centre)

    def test_gradients_are_those_of_finite_differences(self) -> None:
        onto, base, weight, _, _ = scattered(3, noise=0.2)

        def pose(onto: Tensor, base: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            _, rotation, centre = aligned(onto, base, weight)
            return rotation, centre

        inputs = [values.requires_grad_() for values in (onto, base, weight)]
        assert torch.autograd.gradcheck(pose, inputs, atol=1e-5)


class TestCells:
    def test_rays_go_through_the_middles_of_the_cells(self) -> None:
        pixels = CAMERA.project(cell_rays(CAMERA, (4, 6)))
        expected = [((c + 0.5) * STRIDE, (r + 0.5) * STRIDE) for r in range(4) for c in range(6)]
        np.testing.assert_allclose(pixels, expected)


class TestAlignment:
    def test_the_answer_is_the_motion_of_its_surface(self, network: PoseNetwork) -> None:
        (answer,) = network(pictures(2, 64, 96))
        surface = answer.surface
        assert surface is not None
        rays = torch.from_numpy(cell_rays(CAMERA, (4, 6))).float()
        for index in range(2):
            points_cam = (rays * surface.depth_BN[index, :, None]).detach().double().numpy()
            points, weight = (values[index].detach().double().numpy() for values in (surface[0], surface[2]))
            expected, _ = Rotation.align_vectors(
                points - weight @ points, points_cam - weight @ points_cam, weights=weight
            )
            np.testing.assert_allclose(answer.rotation_B33[index].detach(), expected.as_matrix(), atol=1e-3)
            centre = weight @ points - expected.apply(weight @ points_cam)
            np.testing.assert_allclose(answer.centre_B3[index].detach(), centre, atol=1e-2)

    def test_weights_add_up_and_depths_are_positive(self, network: PoseNetwork) -> None:
        (answer,) = network(pictures(2, 64, 96))
        assert answer.surface is not None
        torch.testing.assert_close(answer.surface.weight_BN.sum(1), torch.ones(2))
        assert bool((answer.surface.depth_BN > 0).all())

    def test_a_gradient_reaches_every_weight(self, network: PoseNetwork) -> None:
        (answer,) = network(pictures(2, 64, 96))
        assert answer.surface is not None
        points, depth = torch.ones(2, 24, 3), torch.full((2, 24), 3.0)
        (answer.centre_B3.sum() + answer.rotation_B33.sum() + surface_loss(answer.surface, points, depth)).backward()
        for name, parameter in network.head.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert bool(parameter.grad.abs().sum() > 0), name

    def test_what_it_begins_with_is_saved_with_it(self, network: PoseNetwork) -> None:
        kept = network.state_dict()
        assert float(kept["head.depth"]) == 2.0
        assert kept["head.middle"].tolist() == [0.5, 0.0, 2.0]
        np.testing.assert_allclose(kept["head.rays"], cell_rays(CAMERA, (4, 6)), atol=1e-6)

    def test_a_backbone_without_these_strides_is_refused(self) -> None:
        with pytest.raises(MapError, match="a map of stride 16"):
            Alignment({}, 16, (2, 2))

    @pytest.mark.parametrize("changes", [{"crop": 64}, {"rotation": "6d"}, {"auxiliary": True}, {"depth": True}])
    def test_settings_that_do_not_go_with_it_are_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="align head"):
            settings(**({"head": "align", "rotation": "9d", "crop": 0} | changes))


class TestSurfaceLoss:
    def surface(self) -> Surface:
        rng = torch.Generator().manual_seed(0)
        points, depth = torch.randn(2, 5, 3, generator=rng), torch.rand(2, 5, generator=rng) + 1
        return Surface(points.requires_grad_(), depth.requires_grad_(), torch.full((2, 5), 0.2))

    def test_is_nothing_at_the_truth_with_finite_gradients(self) -> None:
        surface = self.surface()
        loss = surface_loss(surface, surface.points_BN3.detach(), surface.depth_BN.detach())
        loss.backward()
        assert loss.item() < 1e-5
        assert surface.points_BN3.grad is not None and bool(surface.points_BN3.grad.isfinite().all())

    def test_is_the_mean_distance_of_known_cells(self) -> None:
        surface = self.surface()
        points, depth = surface.points_BN3.detach().clone(), surface.depth_BN.detach().clone()
        points[0, 0] += torch.tensor([3.0, 4.0, 0.0])
        depth[0, 1] -= 0.25
        points[1, 2], depth[1, 2] = torch.nan, torch.nan
        assert surface_loss(surface, points, depth).item() == pytest.approx(5.25 / 9, rel=1e-4)

    def test_nothing_known_is_no_loss_and_no_gradient(self) -> None:
        surface = self.surface()
        loss = surface_loss(surface, torch.full((2, 5, 3), torch.nan), torch.full((2, 5), torch.nan))
        loss.backward()
        assert loss.item() == 0
        assert surface.depth_BN.grad is not None and not bool(surface.depth_BN.grad.any())
