from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from placecell.camera import Camera
from placecell.errors import FormatError
from placecell.estimate import (
    Estimate,
    Query,
    Radii,
    dump_predictions,
    estimate_from_json,
    estimate_to_json,
    read_predictions,
)
from placecell.pose import Pose

POSE = Pose.exp([0.1, -0.2, 0.3, 1.0, 2.0, -3.0])
CAMERA = Camera.from_focal(64, 48, 50.0)


def covariance(seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(6, 6))
    return root @ root.T


def answers() -> list[Estimate]:
    return [
        Estimate("Küche/1.jpg", POSE, covariance(), confidence=0.75, inliers=120, seconds=0.08, matches=300),
        Estimate.refusal("Küche/2.jpg", "image is blank", 0.01),
        Estimate("line\u2028sep\u0085.jpg", Pose.identity()),
        Estimate(
            "calibrated.jpg",
            POSE,
            covariance(1),
            radii=Radii(0.9, 0.03, 1.5),
            familiarity=0.25,
            map="kitchen.map",
            also=("office.map", "hall.map"),
        ),
        replace(Estimate.refusal("elsewhere.jpg", "no map knows this place"), confidence=0.0, familiarity=0.0),
    ]


def assert_same(a: Estimate, b: Estimate) -> None:
    for key in ("name", "confidence", "inliers", "reason", "seconds", "radii", "familiarity", "map", "also", "matches"):
        assert getattr(a, key) == getattr(b, key), key
    assert (a.world_from_cam is None) == (b.world_from_cam is None)
    if a.world_from_cam is not None and b.world_from_cam is not None:
        assert_allclose(a.world_from_cam.matrix, b.world_from_cam.matrix, atol=1e-14)
    assert (a.covariance is None) == (b.covariance is None)
    if a.covariance is not None and b.covariance is not None:
        assert_array_equal(a.covariance, b.covariance)


class TestPredictions:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "predictions.jsonl"
        path.write_text(dump_predictions(answers()), encoding="utf-8")
        for mine, theirs in zip(read_predictions(path), answers(), strict=True):
            assert_same(mine, theirs)

    def test_no_answers(self, tmp_path: Path) -> None:
        (tmp_path / "p").write_text(dump_predictions([]))
        assert read_predictions(tmp_path / "p") == read_predictions(tmp_path / "p", allow_partial_last=True) == []

    @given(st.integers(0, 1000))
    def test_the_covariance_comes_back_symmetric(self, seed: int) -> None:
        row = json.loads(json.dumps(estimate_to_json(Estimate("a", POSE, covariance(seed)))))
        assert len(row["covariance"]) == 21
        again = estimate_from_json(row).covariance
        assert again is not None
        assert_array_equal(again, again.T)
        assert_allclose(again, covariance(seed), rtol=1e-12)

    def test_the_upper_triangle_is_written_row_by_row(self) -> None:
        matrix = np.add.outer(np.arange(6.0), np.arange(6.0)) + 10 * np.eye(6)
        row = estimate_to_json(Estimate("a", POSE, matrix))
        assert row["covariance"][:7] == [10, 1, 2, 3, 4, 5, 12]

    def test_numpy_scalars_are_written_as_numbers(self) -> None:
        answer = replace(
            answers()[0],
            inliers=np.int64(5),
            matches=np.int32(9),
            confidence=np.float32(0.5),
            seconds=np.float64(0.25),
        )
        row = json.loads(dump_predictions([answer]))
        assert (row["inliers"], row["matches"], row["confidence"], row["seconds"]) == (5, 9, 0.5, 0.25)

    def test_every_cut_is_told_or_dropped_when_asked(self, tmp_path: Path) -> None:
        """A kill may fall anywhere, in the middle of a letter too; what is read is always whole answers."""
        path = tmp_path / "predictions.jsonl"
        whole = dump_predictions(answers()).encode()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            complete = whole[:length].count(b"\n")
            found = read_predictions(path, allow_partial_last=True)
            assert [answer.name for answer in found] == [answer.name for answer in answers()[:complete]]
            if (
                complete < 3
                and b'"t"' not in whole[:length].split(b"\n")[-1]
                and whole[:length][-1:] not in (b"\n", b"")
            ):
                with pytest.raises(FormatError, match=rf"jsonl:{complete + 1}: not a prediction"):
                    read_predictions(path)

    @pytest.mark.parametrize(
        "line",
        [
            "{",
            "[1]",
            "5",
            "null",
            '"x"',
            "{}",
            '{"name": 5, "quat_wxyz": null, "t": null, "reason": "r"}',
            '{"name": "a", "quat_wxyz": null, "t": null}',
            '{"name": "a", "quat_wxyz": [1, 0, 0, 0], "t": [0, 0, 0], "reason": "both"}',
            '{"name": "a", "quat_wxyz": [1, 0, 0, 0], "t": [0, NaN, 0]}',
            '{"name": "a", "quat_wxyz": [0, 0, 0, 0], "t": [0, 0, 0]}',
            '{"name": "a", "quat_wxyz": [1, 0, 0, 0], "t": [0, 0, 0], "covariance": [1, 2]}',
            '{"name": "a", "quat_wxyz": [1, 0, 0, 0], "t": [0, 0, 0], "covariance": {}}',
            '{"name": "a", "quat_wxyz": [1, 0, 0, 0], "t": [0, 0, 0], "radii": {"coverage": 0.9}}',
            '{"name": "a", "quat_wxyz": [1, 0, 0, 0], "t": [0, 0, 0], "radii": [0.9, 1, 2]}',
            '{"name": "a", "quat_wxyz": [1, 0, 0, 0], "t": [0, 0, 0], "also": 5}',
        ],
    )
    @pytest.mark.parametrize("partial", [False, True])
    def test_a_damaged_line_is_named(self, tmp_path: Path, line: str, partial: bool) -> None:
        path = tmp_path / "predictions.jsonl"
        first = dump_predictions(answers()[:1])
        path.write_text(f"{first}\n{line}\n", encoding="utf-8")
        with pytest.raises(FormatError, match="run localize again") as caught:
            read_predictions(path, allow_partial_last=partial)
        assert str(caught.value).startswith(f"{path}:3: ")
        assert "\n" not in str(caught.value)

    def test_an_answer_given_twice_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "predictions.jsonl"
        path.write_text(dump_predictions([*answers(), answers()[1]]), encoding="utf-8")
        with pytest.raises(FormatError, match=r"jsonl:6: Küche/2\.jpg is answered twice"):
            read_predictions(path)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match=r"p: not readable \(No such file or directory\)"):
            read_predictions(tmp_path / "p")


class TestEstimate:
    def test_either_a_pose_or_a_reason(self) -> None:
        with pytest.raises(ValueError, match="either a pose or a reason"):
            Estimate("a", None)
        with pytest.raises(ValueError, match="either a pose or a reason"):
            Estimate("a", POSE, reason="blank")
        refusal = Estimate.refusal("a", "blank", 0.5)
        assert (refusal.world_from_cam, refusal.reason, refusal.seconds) == (None, "blank", 0.5)

    @pytest.mark.parametrize("bad", [np.eye(3), np.full((6, 6), np.nan), np.triu(np.ones((6, 6)))])
    def test_what_is_no_covariance_is_refused(self, bad: np.ndarray) -> None:
        with pytest.raises(ValueError, match="symmetric"):
            Estimate("a", POSE, bad)


def picture(height: int = 48, width: int = 64) -> Any:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)


class TestDefect:
    def test_a_picture_without_one(self) -> None:
        assert Query("a", picture(), CAMERA).defect is None
        assert Query("a", picture(), CAMERA, np.ones((48, 64), np.float32)).defect is None

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            (Query("a", picture()[..., 0], CAMERA), "not uint8 (H, W, 3)"),
            (Query("a", picture().astype(np.float32), CAMERA), "image is float32"),
            (Query("a", np.dstack([picture(), picture()[..., :1]]), CAMERA), "(48, 64, 4)"),
            (Query("a", picture(64, 48), CAMERA), "camera is for 64x48 px, the image has 48x64"),
            (Query("a", picture(8, 8), Camera.from_focal(8, 8, 9)), "too small"),
            (Query("a", picture() * 0, CAMERA), "blank"),
            (Query("a", picture() * 0 + 255, CAMERA), "blank"),
            (Query("a", picture(), CAMERA, np.ones((24, 32), np.float32)), "depth is (24, 32)"),
        ],
    )
    def test_is_told(self, query: Query, said: str) -> None:
        assert query.defect is not None
        assert said in query.defect
