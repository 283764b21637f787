from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck

from placecell.camera import Camera
from placecell.geometry_torch import (
    log_quat_from_matrix,
    matrix_from_6d,
    matrix_from_9d,
    matrix_from_log_quat,
    matrix_from_quat,
    product,
    project,
    quat_from_matrix,
    rotation_angle_rad,
    skew,
    transform,
)
from placecell.pose import Array, Pose
from placecell.pose import skew as skew_of_one

Matrix = Callable[[Tensor], Tensor]
MATRICES: dict[str, tuple[Matrix, int]] = {
    "quat": (matrix_from_quat, 4),
    "6d": (matrix_from_6d, 6),
    "9d": (matrix_from_9d, 9),
    "log_quat": (matrix_from_log_quat, 3),
}
every_matrix = pytest.mark.parametrize("name", MATRICES)

unit = st.floats(-1, 1, allow_nan=False)
directions = (
    st.tuples(unit, unit, unit)
    .map(np.array)
    .filter(lambda v: float(np.linalg.norm(v)) > 1e-3)
    .map(lambda v: v / np.linalg.norm(v))
)
angles_rad = st.one_of(
    st.sampled_from([0.0, 1e-12, 1e-4, 2e-3, math.pi / 2, math.pi - 1e-4, math.pi]), st.floats(0, math.pi)
)
rotvecs = st.builds(lambda direction, angle: direction * angle, directions, angles_rad)


def numbers(count: int, *, seed: int = 0, batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, generator=generator, dtype=torch.float64)


def rotations(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(count, rng=np.random.default_rng(seed)).as_matrix())


def assert_rotations(matrix: Tensor, atol: float = 1e-12) -> None:
    assert_allclose((matrix @ matrix.mT).numpy(), np.broadcast_to(np.eye(3), matrix.shape), rtol=0, atol=atol)
    assert_allclose(torch.linalg.det(matrix).numpy(), 1, atol=atol)


@every_matrix
class TestEveryMatrix:
    def test_is_a_rotation(self, name: str) -> None:
        matrix_from, count = MATRICES[name]
        assert_rotations(matrix_from(numbers(count)))

    def test_gradient_is_that_of_differences(self, name: str) -> None:
        matrix_from, count = MATRICES[name]
        assert gradcheck(matrix_from, numbers(count, batch=3).requires_grad_())

    def test_gradient_at_no_rotation_is_that_of_differences(self, name: str) -> None:
        matrix_from, count = MATRICES[name]
        rest = {4: [1, 0, 0, 0], 6: [1, 0, 0, 0, 1, 0], 9: [1, 0, 0, 0, 1, 0, 0, 0, 1], 3: [0, 0, 0]}[count]
        start = torch.tensor([rest], dtype=torch.float64)
        assert_allclose(matrix_from(start)[0].numpy(), np.eye(3), atol=1e-15)
        # Central differences of 1e-6 take the orthonormal 9d numbers off every singular value at once.
        assert gradcheck(matrix_from, start.requires_grad_())

    def test_zeros_and_tiny_and_huge_numbers_stay_finite(self, name: str) -> None:
        matrix_from, count = MATRICES[name]
        for scale in (0.0, 1e-30, 1e-12, 1e12) if count != 3 else (0.0, 1e-30, 1e-12, 1e3):
            start = (scale * numbers(count).float()).requires_grad_()
            matrix = matrix_from(start)
            matrix.square().sum().backward()
            assert torch.isfinite(matrix).all()
            assert start.grad is not None and torch.isfinite(start.grad).all()

    def test_nan_comes_out_as_nan_and_not_as_an_error(self, name: str) -> None:
        matrix_from, count = MATRICES[name]
        given = numbers(count)
        given[1, 0] = torch.nan
        matrix = matrix_from(given)
        assert torch.isnan(matrix[1]).any()
        assert_rotations(matrix[[0, 2, 3, 4]])

    def test_is_the_same_under_autocast(self, name: str) -> None:
        matrix_from, count = MATRICES[name]
        start = numbers(count).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = matrix_from(start)
        assert torch.equal(under, matrix_from(start))

    def test_takes_any_leading_axes(self, name: str) -> None:
        matrix_from, count = MATRICES[name]
        given = numbers(count, batch=6)
        assert torch.equal(matrix_from(given.reshape(2, 3, count)).reshape(6, 3, 3), matrix_from(given))


class TestQuaternions:
    @given(rotvecs, st.floats(0.01, 100))
    def test_scipy_agrees_at_any_length_and_sign(self, rotvec: Array, length: float) -> None:
        rotation = Rotation.from_rotvec(rotvec)
        quat = torch.from_numpy(np.roll(rotation.as_quat(), 1).copy())[None]
        for signed in (length * quat, -length * quat):
            assert_allclose(matrix_from_quat(signed)[0].numpy(), rotation.as_matrix(), atol=1e-14)

    @given(rotvecs)
    def test_back_from_a_matrix_as_pose_has_it(self, rotvec: Array) -> None:
        rotation = Rotation.from_rotvec(rotvec).as_matrix()
        quat = quat_from_matrix(torch.from_numpy(rotation)[None])[0]
        assert quat[0] >= 0
        assert abs(float(quat @ torch.from_numpy(Pose(rotation, np.zeros(3)).quat_wxyz))) == pytest.approx(1, abs=1e-14)
        assert_allclose(matrix_from_quat(quat[None])[0].numpy(), rotation, atol=1e-14)

    def test_w_comes_first(self) -> None:
        quarter_about_z = torch.tensor([[math.sqrt(0.5), 0, 0, math.sqrt(0.5)]], dtype=torch.float64)
        assert_allclose(matrix_from_quat(quarter_about_z)[0].numpy(), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
        assert_allclose(quat_from_matrix(matrix_from_quat(quarter_about_z)), quarter_about_z)

    def test_gradients_are_finite_at_half_turns(self) -> None:
        for axis in np.eye(3):
            matrix = torch.from_numpy(Rotation.from_rotvec(math.pi * axis).as_matrix())[None].requires_grad_()
            for inverse in (quat_from_matrix, log_quat_from_matrix):
                (gradient,) = torch.autograd.grad(inverse(matrix).sum(), matrix)
                assert torch.isfinite(gradient).all()


class TestLogQuaternions:
    @given(rotvecs)
    def test_is_half_the_rotation_vector(self, rotvec: Array) -> None:
        expected = Rotation.from_rotvec(rotvec)
        half = torch.from_numpy(rotvec / 2)[None]
        assert_allclose(matrix_from_log_quat(half)[0].numpy(), expected.as_matrix(), atol=1e-14)
        found = log_quat_from_matrix(torch.from_numpy(expected.as_matrix())[None])[0].numpy()
        assert np.linalg.norm(found) <= math.pi / 2 + 1e-12
        if np.linalg.norm(rotvec) < math.pi - 1e-6:  # beyond, both signs are right
            assert_allclose(found, rotvec / 2, atol=1e-9)

    def test_the_series_meets_the_formula(self) -> None:
        for angle in (0.99e-3, 1.01e-3):
            half = torch.tensor([[0.0, angle, 0.0]], dtype=torch.float64)
            exact = Rotation.from_rotvec(2 * half[0].numpy())
            assert_allclose(matrix_from_log_quat(half)[0].numpy(), exact.as_matrix(), rtol=0, atol=1e-14)
            assert_allclose(
                log_quat_from_matrix(torch.from_numpy(exact.as_matrix())[None]).numpy(), half, rtol=0, atol=1e-13
            )

    def test_gradient_of_the_logarithm_is_that_of_differences(self) -> None:
        def there_and_back(half: Tensor) -> Tensor:
            return log_quat_from_matrix(matrix_from_log_quat(half))

        for scale in (0.0, 1e-5, 0.3, 1.0):
            assert gradcheck(there_and_back, (scale * numbers(3, batch=2) / 3).requires_grad_())


class TestSixNumbers:
    def test_columns_of_a_rotation_are_that_rotation(self) -> None:
        matrix = rotations(8)
        columns = torch.cat([matrix[..., 0], matrix[..., 1]], dim=-1)
        assert_allclose(matrix_from_6d(columns).numpy(), matrix.numpy(), atol=1e-14)

    def test_is_gram_and_schmidt_by_qr(self) -> None:
        given = numbers(6)
        matrix = matrix_from_6d(given)
        for row, found in zip(given.numpy(), matrix.numpy(), strict=True):
            q, r = np.linalg.qr(row.reshape(2, 3).T)
            assert_allclose(found[:, :2], q * np.sign(np.diag(r)), atol=1e-14)


class TestNineNumbers:
    def test_rows_of_a_rotation_are_that_rotation(self) -> None:
        matrix = rotations(8)
        assert_allclose(matrix_from_9d(matrix.reshape(8, 9)).numpy(), matrix.numpy(), atol=1e-14)

    def test_pose_nearest_agrees(self) -> None:
        noisy = rotations(8) + 0.03 * numbers(9, batch=8).reshape(8, 3, 3)
        found = matrix_from_9d(noisy.reshape(8, 9)).numpy()
        for one, matrix in zip(found, noisy.numpy(), strict=True):
            expected = Pose.nearest(np.column_stack([matrix, np.zeros(3)])).rotation
            assert_allclose(one, expected, atol=1e-13)

    def test_no_other_rotation_is_closer_to_a_mirrored_matrix(self) -> None:
        mirrored = -rotations(4) * torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64)
        found = matrix_from_9d(mirrored.reshape(4, 9))
        assert_rotations(found)
        best = (found - mirrored).square().sum((-2, -1))
        for other in rotations(500, seed=1):
            assert (best <= (other - mirrored).square().sum((-2, -1)) + 1e-12).all()

    def test_gradient_is_that_of_differences_at_rotations_and_mirrored_matrices(self) -> None:
        exact = rotations(3).reshape(3, 9)
        mirrored = (-rotations(3) * torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64)).reshape(3, 9)
        for start in (exact, mirrored):
            assert gradcheck(matrix_from_9d, start.clone().requires_grad_())


class TestAngle:
    @given(rotvecs)
    def test_is_the_length_of_the_rotation_vector(self, rotvec: Array) -> None:
        matrix = torch.from_numpy(Rotation.from_rotvec(rotvec).as_matrix())[None]
        assert float(rotation_angle_rad(matrix)) == pytest.approx(float(np.linalg.norm(rotvec)), abs=1e-7)

    @pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 2.0, math.pi - 1e-6, math.pi])
    def test_gradient_is_finite_and_has_the_right_slope(self, angle: float) -> None:
        half = torch.tensor([[0.0, 0.0, angle / 2]], dtype=torch.float64, requires_grad=True)
        rotation_angle_rad(matrix_from_log_quat(half)).sum().backward()
        assert half.grad is not None and torch.isfinite(half.grad).all()
        if 0 < angle < math.pi:
            assert_allclose(half.grad[0].numpy(), [0, 0, 2], rtol=1e-4, atol=1e-4)

    def test_single_precision_tells_small_angles(self) -> None:
        matrix = torch.from_numpy(Rotation.from_rotvec([1e-4, 0, 0]).as_matrix()).float()[None]
        assert float(rotation_angle_rad(matrix)) == pytest.approx(1e-4, rel=1e-3)  # acos would say 0 or 3.5e-4


class TestPoints:
    def test_transform_is_that_of_pose(self) -> None:
        poses = [Pose.exp(np.random.default_rng(seed).normal(size=6)) for seed in range(3)]
        points = numbers(3, batch=12).reshape(3, 4, 3)
        rotation = torch.from_numpy(np.stack([pose.rotation for pose in poses]))
        translation = torch.from_numpy(np.stack([pose.translation for pose in poses]))
        expected = np.stack([pose.apply(these) for pose, these in zip(poses, points.numpy(), strict=True)])
        assert_allclose(transform(rotation, translation, points).numpy(), expected, atol=1e-14)

    def test_project_is_that_of_a_pinhole(self) -> None:
        cameras = [Camera(64, 48, 50.0, 55.0, 31.0, 25.0), Camera(32, 40, 30.0, 31.0, 15.0, 22.0)]
        points = numbers(3, batch=10).reshape(2, 5, 3)
        points[..., 2] = points[..., 2].abs() + 0.5
        matrix = torch.from_numpy(np.stack([camera.matrix for camera in cameras]))
        expected = np.stack([camera.project(these) for camera, these in zip(cameras, points.numpy(), strict=True)])
        assert_allclose(project(points, matrix).numpy(), expected, rtol=1e-12)

    def test_skew_is_the_cross_product(self) -> None:
        a, b = numbers(3), numbers(3, seed=1)
        assert_allclose((skew(a) @ b[..., None])[..., 0].numpy(), np.cross(a.numpy(), b.numpy()), atol=1e-15)
        assert_allclose(skew(a)[0].numpy(), skew_of_one(a[0].numpy()))

    def test_product_is_matmul_and_keeps_its_precision_under_autocast(self) -> None:
        a, b = numbers(6).reshape(5, 2, 3).float(), numbers(12, seed=1).reshape(5, 3, 4).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = product(a, b)
        assert_allclose(under.numpy(), a.numpy() @ b.numpy(), rtol=0, atol=1e-6)
