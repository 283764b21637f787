"""What numbers mean without torch is what they mean with it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from placecell.backbones import Tap
from placecell.camera import Camera
from placecell.families.regression.alignment import Alignment
from placecell.families.regression.config import RotationOutput
from placecell.families.regression.covariance import CovarianceHead, covariance_of
from placecell.families.regression.heads import ROTATIONS
from placecell.families.regression.reading import Doubt, Fixed, aligned, expected, posed
from placecell.pose import Array


@pytest.mark.parametrize("kind", get_args(RotationOutput))
def test_rotations_are_those_of_training(kind: RotationOutput) -> None:
    from_raw, none = ROTATIONS[kind]
    drawn = np.random.default_rng(0).normal(size=(20, len(none))).astype(np.float32) * 0.5 + np.float32(none)
    expected = from_raw(torch.from_numpy(drawn)).numpy()
    for raw, rotation in zip(drawn, expected, strict=True):
        pose = posed(np.float32([1, 2, 3]), raw, kind, 2.0)
        assert_allclose(pose.rotation, rotation, atol=2e-5)
        assert_allclose(pose.translation, [2, 4, 6])


def test_an_alignment_is_that_of_training() -> None:
    head = Alignment({"last": Tap(6, 16)}, 8, (3, 4)).eval()
    head.begin(Camera.from_focal(64, 48, 60.0), depth=2.5, middle=np.array([0.3, -0.1, 0.2]))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
        maps = {"last": torch.randn(5, 6, 3, 4, generator=torch.Generator().manual_seed(0))}
        found = head(maps)
        numbers = head.numbers(head.mix(maps["last"])).flatten(2).mT.numpy()
    fixed = Fixed(head.rays.numpy(), float(head.depth), head.middle.numpy())
    told = zip(numbers, found.centre_B3.numpy(), found.rotation_B33.numpy(), found.misfit_B2.numpy(), strict=True)
    for cells, centre, rotation, misfit in told:
        pose, own_misfit = aligned(cells, fixed)
        assert_allclose(own_misfit, misfit, atol=1e-4)
        assert_allclose(pose.rotation, rotation, atol=1e-4)
        assert_allclose(pose.translation, centre, atol=1e-3)


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_expected_errors_are_those_of_training(size: float) -> None:
    head = CovarianceHead(7, 3.5).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.copy_(0.2 * drawn)
        head.last.bias[0] = 1e3  # beyond the clamp
    features = size * np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    with torch.inference_mode():
        theirs = covariance_of(head(torch.from_numpy(features)))
    ours = expected(features.astype(np.float64), Doubt.of(Doubt.kept(tensors_of(head))))
    deviations = np.sqrt(np.einsum("bii->bi", theirs))
    assert_allclose(ours / (deviations[:, :, None] * deviations[:, None]), corr(theirs), atol=1e-3)
    assert deviations[:, 0].max() < 1e-4 and deviations[:, 1:].min() > 1e-2


def corr(covariances: Array) -> Array:
    deviations = np.sqrt(np.einsum("bii->bi", covariances))
    found: Array = covariances / (deviations[:, :, None] * deviations[:, None])
    return found


def tensors_of(head: CovarianceHead) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {name: values.numpy() for name, values in head.state_dict().items()}


def test_numbers_that_are_none_are_no_pose() -> None:
    with pytest.raises((ValueError, np.linalg.LinAlgError)):
        posed(np.float32([np.nan, 0, 0]), np.float32([1, 0, 0, 0]), "quaternion", 1.0)
