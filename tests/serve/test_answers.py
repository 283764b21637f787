"""The covariance of ROS is that of samples."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from placecell.estimate import Estimate
from placecell.pose import Pose
from placecell.serve.answers import ros_covariance, ros_of


def test_the_covariance_is_about_the_fixed_axes_of_the_world() -> None:
    pose = Pose.exp([0.4, -1.0, 0.3, 1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6)) * 0.004
    ours = root @ root.T
    samples = []
    for xi in rng.multivariate_normal(np.zeros(6), ours, 5_000):
        moved = pose @ Pose.exp(xi)
        turn = Rotation.from_matrix(moved.rotation @ pose.rotation.T).as_rotvec()
        samples.append([*(moved.translation - pose.translation), *turn])
    expected = np.cov(np.array(samples).T)
    np.testing.assert_allclose(ros_covariance(ours, pose.rotation), expected, atol=0.08 * np.abs(expected).max())


def test_a_message_is_stamped_and_says_when_it_knows_no_covariance() -> None:
    message = ros_of(Estimate("a", Pose.exp([0, 0, 0.5, 1, 2, 3])), "kitchen", stamp_s=12.25)
    assert message["header"] == {"stamp": {"sec": 12, "nanosec": 250_000_000}, "frame_id": "kitchen"}
    assert message["pose"]["covariance"] == [-1.0] + [0.0] * 35
    turn = message["pose"]["pose"]["orientation"]
    np.testing.assert_allclose([turn["w"], turn["z"]], [np.cos(0.25), np.sin(0.25)])
