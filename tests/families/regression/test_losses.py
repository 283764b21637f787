from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck

from placecell.camera import Camera
from placecell.families.regression.heads import ROTATIONS
from placecell.families.regression.losses import (
    beta_loss,
    homography_loss,
    learned_loss,
    reprojection_loss,
    rotation_error,
    virtual_points_loss,
)
from placecell.families.regression.network import Answer
from placecell.geometry_torch import log_quat_from_matrix, quat_from_matrix
from placecell.pose import Array, Pose, pose_error

CAMERA = Camera(64, 48, 50.0, 52.0, 30.0, 25.0)
SIZE = (CAMERA.width, CAMERA.height)
DEPTHS = (0.5, 2.0)
PICTURES = 3


class Truth(NamedTuple):
    poses: list[Pose]
    centre_B3: Tensor
    rotation_B33: Tensor
    points_BN3: Tensor
    valid_BN: Tensor
    matrix_B33: Tensor


def stacked(poses: list[Pose]) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([pose.translation for pose in poses])),
        torch.from_numpy(np.stack([pose.rotation for pose in poses])),
    )


def truth_of(seed: int = 0, points: int = 20) -> Truth:
    """Cameras anywhere, each with points in view."""
    rng = np.random.default_rng(seed)
    poses = [Pose.exp(rng.normal(size=6)) for _ in range(PICTURES)]
    pixels = rng.uniform((0, 0), SIZE, (PICTURES, points, 2))
    depth = rng.uniform(1, 4, (PICTURES, points, 1))
    world = np.stack([pose.apply(CAMERA.rays(px) * z) for pose, px, z in zip(poses, pixels, depth, strict=True)])
    matrix = torch.from_numpy(CAMERA.matrix).expand(PICTURES, 3, 3)
    return Truth(poses, *stacked(poses), torch.from_numpy(world), torch.ones(PICTURES, points).bool(), matrix)


def answer_of(poses: list[Pose], output: str = "6d") -> Answer:
    """What a network says that emits exactly these poses."""
    centre, rotation = stacked(poses)
    raw = {
        "quaternion": quat_from_matrix(rotation),
        "log-quaternion": log_quat_from_matrix(rotation),
        "6d": torch.cat([rotation[..., 0], rotation[..., 1]], dim=-1),
        "9d": rotation.reshape(-1, 9),
    }[output]
    return Answer(centre, rotation, raw, 1.0, torch.zeros(len(poses), 1))


def moved(truth: Truth, size: float = 0.05, seed: int = 1) -> list[Pose]:
    rng = np.random.default_rng(seed)
    return [pose @ Pose.exp(size * rng.normal(size=6)) for pose in truth.poses]


Loss = Callable[[Answer, Truth], Tensor]
S_X, S_Q = torch.tensor(0.5, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
GEOMETRIC: dict[str, Loss] = {
    "reprojection": lambda a, t: reprojection_loss(
        a, t.centre_B3, t.rotation_B33, points_BN3=t.points_BN3, valid_BN=t.valid_BN, matrix_B33=t.matrix_B33
    ),
    "virtual-points": lambda a, t: virtual_points_loss(
        a, t.centre_B3, t.rotation_B33, matrix_B33=t.matrix_B33, size=SIZE, depths=DEPTHS
    ),
    "homography": lambda a, t: homography_loss(a, t.centre_B3, t.rotation_B33, near=1.0, far=4.0),
}
LOSSES: dict[str, Loss] = {
    **GEOMETRIC,
    **{
        f"beta {norm}": lambda a, t, norm=norm: beta_loss(a, t.centre_B3, t.rotation_B33, beta=7.0, norm=norm)
        for norm in ("l1", "l2", "squared")
    },
    **{
        f"learned {norm}": lambda a, t, norm=norm: (
            learned_loss(a, t.centre_B3, t.rotation_B33, S_X, S_Q, norm=norm) - S_X - S_Q
        )
        for norm in ("l1", "l2", "squared")
    },
}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_output = pytest.mark.parametrize("output", ROTATIONS)


def of_numbers(loss: Loss, truth: Truth, output: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a function of what a network emits."""

    def value(centre: Tensor, raw: Tensor) -> Tensor:
        return loss(Answer(centre, ROTATIONS[output][0](raw), raw, 1.0, centre), truth)

    return value


@every_loss
@every_output
class TestEveryLoss:
    def test_gradient_is_that_of_differences(self, name: str, output: str) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth), output)
        raw = (1.2 * answer.raw_BK if output != "log-quaternion" else answer.raw_BK).requires_grad_()
        assert gradcheck(of_numbers(LOSSES[name], truth, output), (answer.centre_B3.requires_grad_(), raw))

    def test_is_zero_at_agreement_with_finite_gradients(self, name: str, output: str) -> None:
        truth = truth_of()
        answer = answer_of(truth.poses, output)
        centre, raw = answer.centre_B3.requires_grad_(), answer.raw_BK.requires_grad_()
        loss = of_numbers(LOSSES[name], truth, output)(centre, raw)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        for gradient in (centre.grad, raw.grad):
            assert gradient is not None and torch.isfinite(gradient).all()

    @pytest.mark.parametrize("axis", range(3))
    def test_is_finite_at_opposite_rotations(self, name: str, output: str, axis: int) -> None:
        truth = truth_of()
        half_turn = Pose(Rotation.from_rotvec(np.pi * np.eye(3)[axis]).as_matrix(), np.zeros(3))
        answer = answer_of([pose @ half_turn for pose in truth.poses], output)
        centre, raw = answer.centre_B3.float().requires_grad_(), answer.raw_BK.float().requires_grad_()
        loss = of_numbers(LOSSES[name], Truth(truth.poses, *(single(t) for t in truth[1:])), output)(centre, raw)
        loss.backward()
        assert float(loss.detach()) > 0.1
        for gradient in (centre.grad, raw.grad):
            assert gradient is not None and torch.isfinite(gradient).all()


def single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


class TestEveryLossAgain:
    @every_loss
    def test_is_the_mean_over_the_batch(self, name: str) -> None:
        truth = truth_of()
        poses = moved(truth, 0.1)
        singles = [
            float(LOSSES[name](answer_of([poses[i]]), Truth([truth.poses[i]], *(t[i : i + 1] for t in truth[1:]))))
            for i in range(PICTURES)
        ]
        assert float(LOSSES[name](answer_of(poses), truth)) == pytest.approx(np.mean(singles), rel=1e-9)
        assert len(set(np.round(singles, 9))) == PICTURES

    @every_loss
    def test_does_not_mind_bfloat16_around_it(self, name: str) -> None:
        truth = Truth(truth_of().poses, *(single(t) for t in truth_of()[1:]))
        answer = Answer(*(single(t) if isinstance(t, Tensor) else t for t in answer_of(moved(truth_of()))))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = LOSSES[name](answer, truth)
        assert float(under) == pytest.approx(float(LOSSES[name](answer, truth)), rel=1e-6)

    @pytest.mark.parametrize("name", [*GEOMETRIC, "beta l2", "learned l2"])
    def test_moving_the_world_changes_nothing(self, name: str) -> None:
        truth = truth_of()
        other_from_world = Pose.exp([0.4, -0.8, 0.3, 2.0, -1.0, 0.5])
        points = torch.from_numpy(np.stack([other_from_world.apply(these) for these in truth.points_BN3.numpy()]))
        there = [other_from_world @ pose for pose in truth.poses]
        other = Truth(there, *stacked(there), points, truth.valid_BN, truth.matrix_B33)
        poses = moved(truth, 0.1)
        here = LOSSES[name](answer_of(poses), truth)
        assert float(LOSSES[name](answer_of([other_from_world @ pose for pose in poses]), other)) == pytest.approx(
            float(here), rel=1e-9
        )

    @pytest.mark.parametrize("name", LOSSES)
    def test_leads_back_to_the_truth(self, name: str) -> None:
        truth = truth_of()
        start = answer_of(moved(truth, 0.1), "9d")
        centre, raw = start.centre_B3.clone().requires_grad_(), start.raw_BK.clone().requires_grad_()
        optimizer = torch.optim.Adam([centre, raw], lr=0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
        for _ in range(200):
            optimizer.zero_grad()
            of_numbers(LOSSES[name], truth, "9d")(centre, raw).backward()
            optimizer.step()
            schedule.step()
        rotation = ROTATIONS["9d"][0](raw).detach().numpy()
        for pose, x, r in zip(truth.poses, centre.detach().numpy(), rotation, strict=True):
            error = pose_error(Pose(r, x), pose)
            assert error.distance < 0.01
            assert error.angle_deg < 0.5


def angles(answer: Answer, truth: Truth) -> Array:
    errors = [
        pose_error(Pose(r, np.zeros(3)), Pose(pose.rotation, np.zeros(3))).angle_deg
        for r, pose in zip(answer.rotation_B33.numpy(), truth.poses, strict=True)
    ]
    return np.radians(errors)


class TestPoseNet:
    def test_beta_loss_by_hand(self) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth), "quaternion")
        answer = answer._replace(raw_BK=1.3 * answer.raw_BK)  # of any length, and compared as it is
        x = answer.centre_B3.numpy() - truth.centre_B3.numpy()
        q = answer.raw_BK.numpy() - np.stack([pose.quat_wxyz for pose in truth.poses])
        by_hand = {
            "l1": (np.abs(x).sum(1) + 9 * np.abs(q).sum(1)).mean(),
            "l2": (np.linalg.norm(x, axis=1) + 9 * np.linalg.norm(q, axis=1)).mean(),
            "squared": ((x**2).sum(1) / 2 + 9 * (q**2).sum(1) / 2).mean(),
        }
        for norm, expected in by_hand.items():
            found = beta_loss(answer, truth.centre_B3, truth.rotation_B33, beta=9, norm=norm)  # type: ignore[arg-type]
            assert float(found) == pytest.approx(expected, rel=1e-12)

    def test_learned_loss_by_hand(self) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth), "quaternion")
        answer = answer._replace(raw_BK=1.3 * answer.raw_BK)  # of any length, and compared at length 1
        x = np.abs(answer.centre_B3.numpy() - truth.centre_B3.numpy()).sum(1).mean()
        q = answer.raw_BK.numpy() / 1.3 - np.stack([pose.quat_wxyz for pose in truth.poses])
        expected = x * np.exp(-0.5) + 0.5 + np.abs(q).sum(1).mean() * np.exp(2.0) - 2.0
        assert float(learned_loss(answer, truth.centre_B3, truth.rotation_B33, S_X, S_Q)) == pytest.approx(expected)

    def test_learned_weights_settle_at_the_logarithm_of_their_terms(self) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth), "quaternion")
        x = np.abs(answer.centre_B3.numpy() - truth.centre_B3.numpy()).sum(1).mean()
        s_x, s_q = torch.tensor(np.log(x), requires_grad=True), torch.tensor(0.0, requires_grad=True)
        learned_loss(answer, truth.centre_B3, truth.rotation_B33, s_x, s_q).backward()
        assert s_x.grad is not None and s_q.grad is not None
        assert float(s_x.grad) == pytest.approx(0, abs=1e-6)
        assert float(s_q.grad) > 0  # too wide a variance for so small an error

    def test_log_quaternions_are_half_the_rotation_vector(self) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth), "log-quaternion")
        expected = [Rotation.from_matrix(r).as_rotvec() / 2 for r in truth.rotation_B33.numpy()]
        by_hand = np.abs(answer.raw_BK.numpy() - expected).sum(1)
        found = rotation_error(answer, truth.rotation_B33, "l1", unit=True)
        assert_allclose(found.numpy(), by_hand, atol=1e-12)

    @pytest.mark.parametrize("output", ["6d", "9d"])
    def test_continuous_rotations_are_compared_by_their_angle(self, output: str) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth, 0.5), output)
        for norm, expected in (("l1", angles(answer, truth)), ("squared", angles(answer, truth) ** 2 / 2)):
            found = rotation_error(answer, truth.rotation_B33, norm, unit=True)  # type: ignore[arg-type]
            assert_allclose(found.numpy(), expected, rtol=1e-9)


class TestReprojection:
    def loss(self, poses: list[Pose], truth: Truth) -> float:
        return float(GEOMETRIC["reprojection"](answer_of(poses), truth))

    def test_camera_project_agrees(self) -> None:
        truth = truth_of()
        poses = moved(truth, 0.02)
        expected = [
            np.abs(CAMERA.project(pose.inv.apply(points)) - CAMERA.project(true.inv.apply(points))).sum(-1)
            for pose, true, points in zip(poses, truth.poses, truth.points_BN3.numpy(), strict=True)
        ]
        assert np.max(expected) < 100
        assert self.loss(poses, truth) == pytest.approx(np.mean(expected), rel=1e-12)

    def test_the_inverse_of_the_truth_is_not_the_truth(self) -> None:
        truth = truth_of()
        assert self.loss([pose.inv for pose in truth.poses], truth) > 50

    def test_large_residuals_count_by_their_root(self) -> None:
        truth = truth_of()
        poses = [pose @ Pose.exp([0, 0.95, 0, 0, 0, 0]) for pose in truth.poses]  # a turn by 54 degrees
        residual = np.concatenate(
            [
                np.abs(CAMERA.project(pose.inv.apply(points)) - CAMERA.project(true.inv.apply(points))).sum(-1)
                for pose, true, points in zip(poses, truth.poses, truth.points_BN3.numpy(), strict=True)
            ]
        )
        usual = residual[~np.isnan(residual)]
        assert (usual > 100).any()
        ahead = torch.from_numpy(~np.isnan(residual)).reshape(truth.valid_BN.shape)
        per_picture = np.where(residual > 100, np.sqrt(100 * residual), residual).reshape(ahead.shape)
        near = np.stack(
            [
                pose.inv.apply(points)[:, 2] < 0.1 * true.inv.apply(points)[:, 2]
                for pose, true, points in zip(poses, truth.poses, truth.points_BN3.numpy(), strict=True)
            ]
        )
        valid = ~near
        expected = np.mean([row[keep].mean() for row, keep in zip(per_picture, valid, strict=True)])
        only_ahead = truth._replace(valid_BN=torch.from_numpy(valid))
        assert self.loss(poses, only_ahead) == pytest.approx(expected, rel=1e-12)

    def test_points_behind_the_guess_are_drawn_to_the_front(self) -> None:
        truth = truth_of()
        # On the line of sight the projection says nothing: only the depth can draw it back.
        axis = [pose.apply([[0.0, 0.0, 2.0]]) for pose in truth.poses]
        truth = truth._replace(points_BN3=torch.from_numpy(np.stack(axis)), valid_BN=torch.ones(PICTURES, 1).bool())
        centre, rotation = stacked([pose @ Pose(np.eye(3), [0, 0, 5.0]) for pose in truth.poses])
        centre.requires_grad_()
        loss = GEOMETRIC["reprojection"](Answer(centre, rotation, rotation.reshape(-1, 9), 1.0, centre), truth)
        loss.backward()
        assert centre.grad is not None
        forward = truth.rotation_B33[..., 2]
        assert ((centre.grad * forward).sum(-1) > 0.1).all()  # going down goes back
        assert float(loss.detach()) < 200

    @pytest.mark.parametrize("ahead", [1.9, 2.5])
    def test_points_too_near_or_behind_by_hand(self, ahead: float) -> None:
        truth = truth_of(points=1)
        point = np.array([[0.2, 0.1, 2.0]])
        truth = truth._replace(points_BN3=torch.from_numpy(np.stack([pose.apply(point) for pose in truth.poses])))
        # The guess looks the same way from `ahead` further on, so the point lies at (0.2, 0.1, 2 - ahead) for it.
        projected = CAMERA.project([0.2, 0.1, 0.2])
        behind_px = CAMERA.fx * (0.2 - (2.0 - ahead)) / 2.0
        residual = np.abs(projected - CAMERA.project(point[0])).sum() + behind_px
        expected = np.sqrt(100 * residual) if residual > 100 else residual
        guess = [pose @ Pose(np.eye(3), [0, 0, ahead]) for pose in truth.poses]
        assert self.loss(guess, truth) == pytest.approx(expected, rel=1e-9)

    def test_the_guards_meet_without_a_step(self) -> None:
        truth = truth_of(points=1)
        truth = truth._replace(
            points_BN3=torch.from_numpy(np.stack([pose.apply([[0.01, 0.02, 2.0]]) for pose in truth.poses]))
        )
        for ahead in (1.8, 0.5):  # a tenth of the depth of 2, and nowhere in particular
            values = [
                self.loss([pose @ Pose(np.eye(3), [0, 0, ahead + side]) for pose in truth.poses], truth)
                for side in (-1e-9, 1e-9)
            ]
            assert values[0] == pytest.approx(values[1], rel=1e-5)

    def test_points_that_are_not_seen_do_not_count_even_as_nan(self) -> None:
        truth = truth_of()
        poses = moved(truth)
        keep = torch.zeros_like(truth.valid_BN)
        keep[:, :5] = True
        holes = truth.points_BN3.clone()
        holes[:, 5:] = torch.nan
        some = truth._replace(points_BN3=holes, valid_BN=keep)
        expected = self.loss(poses, truth._replace(points_BN3=truth.points_BN3[:, :5], valid_BN=keep[:, :5]))
        assert self.loss(poses, some) == pytest.approx(expected, rel=1e-12)
        answer = answer_of(poses)
        answer.centre_B3.requires_grad_()
        GEOMETRIC["reprojection"](answer, some).backward()
        assert answer.centre_B3.grad is not None and torch.isfinite(answer.centre_B3.grad).all()

    def test_pictures_without_points_do_not_count(self) -> None:
        truth = truth_of()
        poses = moved(truth)
        valid = truth.valid_BN.clone()
        valid[1] = False
        one = [0, 2]
        expected = self.loss(
            [poses[i] for i in one], Truth([truth.poses[i] for i in one], *(t[one] for t in truth[1:]))
        )
        assert self.loss(poses, truth._replace(valid_BN=valid)) == pytest.approx(expected, rel=1e-12)

    def test_no_points_at_all_is_zero_without_slope(self) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth))
        answer.centre_B3.requires_grad_()
        loss = GEOMETRIC["reprojection"](answer, truth._replace(valid_BN=torch.zeros_like(truth.valid_BN)))
        loss.backward()
        assert float(loss.detach()) == 0
        assert answer.centre_B3.grad is not None and not answer.centre_B3.grad.any()


class TestVirtualPoints:
    def test_poses_agree(self) -> None:
        truth = truth_of()
        poses = moved(truth, 0.2)
        corners = np.array([(30.0, 25.0), (0, 0), (64, 0), (0, 48), (64, 48)])
        points = np.concatenate([CAMERA.rays(corners) * depth for depth in DEPTHS])
        expected = [
            np.linalg.norm(pose.apply(points) - true.apply(points), axis=-1).mean()
            for pose, true in zip(poses, truth.poses, strict=True)
        ]
        assert float(GEOMETRIC["virtual-points"](answer_of(poses), truth)) == pytest.approx(
            np.mean(expected), rel=1e-12
        )

    def test_a_shift_is_its_length_and_a_roll_counts(self) -> None:
        truth = truth_of()
        shifted = [Pose(pose.rotation, pose.translation + np.array([0.3, 0, 0.4])) for pose in truth.poses]
        assert float(GEOMETRIC["virtual-points"](answer_of(shifted), truth)) == pytest.approx(0.5, rel=1e-12)
        rolled = [pose @ Pose.exp([0, 0, 0.1, 0, 0, 0]) for pose in truth.poses]
        assert float(GEOMETRIC["virtual-points"](answer_of(rolled), truth)) > 0.01

    @pytest.mark.parametrize("depths", [(), (0.0, 1.0), (-1.0,)])
    def test_refuses_depths_behind_the_camera(self, depths: tuple[float, ...]) -> None:
        truth = truth_of()
        with pytest.raises(ValueError, match="positive depths"):
            virtual_points_loss(
                answer_of(truth.poses),
                truth.centre_B3,
                truth.rotation_B33,
                matrix_B33=truth.matrix_B33,
                size=SIZE,
                depths=depths,
            )


class TestHomography:
    def homography(self, guess: Pose, true: Pose, depth: float) -> Array:
        """From where three points of the plane z = depth go, and that a homography is linear in rays."""
        rays = np.array([(0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0)])
        there = guess.inv.apply(true.apply(depth * rays)) / depth
        matrix: Array = there.T @ np.linalg.inv(rays.T)
        return matrix

    def test_quadrature_over_planes_agrees(self) -> None:
        truth = truth_of()
        poses = moved(truth, 0.3)
        nodes, weights = np.polynomial.legendre.leggauss(40)
        depths = 1.0 + (nodes + 1) / 2 * 3.0
        expected = np.mean(
            [
                sum(
                    weight / 2 * ((self.homography(guess, true, depth) - np.eye(3)) ** 2).sum()
                    for depth, weight in zip(depths, weights, strict=True)
                )
                for guess, true in zip(poses, truth.poses, strict=True)
            ]
        )
        assert float(GEOMETRIC["homography"](answer_of(poses), truth)) == pytest.approx(expected, rel=1e-9)

    def test_each_picture_may_have_its_planes(self) -> None:
        truth = truth_of()
        answer = answer_of(moved(truth, 0.3))
        near, far = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 3.0, 9.0])
        singles = [
            homography_loss(
                Answer(*(t[i : i + 1] for t in answer[:3]), 1.0, answer.feature_BD),
                truth.centre_B3[i : i + 1],
                truth.rotation_B33[i : i + 1],
                near=float(near[i]),
                far=float(far[i]),
            )
            for i in range(PICTURES)
        ]
        together = homography_loss(answer, truth.centre_B3, truth.rotation_B33, near=near, far=far)
        assert float(together) == pytest.approx(float(torch.stack(singles).mean()), rel=1e-6)

    @pytest.mark.parametrize(("near", "far"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 2.0), (2.0, 1.0)])
    def test_refuses_planes_that_are_none(self, near: float, far: float) -> None:
        truth = truth_of()
        with pytest.raises(ValueError, match="near < far"):
            homography_loss(answer_of(truth.poses), truth.centre_B3, truth.rotation_B33, near=near, far=far)
