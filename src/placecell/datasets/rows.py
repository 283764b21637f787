"""Text tables of numbers: lines in, checked numbers and poses out, and errors that name file and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from placecell.errors import FormatError
from placecell.pose import Array, Pose

_ROTATION_TOLERANCE = 0.02
_SILENT_NORM = 2e-3  # what six printed digits, or float32, can do to a unit quaternion and a bit more


@dataclass(frozen=True)
class Row:
    """One line of a table, split into its columns."""

    path: Path
    number: int
    """Line in the file, from 1."""
    fields: tuple[str, ...]

    def error(self, why: str) -> FormatError:
        """A `FormatError` that points at this line."""
        return FormatError(f"{self.path}:{self.number}: {why}")

    def text(self, column: int, what: str) -> str:
        """The text of a column, counted from 0.

        Raises:
            FormatError: the line is too short.
        """
        if column >= len(self.fields):
            raise self.error(f"no {what}: it is column {column + 1}, the line has {len(self.fields)}")
        return self.fields[column]

    def numbers(self, start: int, count: int, what: str) -> Array:
        """`count` finite numbers from column `start` (from 0) on.

        Raises:
            FormatError: columns are missing, not numbers, NaN or infinite.
        """
        texts = self.fields[start : start + count]
        if len(texts) < count:
            raise self.error(f"{what} needs columns {start + 1} to {start + count}, the line has {len(self.fields)}")
        try:
            values = np.array([float(text) for text in texts])
        except ValueError as error:
            raise self.error(f"{what} is not made of numbers: {' '.join(texts)}") from error
        if not np.isfinite(values).all():
            raise self.error(f"{what} is not finite: {' '.join(texts)}; delete the line or label the picture again")
        return values

    def number_at(self, column: int, what: str) -> float:
        """One finite number."""
        return float(self.numbers(column, 1, what)[0])

    def integer(self, column: int, what: str) -> int:
        """One whole number."""
        value = self.number_at(column, what)
        if value != int(value):
            raise self.error(f"{what} is not a whole number: {value}")
        return int(value)


def lines(path: Path) -> list[str]:
    """The lines of a text file, without line ends (Unix or Windows) and byte order mark.

    Raises:
        FormatError: the file is missing or not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise FormatError(f"{path}: not readable ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file in UTF-8 ({error.reason})") from error


def rows(path: Path, *, skip: int = 0, separator: str | None = None) -> list[Row]:
    """The table in a text file: its lines but the first `skip`, blank ones and those that begin with #.

    Args:
        separator: what stands between columns; white space by default.
    """
    found = []
    for number, line in enumerate(lines(path), start=1):
        if number <= skip or not line.strip() or line.lstrip().startswith("#"):
            continue
        found.append(Row(path, number, tuple(item.strip() for item in line.split(separator))))
    return found


@dataclass
class Quaternions:
    """Makes poses of the quaternions of one file, and remembers which were not of unit length.

    A length within `tolerance` of 1 is normalised and told in `notes`; beyond it the row is an error, since then the
    numbers are hardly a quaternion: columns are swapped or missing.
    """

    source: str
    tolerance: float = 0.05
    off: list[tuple[float, int]] = field(default_factory=list)

    def pose(self, row: Row, quat_wxyz: ArrayLike, translation: ArrayLike) -> Pose:
        """The pose of a row.

        Raises:
            FormatError: the quaternion is too far from unit length.
        """
        norm = float(np.linalg.norm(np.asarray(quat_wxyz, dtype=np.float64)))
        if norm < 1e-6 or abs(norm - 1.0) > self.tolerance:
            raise row.error(f"not a rotation quaternion, its length is {norm:.3g}; are the columns in order?")
        if abs(norm - 1.0) > _SILENT_NORM:
            self.off.append((norm, row.number))
        return Pose.from_quat_wxyz(quat_wxyz, translation)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line saying how many were normalised and the worst, or nothing."""
        if not self.off:
            return ()
        norm, line = max(self.off, key=lambda item: abs(item[0] - 1.0))
        what = f"{len(self.off)} quaternions not of unit length normalised"
        return (f"{self.source}: {what}, worst {norm:.3f} in line {line}",)


def rigid(matrix: ArrayLike, where: str) -> Pose:
    """The pose of a (3, 4) or (4, 4) matrix read from a file, freed of rounding noise.

    Raises:
        FormatError: not finite, not a rotation, or a mirror; the text begins with `where`.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape not in ((3, 4), (4, 4)):
        raise FormatError(f"{where}: a pose is a 3x4 or 4x4 matrix, not {'x'.join(map(str, values.shape))}")
    if not np.isfinite(values).all():
        raise FormatError(f"{where}: the pose is not finite; delete it or label the picture again")
    rotation = values[:3, :3]
    drift = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if drift > _ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        what = "mirrors the world" if drift <= _ROTATION_TOLERANCE else f"is off a rotation by {drift:.2g}"
        raise FormatError(f"{where}: the matrix {what}; a scale or an axis flip has to be taken out first")
    return Pose.nearest(values)


def pose_file(path: Path) -> Pose:
    """The pose of a text file with a 3x4 or 4x4 matrix.

    Raises:
        FormatError: a row is damaged (the text names it), or it is not a rigid motion.
    """
    table = rows(path)
    if len(table) not in (3, 4):
        raise FormatError(f"{path}: a pose has 3 or 4 rows, this file {len(table)}")
    return rigid([row.numbers(0, 4, "a row of the pose") for row in table], str(path))


def nearest(times_s: Sequence[float], time_s: float, max_gap_s: float) -> int | None:
    """Index of the sorted times nearest to `time_s`, or None when it is further than `max_gap_s`."""
    after = int(np.searchsorted(times_s, time_s))
    around = [index for index in (after - 1, after) if 0 <= index < len(times_s)]
    best = min(around, key=lambda index: abs(times_s[index] - time_s), default=None)
    return None if best is None or abs(times_s[best] - time_s) > max_gap_s else best
