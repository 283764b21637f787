from __future__ import annotations

import copy
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from placecell.pose import Array, Pose, PoseError, mean_pose, pose_error, rotation_angle_deg, skew

unit = st.floats(-1, 1, allow_nan=False)
vectors = st.tuples(unit, unit, unit).map(np.array)
directions = vectors.filter(lambda v: float(np.linalg.norm(v)) > 1e-3).map(lambda v: v / np.linalg.norm(v))
angles_rad = st.one_of(
    st.floats(0, 1e-7), st.floats(0, math.pi), st.floats(math.pi - 1e-7, math.pi), st.sampled_from([0.0, 1e-4, math.pi])
)
rotvecs = st.builds(lambda direction, angle: direction * angle, directions, angles_rad)
poses = st.builds(lambda r, v: Pose(Rotation.from_rotvec(r).as_matrix(), 5 * v), rotvecs, vectors)
twists = st.builds(lambda r, v: np.concatenate([r, 5 * v]), rotvecs, vectors)


def assert_same(a: Pose, b: Pose, atol: float = 1e-12) -> None:
    assert_allclose(a.matrix, b.matrix, rtol=0, atol=atol)


class TestGroup:
    @given(poses, poses, poses)
    def test_composition_is_associative(self, a: Pose, b: Pose, c: Pose) -> None:
        assert_same((a @ b) @ c, a @ (b @ c))

    @given(poses)
    def test_identity_and_inverse(self, a: Pose) -> None:
        one = Pose.identity()
        assert_same(one @ a, a)
        assert_same(a @ one, a)
        assert_same(a @ a.inv, one)
        assert_same(a.inv @ a, one)
        assert_same(a.inv.inv, a)

    @given(poses, poses)
    def test_inverse_of_a_product(self, a: Pose, b: Pose) -> None:
        assert_same((a @ b).inv, b.inv @ a.inv)

    @given(poses, poses)
    def test_composition_is_the_product_of_matrices(self, a: Pose, b: Pose) -> None:
        assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-12)
        assert_allclose(a.inv.matrix, np.linalg.inv(a.matrix), atol=1e-12)

    @given(poses, poses, st.lists(vectors, min_size=1, max_size=4))
    def test_apply_is_the_matrix_on_homogeneous_points(
        self, c_from_b: Pose, b_from_a: Pose, points: list[Array]
    ) -> None:
        points_a = np.array(points)
        homogeneous = np.column_stack([points_a, np.ones(len(points_a))])
        assert_allclose(b_from_a.apply(points_a), (homogeneous @ b_from_a.matrix.T)[:, :3], atol=1e-12)
        assert_allclose((c_from_b @ b_from_a).apply(points_a), c_from_b.apply(b_from_a.apply(points_a)), atol=1e-12)
        assert_allclose(b_from_a.apply(points_a[0]), b_from_a.apply(points_a)[0], atol=1e-15)

    def test_apply_keeps_leading_axes(self) -> None:
        points = np.random.default_rng(0).normal(size=(2, 5, 3))
        pose = Pose.exp([0.1, 0.2, 0.3, 1, 2, 3])
        assert_allclose(pose.apply(points)[1, 4], pose.rotation @ points[1, 4] + pose.translation)


class TestTangent:
    @given(twists)
    def test_exp_is_the_matrix_exponential(self, twist: Array) -> None:
        generator = np.zeros((4, 4))
        generator[:3, :3], generator[:3, 3] = skew(twist[:3]), twist[3:]
        assert_allclose(Pose.exp(twist).matrix, expm(generator), rtol=0, atol=2e-11)

    @given(poses)
    def test_exp_undoes_log(self, pose: Pose) -> None:
        assert_same(Pose.exp(pose.log()), pose, 1e-10)
        assert np.linalg.norm(pose.log()[:3]) <= math.pi + 1e-12

    @given(twists.filter(lambda twist: float(np.linalg.norm(twist[:3])) < math.pi - 1e-3))
    def test_log_undoes_exp(self, twist: Array) -> None:
        assert_allclose(Pose.exp(twist).log(), twist, rtol=0, atol=1e-10)

    @given(st.builds(lambda d, v: np.concatenate([1e-7 * d, v]), directions, vectors))
    def test_a_ten_millionth_of_a_radian_is_resolved(self, twist: Array) -> None:
        assert_allclose(Pose.exp(twist).log()[:3], twist[:3], rtol=0, atol=1e-14)

    @given(poses, twists)
    def test_adjoint_moves_a_twist_across(self, pose: Pose, twist: Array) -> None:
        twist = 0.3 * twist
        assert_same(pose @ Pose.exp(twist), Pose.exp(pose.adjoint() @ twist) @ pose, 1e-9)

    @given(poses, poses)
    def test_adjoint_is_a_homomorphism(self, a: Pose, b: Pose) -> None:
        assert_allclose((a @ b).adjoint(), a.adjoint() @ b.adjoint(), atol=1e-10)

    @given(vectors, vectors)
    def test_skew_is_the_cross_product(self, a: Array, b: Array) -> None:
        assert_allclose(skew(a) @ b, np.cross(a, b), atol=1e-15)


class TestQuaternion:
    @given(poses)
    def test_agrees_with_scipy_and_w_is_not_negative(self, pose: Pose) -> None:
        quat_wxyz = pose.quat_wxyz
        assert quat_wxyz[0] >= 0
        assert_allclose(np.linalg.norm(quat_wxyz), 1.0, atol=1e-12)
        w, x, y, z = quat_wxyz
        assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), pose.rotation, atol=1e-12)
        assert_same(Pose.from_quat_wxyz(quat_wxyz, pose.translation), pose)

    @given(poses, st.sampled_from([-3.0, -1.0, 0.5, 2.013]))
    def test_sign_and_length_do_not_matter(self, pose: Pose, factor: float) -> None:
        assert_same(Pose.from_quat_wxyz(factor * pose.quat_wxyz, pose.translation), pose)

    def test_w_comes_first(self) -> None:
        quarter_turn_about_z = Pose.from_quat_wxyz([math.sqrt(0.5), 0, 0, math.sqrt(0.5)], [0, 0, 0])
        assert_allclose(quarter_turn_about_z.apply([1, 0, 0]), [0, 1, 0], atol=1e-15)

    @pytest.mark.parametrize(
        "bad", [[0, 0, 0, 0], [1, 0, 0], [math.nan, 0, 0, 1], [math.inf, 0, 0, 1], [1e300] * 4, "1"]
    )
    def test_what_is_no_rotation_is_refused(self, bad: object) -> None:
        with pytest.raises(ValueError):
            Pose.from_quat_wxyz(bad, [0, 0, 0])  # type: ignore[arg-type]


class TestError:
    @given(poses, st.builds(lambda d, a: d * a, directions, angles_rad), vectors)
    def test_the_full_angle_and_the_distance_of_the_centres(self, truth: Pose, turn: Array, shift: Array) -> None:
        off_from_cam = Pose(Rotation.from_rotvec(turn).as_matrix(), np.zeros(3))
        moved = Pose(truth.rotation, truth.translation + shift) @ off_from_cam
        error = pose_error(moved, truth)
        assert_allclose(error.angle_deg, math.degrees(float(np.linalg.norm(turn))), atol=1e-7)
        assert_allclose(error.distance, np.linalg.norm(shift), atol=1e-12)

    @given(poses, poses)
    def test_symmetric_and_blind_to_the_choice_of_world(self, a: Pose, b: Pose) -> None:
        other_from_world = Pose.exp([0.4, -1.0, 0.2, 3.0, 2.0, 1.0])
        for error in (pose_error(b, a), pose_error(other_from_world @ a, other_from_world @ b)):
            assert_allclose(error, pose_error(a, b), atol=1e-9)

    def test_not_half_the_angle(self) -> None:
        assert pose_error(Pose.exp([math.pi / 2, 0, 0, 0, 0, 0]), Pose.identity()).angle_deg == pytest.approx(90.0)

    @pytest.mark.parametrize("angle", [1e-9, 1e-7, 1e-4, math.pi - 1e-7])
    def test_resolved_where_acos_is_blind(self, angle: float) -> None:
        rotation = Rotation.from_rotvec([0, angle * 0.6, angle * 0.8]).as_matrix()
        assert_allclose(math.radians(rotation_angle_deg(rotation)), angle, rtol=1e-6)

    def test_no_answer_is_infinitely_far(self) -> None:
        assert pose_error(None, Pose.identity()) == PoseError(math.inf, 180.0)


class TestMean:
    @given(poses, twists.map(lambda twist: 0.4 * twist))
    def test_of_two_that_lie_opposite_is_between(self, middle: Pose, twist: Array) -> None:
        turn = Pose.exp([*twist[:3], 0, 0, 0])
        pair = [middle @ turn, middle @ turn.inv]
        assert_same(mean_pose(pair), middle, 1e-9)

    @given(st.lists(twists.map(lambda twist: 0.3 * twist), min_size=1, max_size=5), poses)
    def test_moves_with_the_world(self, steps: list[Array], other_from_world: Pose) -> None:
        some = [Pose.exp(step) for step in steps]
        assert_same(mean_pose([other_from_world @ pose for pose in some]), other_from_world @ mean_pose(some), 1e-9)

    def test_is_closest_in_the_chordal_sense_by_its_weights(self) -> None:
        some = [Pose.exp([0.5, 0, 0, 1, 0, 0]), Pose.exp([0, 1.5, 0, 0, 1, 0]), Pose.exp([0, 0, -1, 0, 0, 1])]
        weights = np.array([1.0, 2.0, 5.0])

        def cost(mean: Pose) -> float:
            return sum(
                w * float(((pose.rotation - mean.rotation) ** 2).sum()) for pose, w in zip(some, weights, strict=True)
            )

        mean = mean_pose(some, weights)
        assert_allclose(mean.translation, weights / 8)
        assert all(cost(mean @ Pose.exp(sign * 1e-3 * axis)) > cost(mean) for axis in np.eye(6)[:3] for sign in (-1, 1))
        assert_same(mean_pose([some[0], some[1]], [1, 0]), some[0])

    def test_is_not_defined_for_none_or_for_opposites(self) -> None:
        with pytest.raises(ValueError, match="no poses"):
            mean_pose([])
        half_turns = [Pose.exp([*(math.pi * axis), 0, 0, 0]) for axis in np.eye(3)]
        with pytest.raises(ValueError, match="too far apart"):
            mean_pose([Pose.identity(), *half_turns])


class TestMaking:
    def test_immutable_and_apart_from_what_it_was_made_of(self) -> None:
        rotation, translation = np.eye(3), np.zeros(3)
        pose = Pose(rotation, translation)
        rotation[0, 0] = translation[0] = 7.0
        assert pose == Pose.identity()
        with pytest.raises(ValueError, match="read-only"):
            pose.rotation[0, 0] = 2.0
        with pytest.raises(FrozenInstanceError):
            pose.translation = translation  # type: ignore[misc]

    def test_float64_whatever_comes_in(self) -> None:
        pose = Pose(np.eye(3, dtype=np.float32), np.arange(3))
        assert (pose.rotation.dtype, pose.translation.dtype) == (np.float64, np.float64)

    @given(poses)
    def test_matrix_round_trip(self, pose: Pose) -> None:
        assert Pose.from_matrix(pose.matrix) == Pose.from_matrix(pose.matrix[:3]) == pose
        assert copy.deepcopy(pose) == pose
        assert pose != Pose(pose.rotation, pose.translation + 1)
        assert (pose == "pose") is False

    @given(poses, st.integers(0, 99))
    def test_nearest_mends_rounding_and_is_closest(self, pose: Pose, seed: int) -> None:
        noisy = pose.matrix
        noisy[:3, :3] += np.random.default_rng(seed).normal(scale=1e-4, size=(3, 3))
        mended = Pose.nearest(noisy)
        assert_allclose(mended.rotation, pose.rotation, atol=1e-3)
        assert_allclose(mended.translation, pose.translation)
        off = np.linalg.norm(mended.rotation - noisy[:3, :3])
        for axis in np.eye(6)[:3]:
            beside = mended @ Pose.exp(1e-4 * axis)
            assert np.linalg.norm(beside.rotation - noisy[:3, :3]) > off

    @pytest.mark.parametrize(
        "bad", [np.zeros((3, 3)), np.diag([1.0, 1.0, -1.0]), 2 * np.eye(3), np.diag([1.0, 1.0, np.nan])]
    )
    def test_nearest_refuses_what_is_no_noisy_rotation(self, bad: Array) -> None:
        with pytest.raises(ValueError):
            Pose.nearest(np.column_stack([bad, np.zeros(3)]))

    @pytest.mark.parametrize(
        ("rotation", "translation"),
        [
            (np.eye(2), np.zeros(3)),
            (np.eye(3), np.zeros(2)),
            (np.eye(3), [0, np.nan, 0]),
            (np.full((3, 3), np.inf), np.zeros(3)),
            (np.eye(3) * 1.001, np.zeros(3)),
            (np.diag([1.0, 1.0, -1.0]), np.zeros(3)),
        ],
    )
    def test_what_is_no_rigid_motion_is_refused(self, rotation: Array, translation: Array) -> None:
        with pytest.raises(ValueError):
            Pose(rotation, translation)

    def test_matrix_of_another_shape_is_refused(self) -> None:
        for make in (Pose.from_matrix, Pose.nearest):
            with pytest.raises(ValueError, match=r"\(3, 4\) or \(4, 4\)"):
                make(np.eye(3))

    def test_repr_can_be_read(self) -> None:
        assert repr(Pose(np.eye(3), np.array([1.0, 2.0, 0.5]))) == "Pose(quat_wxyz=[1, 0, 0, 0], t=[1, 2, 0.5])"
