"""The list format that PoseNet and Cambridge Landmarks share, before anyone says what its quaternions mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from placecell.datasets.rows import Row, lines, rows
from placecell.errors import FormatError
from placecell.pose import Array

HEADER = "Visual Landmark Dataset"


@dataclass(frozen=True, eq=False)
class ListedPose:
    """A line of a PoseNet list: what `centre` and the quaternion mean depends on who wrote it."""

    row: Row
    name: str
    centre: Array
    quat_wxyz: Array


def read_posenet_list(path: Path) -> list[ListedPose]:
    """The lines `path X Y Z W P Q R` below three lines of header.

    Raises:
        FormatError: the header is another one, or a row is damaged.
    """
    if not lines(path)[0].startswith(HEADER):
        raise FormatError(f"{path}:1: a list begins with {HEADER!r}")
    return [
        ListedPose(
            row,
            row.text(0, "the picture").lstrip("/"),
            row.numbers(1, 3, "the camera centre"),
            row.numbers(4, 4, "the quaternion"),
        )
        for row in rows(path, skip=3)
    ]
