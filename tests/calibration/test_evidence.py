"""What speaks for an answer, in spreads of what is usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calibration.made import answers
from placecell.calibration.evidence import KINDS, fit_scale, raw_evidence
from placecell.estimate import Estimate
from placecell.pose import Pose

ESTIMATES = [item.estimate for item in answers(200)]


def test_usual_answers_are_at_zero_one_spread_wide() -> None:
    raw = raw_evidence(ESTIMATES)
    scale = fit_scale(raw)
    assert scale.kinds == ("distance", "angle", "inliers")
    found = scale.evidence(raw)
    np.testing.assert_allclose(np.median(found, axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(1.4826 * np.median(np.abs(found), axis=0), 1, rtol=1e-6)


def test_surer_is_more() -> None:
    pose, wide = Pose.identity(), np.diag([1e-4] * 3 + [1e-2] * 3)
    turned = np.diag([1e-2] * 3 + [1e-2] * 3)
    moved = np.diag([1e-4] * 3 + [1.0] * 3)
    scale = fit_scale(raw_evidence(ESTIMATES))
    rows = scale.evidence(
        raw_evidence(
            [
                Estimate("sure", pose, wide, inliers=40),
                Estimate("turned", pose, turned, inliers=40),
                Estimate("moved", pose, moved, inliers=40),
                Estimate("few", pose, wide, inliers=10),
            ]
        )
    )
    sure, others = rows[0], rows[1:]
    assert [(sure - other > 1e-6).tolist() for other in others] == [
        [False, True, False],
        [True, False, False],
        [False, False, True],
    ]


def test_what_is_missing_is_the_worst() -> None:
    scale = fit_scale(raw_evidence(ESTIMATES))
    found = scale.evidence(raw_evidence([Estimate("bare", Pose.identity())]))
    assert (found == scale.evidence(np.full((1, 5), -1e9))).all() and (found < -10).all()


def test_kinds_that_say_nothing_are_left_out() -> None:
    raw = raw_evidence(ESTIMATES, np.linspace(0, 1, 200))
    raw[:, 2] = 3.0
    raw[:101, 1] = np.nan
    assert fit_scale(raw).kinds == ("distance", "features")


def test_the_share_that_agrees_is_shrunk_to_one_half() -> None:
    pose = Pose.identity()
    told = [(3, 4), (300, 400), (0, 0), (7, None), (None, None)]
    found = raw_evidence([Estimate("a", pose, inliers=inliers, matches=matches) for inliers, matches in told])
    np.testing.assert_allclose(np.exp(found[:, KINDS.index("ratio")]), [4 / 6, 301 / 402, 1 / 2, np.nan, np.nan])


def of_all(matches: Sequence[int]) -> list[Estimate]:
    return [replace(e, matches=(e.inliers or 0) + more) for e, more in zip(ESTIMATES, matches, strict=True)]


def test_a_share_tells_apart_what_the_number_does_not() -> None:
    scale = fit_scale(raw_evidence(of_all(np.random.default_rng(0).integers(1, 500, 200).tolist())))
    assert scale.kinds == ("distance", "angle", "inliers", "ratio")
    few, many = (Estimate("a", Pose.identity(), inliers=50, matches=matches) for matches in (60, 600))
    better, worse = scale.evidence(raw_evidence([few, many]))
    assert better[2] == worse[2] and better[3] > worse[3]


def test_a_share_that_is_the_number_again_is_left_out() -> None:
    """As of maps that ask equally many cells of each picture: it would count twice."""
    most = max(e.inliers or 0 for e in ESTIMATES)
    raw = raw_evidence(of_all([most - (e.inliers or 0) for e in ESTIMATES]))
    assert np.isfinite(raw[:, KINDS.index("ratio")]).all()
    assert fit_scale(raw).kinds == ("distance", "angle", "inliers")
