"""Pose lists as ACE, DSAC* and the pseudo ground truth of 7-Scenes write them: a line a frame, cam_from_world."""

from __future__ import annotations

from pathlib import Path

from placecell.errors import FormatError
from placecell.pose import Pose


def read_pose_list(path: Path) -> dict[str, Pose]:
    """`world_from_cam` by file name from lines `file qw qx qy qz tx ty tz [more]`, which hold cam_from_world.

    Whatever follows the translation (a focal length, errors, a confidence) is not read. Blank lines and lines that
    begin with # are skipped. Quaternions are normalised.

    Raises:
        FormatError: the file is missing, or a line has too few columns, no number, no rotation, or a name seen before.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not readable as a pose list ({error})") from error
    poses: dict[str, Pose] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, *columns = line.split()
        if name in poses:
            raise FormatError(f"{path}:{number}: {name} comes twice; keep one of the lines")
        if len(columns) < 7:
            raise FormatError(f"{path}:{number}: {len(columns)} numbers, expected qw qx qy qz tx ty tz after the name")
        try:
            values = [float(column) for column in columns[:7]]
            poses[name] = Pose.from_quat_wxyz(values[:4], values[4:]).inv
        except ValueError as error:
            raise FormatError(f"{path}:{number}: {error}; mend or delete the line") from error
    return poses
