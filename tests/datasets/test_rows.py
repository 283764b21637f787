from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.datasets.rows import Quaternions, lines, nearest, pose_file, rigid, rows
from placecell.errors import FormatError

from .known import WORLD_FROM_CAM_MATRIX


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table.txt"


def test_windows_line_ends_and_byte_order_mark_are_accepted(table: Path) -> None:
    table.write_bytes(b"\xef\xbb\xbfa 1\r\n\r\n# remark\r\nb 2\r\n")
    assert [(row.number, row.fields) for row in rows(table)] == [(1, ("a", "1")), (4, ("b", "2"))]


def test_columns_between_commas_may_be_empty(table: Path) -> None:
    table.write_text("a, , 3\n")
    assert rows(table, separator=",")[0].fields == ("a", "", "3")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x 1 2", "needs columns 2 to 4, the line has 3"),
        ("x 1 2 nan", "not finite: 1 2 nan"),
        ("x 1 -inf 3", "not finite"),
        ("x 1 2 three", "not made of numbers"),
    ],
)
def test_a_bad_number_is_named_with_file_and_line(table: Path, line: str, why: str) -> None:
    table.write_text(f"# header\n{line}\n")
    with pytest.raises(FormatError, match=why) as caught:
        rows(table)[0].numbers(1, 3, "the position")
    assert str(caught.value).startswith(f"{table}:2: the position")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_not_text(table: Path) -> None:
    with pytest.raises(FormatError, match="not readable"):
        lines(table)
    table.write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(FormatError, match="not a text file"):
        lines(table)


def test_whole_numbers(table: Path) -> None:
    table.write_text("7.0 7.5\n")
    row = rows(table)[0]
    assert row.integer(0, "a count") == 7
    with pytest.raises(FormatError, match="not a whole number"):
        row.integer(1, "a count")


def test_quaternions_a_few_percent_off_are_normalised_and_noted(table: Path) -> None:
    table.write_text("1 0 0 0\n1.0005 0 0 0\n0 1.02 0 0\n0 0 0.97 0\n")
    quaternions = Quaternions("table.txt")
    found = [quaternions.pose(row, row.numbers(0, 4, "q"), np.zeros(3)) for row in rows(table)]
    np.testing.assert_allclose(found[2].rotation, np.diag([1, -1, -1]), atol=1e-12)
    assert quaternions.notes == ("table.txt: 2 quaternions not of unit length normalised, worst 0.970 in line 4",)


@pytest.mark.parametrize("text", ["1.2 0 0 0", "0 0 0 0", "0.5 0 0 0"])
def test_quaternions_beyond_the_tolerance_are_errors(table: Path, text: str) -> None:
    table.write_text(text)
    row = rows(table)[0]
    with pytest.raises(FormatError, match=r"table\.txt:1: not a rotation quaternion"):
        Quaternions("table.txt").pose(row, row.numbers(0, 4, "q"), np.zeros(3))


def test_pose_file_reads_three_or_four_rows(table: Path) -> None:
    table.write_text(WORLD_FROM_CAM_MATRIX)
    whole = pose_file(table)
    np.testing.assert_array_equal(whole.matrix, np.loadtxt(table))
    table.write_text("".join(WORLD_FROM_CAM_MATRIX.splitlines(keepends=True)[:3]))
    assert pose_file(table) == whole
    table.write_text("1 0 0 0\n")
    with pytest.raises(FormatError, match="3 or 4 rows, this file 1"):
        pose_file(table)


def test_rigid_frees_of_rounding_but_takes_no_scale_and_no_mirror() -> None:
    rough = np.eye(4) + np.pad(np.full((3, 3), 1e-4), (0, 1))
    np.testing.assert_allclose(rigid(rough, "here").rotation, np.eye(3), atol=5e-4)
    with pytest.raises(FormatError, match="here: the matrix is off a rotation by 3"):
        rigid(np.diag([2.0, 2, 2, 1]), "here")
    with pytest.raises(FormatError, match="here: the matrix mirrors"):
        rigid(np.diag([1.0, 1, -1, 1]), "here")
    with pytest.raises(FormatError, match="here: the pose is not finite"):
        rigid(np.full((3, 4), np.nan), "here")


def test_nearest_in_time() -> None:
    times = [0.0, 1.0, 2.0]
    assert [nearest(times, t, 0.4) for t in (-0.3, 0.39, 0.5, 0.61, 2.4, 2.5)] == [0, 0, None, 1, 2, None]
    assert nearest([], 1.0, 9.0) is None
