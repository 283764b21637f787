"""The pseudo ground truth of 7- and 12-Scenes (Brachmann et al., ICCV 2021): poses and focal lengths by SfM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from placecell.datasets.rows import Quaternions, rows
from placecell.pose import Pose


@dataclass(frozen=True, eq=False)
class SfmLabel:
    """A picture's pose and focal length by structure from motion."""

    world_from_cam: Pose
    focal_px: float


def read_sfm_labels(path: Path) -> tuple[dict[str, SfmLabel], tuple[str, ...]]:
    """Labels by picture without its ending, and notes: lines `file qw qx qy qz tx ty tz f`, cam_from_world.

    The pseudo ground truth of Brachmann et al. (ICCV 2021); the principal point is the middle of the picture.

    Raises:
        FormatError: a row is damaged or a picture comes twice.
    """
    quaternions = Quaternions(path.name)
    labels: dict[str, SfmLabel] = {}
    for row in rows(path):
        key = picture_key(row.text(0, "the picture"))
        if key in labels:
            raise row.error(f"{row.fields[0]} is labelled twice; delete one of the lines")
        cam_from_world = quaternions.pose(
            row, row.numbers(1, 4, "the quaternion"), row.numbers(5, 3, "the translation")
        )
        labels[key] = SfmLabel(cam_from_world.inv, row.number_at(8, "the focal length"))
    return labels, quaternions.notes


def picture_key(name: str) -> str:
    """The name without `.color` and ending: `.png` lists fit `.jpg` pictures."""
    return name.lstrip("/").rpartition(".")[0].removesuffix(".color")
