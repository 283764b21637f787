"""A recorded trajectory for the page, read whole and judged before it is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from placecell.errors import FormatError
from placecell.estimate import estimate_from_json
from placecell.pose import Pose

_MOST_BYTES = 50_000_000


@dataclass(frozen=True)
class Trajectory:
    """A file as `placecell track` or `localize` wrote it: TUM, or predictions in JSON, a line a frame."""

    name: str
    text: str

    @classmethod
    def read(cls, path: Path) -> Trajectory:
        """Read one.

        Raises:
            FormatError: the file is missing, too large, has no pose, or a line is damaged (the text names it).
        """
        try:
            content = path.read_bytes()
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(
                f"{path}: not readable as a trajectory ({error}); make one with placecell track"
            ) from error
        if len(content) > _MOST_BYTES:
            raise FormatError(f"{path}: {len(content) / 1e6:.0f} MB, at most {_MOST_BYTES / 1e6:g} are shown; cut it")
        placed = 0
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                placed += _pose_of(line) is not None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise FormatError(f"{path}:{number}: not a line of TUM or of predictions ({error}); mend it") from error
        if not placed:
            raise FormatError(f"{path}: there is no pose in it; make one with placecell track MAP VIDEO --out walk.tum")
        return cls(path.name, text)


def _pose_of(line: str) -> Pose | None:
    if line.lstrip().startswith("{"):
        return estimate_from_json(json.loads(line)).world_from_cam
    _, x, y, z, qx, qy, qz, qw = map(float, line.split())
    return Pose.from_quat_wxyz([qw, qx, qy, qz], [x, y, z])
