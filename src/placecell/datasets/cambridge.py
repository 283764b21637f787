"""Cambridge Landmarks (Kendall et al., ICCV 2015)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from placecell.camera import Camera
from placecell.datasets.nvm import NvmModel, read_model
from placecell.datasets.pictures import clean_name, keyed, located, size_px
from placecell.datasets.posenet_list import ListedPose, read_posenet_list
from placecell.datasets.rows import Quaternions
from placecell.errors import FormatError
from placecell.pose import Pose
from placecell.published import known_name
from placecell.scene import Frame, Scene, Split

QUATERNION_TOLERANCE = 1.1
"""Street has quaternions of length 2.0; they are rotations once normalised."""

_LISTS: dict[str, Split] = {"dataset_train.txt": "train", "dataset_test.txt": "test"}
USUAL_FOCAL_OF_WIDTH = (
    0.87  # of the width: the phone that took them; every model of VisualSFM has 1650 to 1690 px of 1920
)


def read(root: Path, *, focal_px: float | None = None) -> Scene:
    """A landmark: `dataset_{train,test}.txt`, `seqN/*.png` and, for focal lengths and points, `reconstruction.nvm`.

    The lists hold the camera *centre* and the rotation world -> camera. Outlier poses (GreatCourt has one at 3e9 m)
    are kept; the check of the scene tells of them.

    Args:
        focal_px: for all pictures; by default that of `reconstruction.nvm`, which calls the .png pictures .jpg, and
            without that file 0.87 of the width, noted.
    Raises:
        FormatError: a list is damaged, or pictures are missing.
    """
    listed = [(split, item) for name, split in _LISTS.items() for item in _read_list(root / name)]
    notes: tuple[str, ...] = ()
    poses: list[Pose] = []
    for split in ("train", "test"):
        quaternions = Quaternions(f"dataset_{split}.txt", QUATERNION_TOLERANCE)
        poses += [pose_of(item, quaternions) for part, item in listed if part == split]
        notes += quaternions.notes
    names = [item.name for _, item in listed]
    paths = located(root, names, root / "dataset_train.txt")
    model = read_model(root / "reconstruction.nvm") if (root / "reconstruction.nvm").is_file() else None
    found, remarks = _cameras([root / path for path in paths], names, model, focal_px)
    cameras, keys = keyed(found)
    frames = tuple(
        Frame(clean_name(item.name), path, key, pose, item.name.partition("/")[0], split)
        for (split, item), path, key, pose in zip(listed, paths, keys, poses, strict=True)
    )
    index_of = {Path(name).with_suffix("").as_posix(): index for index, name in enumerate(names)}
    points = None
    if model is not None:
        points = model.points([index_of.get(Path(name).with_suffix("").as_posix()) for name in model.names], found)
    return Scene(
        known_name("cambridge", root.name), "sfm", True, frames, cameras, root, points=points, notes=notes + remarks
    )


def pose_of(item: ListedPose, quaternions: Quaternions) -> Pose:
    """`world_from_cam` of a line with the camera centre and the rotation cam_from_world."""
    cam_from_world = quaternions.pose(item.row, item.quat_wxyz, np.zeros(3))
    return Pose(cam_from_world.rotation.T, item.centre)


def _read_list(path: Path) -> list[ListedPose]:
    listed = read_posenet_list(path)
    if not listed:
        raise FormatError(f"{path}: lists no picture; download it again")
    return listed


def _cameras(
    paths: list[Path], names: list[str], model: NvmModel | None, focal_px: float | None
) -> tuple[list[Camera], tuple[str, ...]]:
    known = {} if model is None else {Path(name).with_suffix("").as_posix(): i for i, name in enumerate(model.names)}
    cameras, assumed = [], 0
    for path, name in zip(paths, names, strict=True):
        size = size_px(path)
        index = known.get(Path(name).with_suffix("").as_posix())
        if focal_px is None and model is not None and index is not None:
            cameras.append(model.camera(index, *size))
        else:
            assumed += focal_px is None
            cameras.append(Camera.from_focal(*size, focal_px or USUAL_FOCAL_OF_WIDTH * max(size)))
    if not assumed:
        return cameras, ()
    return cameras, (
        f"the focal length of {assumed} pictures is assumed ({USUAL_FOCAL_OF_WIDTH} of the width): not in an NVM file",
    )
