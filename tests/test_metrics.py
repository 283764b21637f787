import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from placecell.errors import SceneError
from placecell.estimate import Estimate
from placecell.metrics import NEES_50, NEES_95, evaluate, nees, percent, summary, table
from placecell.metrics_file import evaluation_from_json, evaluation_to_json
from placecell.pose import Pose, PoseError


def off_by(distance: float, angle_deg: float) -> Pose:
    """A pose that far and that much turned away from the identity."""
    return Pose(Pose.exp([0, 0, np.radians(angle_deg), 0, 0, 0]).rotation, [0, distance, 0])


def answers(*errors: tuple[float, float] | None) -> tuple[list[Estimate], dict[str, Pose]]:
    """Estimates with the given errors, refusals for None, and the truths: all cameras at the origin."""
    estimates = [
        Estimate.refusal(f"f{i}", "blank") if error is None else Estimate(f"f{i}", off_by(*error))
        for i, error in enumerate(errors)
    ]
    return estimates, {f"f{i}": Pose.identity() for i in range(len(errors))}


def random_poses(count: int, seed: int) -> dict[str, Pose]:
    draw = np.random.default_rng(seed)
    return {f"f{i}": Pose.exp(draw.normal(size=6)) for i in range(count)}


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    found = evaluate(*answers((0.01, 1), (0.02, 2), (0.04, 3), (9.0, 90))).overall
    assert found.median_distance == pytest.approx(0.03)
    assert found.median_angle_deg == pytest.approx(2.5)


@pytest.mark.parametrize("answered, expected", [(3, 0.3), (2, np.inf), (1, np.inf)])
def test_a_refused_frame_counts_as_infinitely_far(answered: int, expected: float) -> None:
    found = evaluate(*answers(*[(0.1 * (i + 1), 1.0) for i in range(answered)], *[None] * (4 - answered)))
    median = found.overall.median_distance
    assert found.overall.frames == 4 and found.overall.answered == answered
    assert (median == expected) if np.isinf(expected) else (0.2 < median <= expected)


def test_a_missing_frame_counts_as_a_refused_one() -> None:
    estimates, truths = answers((0.01, 1), None, (0.03, 1), None, (0.02, 1))
    said, silent = evaluate(estimates, truths), evaluate([e for e in estimates if e.reason is None], truths)
    assert said == silent
    assert said.errors["f1"] == PoseError(float("inf"), 180.0)
    assert said.overall.median_angle_deg == pytest.approx(1.0)


def test_recall_asks_for_both_and_strictly() -> None:
    frames = [PoseError(0.05, 1.0), PoseError(0.049, 5.0), PoseError(0.049, 4.9), PoseError(0.001, 20.0)]
    recalls = summary(frames).recalls
    assert recalls["5cm/5deg"] == 0.25
    assert recalls["2cm/2deg"] == 0.0
    assert recalls["10cm/5deg"] == recalls["50cm/5deg"] == recalls["2m/5deg"] == 0.5
    assert recalls["25cm/2deg"] == 0.25
    assert recalls["5m/10deg"] == 0.75


def test_recalls_are_of_all_frames_not_of_the_answered() -> None:
    assert evaluate(*answers((0.001, 0.1), None, None, None)).overall.recalls["1cm/1deg"] == 0.25


def test_angles_are_full_angles() -> None:
    assert evaluate(*answers((0.0, 10.0))).overall.median_angle_deg == pytest.approx(10.0)


def test_the_error_is_between_camera_centres() -> None:
    centre = np.array([3.0, -2.0, 5.0])
    turned = off_by(0, 170.0).rotation
    found = evaluate([Estimate("f", Pose(turned, centre))], {"f": Pose(np.eye(3), centre)})
    assert found.overall.median_distance == pytest.approx(0.0, abs=1e-12)
    assert found.overall.median_angle_deg == pytest.approx(170.0)


@given(seed=st.integers(0, 10_000))
def test_moving_the_world_changes_no_figure(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truths = random_poses(7, seed)
    estimates = {name: truth @ Pose.exp(draw.normal(size=6) * 0.1) for name, truth in truths.items()}
    new_from_world = Pose.exp(draw.normal(size=6))
    cov = np.diag(draw.uniform(0.001, 0.1, 6))
    here = evaluate([Estimate(n, p, cov) for n, p in estimates.items()], truths)
    there = evaluate(
        [Estimate(n, new_from_world @ p, cov) for n, p in estimates.items()],
        {n: new_from_world @ p for n, p in truths.items()},
    )
    assert there.overall.median_distance == pytest.approx(here.overall.median_distance)
    assert there.overall.median_angle_deg == pytest.approx(here.overall.median_angle_deg)
    assert here.nees is not None and there.nees is not None
    assert there.nees.mean == pytest.approx(here.nees.mean)


def test_without_metric_scale_there_are_no_thresholds_in_metres() -> None:
    found = evaluate(*answers((0.01, 1), None), unit="units")
    assert not found.overall.recalls and "joint" not in found.curves
    assert "no metric scale" in table({"x": found}) and "cm" not in table({"x": found})


def test_curves_are_exact_shares_of_all_frames() -> None:
    draw = np.random.default_rng(1)
    errors = [(float(d), float(a)) for d, a in zip(draw.gamma(1, 0.1, 900), draw.gamma(1, 3, 900), strict=True)]
    found = evaluate(*answers(*errors, *[None] * 100))
    joint = found.curves["joint"]
    assert len(joint.errors) == 200
    expected = [np.mean([max(100 * d, a) <= x + 1e-9 for d, a in errors]) * 0.9 for x in joint.errors]
    assert np.allclose(joint.shares, expected)
    assert found.curves["distance"].shares[-1] == found.curves["angle_deg"].shares[-1] == 0.9
    at_five = np.interp(5.0, joint.errors, joint.shares)
    assert at_five == pytest.approx(found.overall.recalls["5cm/5deg"], abs=0.01)


def test_sequences_have_rows_of_their_own() -> None:
    estimates, truths = answers((0.01, 1), (0.03, 1), (0.5, 10), None)
    found = evaluate(estimates, truths, {"f0": "a", "f1": "a", "f2": "b", "f3": "b"})
    assert list(found.sequences) == ["a", "b"]
    assert found.sequences["a"].median_distance == pytest.approx(0.02)
    assert (found.sequences["b"].frames, found.sequences["b"].answered) == (2, 1)
    assert found.sequences["b"].median_distance == float("inf")


def test_the_mean_is_of_the_answered() -> None:
    found = evaluate(*answers((0.01, 1), (0.03, 3), None))
    assert found.mean_distance == pytest.approx(0.02) and found.mean_angle_deg == pytest.approx(2.0)
    nothing = evaluate(*answers(None, None))
    assert nothing.mean_distance is None and nothing.curves["distance"].errors == ()
    assert nothing.overall.median_distance == float("inf") and nothing.overall.median_angle_deg == 180.0


def test_seconds() -> None:
    truths = random_poses(101, 0)
    estimates = [Estimate(name, pose, seconds=i / 100) for i, (name, pose) in enumerate(truths.items())]
    found = evaluate(estimates, truths)
    assert (found.seconds_median, found.seconds_p95) == (pytest.approx(0.5), pytest.approx(0.95))


def test_chi_squared_quantiles() -> None:
    assert chi2.ppf((0.5, 0.95), 6) == pytest.approx((NEES_50, NEES_95))


def test_nees_of_an_honest_covariance() -> None:
    draw = np.random.default_rng(3)
    root = draw.normal(size=(6, 6)) * np.array([0.01] * 3 + [0.1] * 3)[:, None]
    truths = random_poses(3000, 4)
    # truth = estimate @ exp(e), so estimate = truth @ exp(-e)
    estimates = [
        Estimate(name, truth @ Pose.exp(-(root @ draw.normal(size=6))), root @ root.T) for name, truth in truths.items()
    ]
    found = evaluate(estimates, truths).nees
    assert found is not None and found.frames == 3000
    assert found.mean == pytest.approx(6.0, abs=0.25)
    assert found.median == pytest.approx(NEES_50, abs=0.25)
    assert found.within_50 == pytest.approx(0.5, abs=0.04) and found.within_95 == pytest.approx(0.95, abs=0.015)


def test_nees_is_in_camera_axes_and_rotation_first() -> None:
    world_from_cam = Pose.exp([0.0, np.pi / 2, 0.0, 1.0, 2.0, 3.0])
    along_x_cam = Estimate("f", world_from_cam, np.diag([1, 1, 1, 0.01, 1, 1]))
    assert nees(along_x_cam, world_from_cam @ Pose.exp([0, 0, 0, 0.2, 0, 0])) == pytest.approx(0.2**2 / 0.01)
    turned = Estimate("f", world_from_cam, np.diag([1, 0.04, 1, 1, 1, 1]))
    assert nees(turned, world_from_cam @ Pose.exp([0, 0.1, 0, 0, 0, 0])) == pytest.approx(0.1**2 / 0.04)


def test_nees_of_a_broken_covariance_is_infinite() -> None:
    assert nees(Estimate("f", Pose.identity(), np.zeros((6, 6))), off_by(0.1, 1)) == float("inf")
    with pytest.raises(ValueError, match="f has no covariance"):
        nees(Estimate("f", Pose.identity()), Pose.identity())


def test_answers_of_another_scene_are_refused() -> None:
    estimates, truths = answers((0.1, 1))
    with pytest.raises(SceneError, match=r"other\.jpg is answered but is no labelled frame"):
        evaluate([*estimates, Estimate("other.jpg", Pose.identity())], truths)
    with pytest.raises(SceneError, match="f0 is answered 2 times"):
        evaluate([*estimates, *estimates], truths)
    with pytest.raises(SceneError, match="no frame with a known pose"):
        evaluate([], {})


def test_the_table_lines_up_and_names_its_ground_truth() -> None:
    estimates, truths = answers((0.0123, 1.5), None, (0.0123, 1.5))
    rows = {"structure": evaluate(estimates, truths, scene="kitchen", labels="sfm")}
    rows["constant"] = evaluate([], truths, scene="kitchen", labels="sfm")
    title, *lines = table(rows).split("\n")
    assert "kitchen, ground truth sfm" in title
    assert lines[2].split()[:5] == ["structure", "3", "2", "1.23", "1.50"]
    assert lines[3].split()[:5] == ["constant", "3", "0", "inf", "180.00"]
    assert len(lines[2]) == len(lines[3]) == len(lines[1]) <= 100
    other = evaluate(estimates, truths, scene="kitchen", labels="kinectfusion")
    with pytest.raises(SceneError, match="2 scenes or ground truths"):
        table({**rows, "wrong": other})


def test_per_cents_round_halves_up() -> None:
    assert (percent(1987 / 2000), percent(0.0), percent(1.0)) == ("99.4", "0.0", "100.0")
    assert [percent(n / 2000) for n in (1, 3, 5)] == ["0.1", "0.2", "0.3"]


def test_round_trip_through_json_keeps_every_figure() -> None:
    draw = np.random.default_rng(5)
    truths = random_poses(20, 6)
    estimates = [
        Estimate(name, truth @ Pose.exp(draw.normal(size=6) * 0.01), np.eye(6) * 1e-4, seconds=0.1)
        for name, truth in list(truths.items())[:9]
    ]
    found = evaluate(estimates, truths, dict.fromkeys(truths, "seq"), scene="s", labels="sfm")
    assert found.overall.median_distance == float("inf")
    text = json.dumps(evaluation_to_json(found), allow_nan=False)
    assert evaluation_from_json(json.loads(text)) == found
