"""7-Scenes (Shotton et al., CVPR 2013), with its original labels or the pseudo ground truth by SfM."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from placecell.camera import Camera
from placecell.datasets.rows import Row, pose_file, rows
from placecell.datasets.sfm_labels import SfmLabel, picture_key, read_sfm_labels
from placecell.errors import FormatError, SceneError
from placecell.pose import Pose
from placecell.published import known_name
from placecell.scene import DepthSensor, Frame, Scene, Split

Labels = Literal["kinectfusion", "sfm"]

COLOR = Camera.from_focal(640, 480, 525.0)
CAM_FROM_DEPTH = Pose.from_matrix(
    [
        [9.9996518012567637e-01, 2.6765126468950343e-03, -7.9041012313000904e-03, -2.5558943178152542e-02],
        [-2.7409311281316700e-03, 9.9996302803027592e-01, -8.1504520778013286e-03, 1.0109636268061706e-04],
        [7.8819942130445332e-03, 8.1718328771890631e-03, 9.9993554558014031e-01, 2.0318321729487039e-03],
    ]
)
"""Depth camera to colour camera: the Kinect calibration that DSAC*, ACE and the pseudo ground truth use."""
DEPTH_SENSOR = DepthSensor(Camera.from_focal(640, 480, 585.0), CAM_FROM_DEPTH, unit_m=0.001, invalid=(0, 65535))

_SPLITS: dict[str, Split] = {"TrainSplit.txt": "train", "TestSplit.txt": "test"}


def read(root: Path, *, labels: Labels = "kinectfusion", labels_folder: Path | None = None) -> Scene:
    """One of the seven scenes: `seq-XX/frame-XXXXXX.{color.png|jpg,depth.png,pose.txt}` and the two split files.

    Args:
        labels: `kinectfusion` are the pose files, which hold the *depth* camera and are moved to the colour camera
            here; `sfm` is the pseudo ground truth, of the colour camera, in another world frame. Never mix them.
        labels_folder: where `sfm_poses_{train,test}.txt` or `<scene>_{train,test}.txt` lie; `root` by default.
    Raises:
        FormatError: a split names a missing sequence, a label is damaged.
        SceneError: unknown labels, or no frames.
    """
    if labels not in get_args(Labels):
        raise SceneError(f"unknown labels {labels!r} of 7-Scenes; known are {', '.join(get_args(Labels))}")
    frames = [frame for folder, split in _split_of(root).items() for frame in _frames(root, folder, split)]
    if not frames:
        raise SceneError(f"{root}: the sequences hold no frame-XXXXXX.color.png or .jpg; unpack the seq-XX.zip files")
    scene = Scene(root.name, labels, True, (), {"color": COLOR}, root, DEPTH_SENSOR)
    if labels == "kinectfusion":
        scene = replace(scene, frames=tuple(_with_pose_file(root, frame) for frame in frames))
    else:
        scene = with_sfm_labels(scene, frames, labels_folder or root)
    return replace(scene, name=known_name("7scenes", root.name))


def with_sfm_labels(scene: Scene, frames: list[Frame], folder: Path) -> Scene:
    """The scene with the frames labelled from `sfm_poses_{train,test}.txt` or `<scene>_{train,test}.txt`.

    The cameras get the focal lengths of the lists; a frame that the lists leave out has no pose.
    """
    known: dict[str, SfmLabel] = {}
    notes: tuple[str, ...] = ()
    for split in ("train", "test"):
        labels, remarks = read_sfm_labels(_sfm_file(folder, scene.name, split))
        known, notes = known | labels, notes + remarks
    size = next(iter(scene.cameras.values()))
    cameras = {f"{label.focal_px:g}": label.focal_px for label in known.values()}
    labelled, unlabelled = [], 0
    for frame in frames:
        label = known.get(picture_key(frame.name))
        if label is None:
            unlabelled += 1
            labelled.append(replace(frame, camera=next(iter(cameras))))
        else:
            labelled.append(replace(frame, camera=f"{label.focal_px:g}", world_from_cam=label.world_from_cam))
    if unlabelled == len(frames):
        raise FormatError(f"{folder}: the SfM labels know none of the {len(frames)} frames; are they of another scene?")
    if unlabelled:
        notes += (f"{unlabelled} of {len(frames)} frames have no SfM label and no pose",)
    return replace(
        scene,
        frames=tuple(labelled),
        cameras={key: Camera.from_focal(size.width, size.height, focal_px) for key, focal_px in cameras.items()},
        notes=scene.notes + notes,
    )


def _sfm_file(folder: Path, scene: str, split: str) -> Path:
    for name in (f"sfm_poses_{split}.txt", f"{scene}_{split}.txt"):
        if (folder / name).is_file():
            return folder / name
    raise FormatError(
        f"{folder}: neither sfm_poses_{split}.txt nor {scene}_{split}.txt; "
        "take them from the visloc_pseudo_gt_limitations repository and pass labels_folder"
    )


def _split_of(root: Path) -> dict[str, Split]:
    """The split of each sequence's folder, by the two split files."""
    splits: dict[str, Split] = {}
    for file, split in _SPLITS.items():
        for row in rows(root / file):
            folder = _sequence_folder(root, row)
            if splits.setdefault(folder, split) != split:
                raise row.error(f"{folder} is in TrainSplit.txt too; a sequence is for training or for the test")
    return splits


def _sequence_folder(root: Path, row: Row) -> str:
    """The folder that a line of a split file names, `sequence7` being `seq-07`."""
    found = re.fullmatch(r"(?:sequence|seq-?)(\d+)", row.fields[0])
    if found is None:
        raise row.error(f"{row.fields[0]!r} is not a sequence; a line reads: sequence1")
    number = int(found.group(1))
    for name in (f"seq-{number:02d}", f"seq-{number}"):
        if (root / name).is_dir():
            return name
    raise row.error(f"sequence {number} is missing: no folder seq-{number:02d}; unpack seq-{number:02d}.zip")


def _frames(root: Path, folder: str, split: Split) -> list[Frame]:
    pictures = {picture_key(path.name): path.name for path in sorted((root / folder).glob("frame-*.color.*"))}
    return [
        Frame(
            name=f"{folder}/{picture}",
            image=f"{folder}/{picture}",
            camera="color",
            sequence=folder,
            split=split,
            depth=depth if (root / (depth := f"{folder}/{stem}.depth.png")).is_file() else None,
        )
        for stem, picture in pictures.items()
        if Path(picture).suffix in (".png", ".jpg")
    ]


def _with_pose_file(root: Path, frame: Frame) -> Frame:
    world_from_depth = pose_file(root / f"{picture_key(frame.name)}.pose.txt")
    return replace(frame, world_from_cam=world_from_depth @ CAM_FROM_DEPTH.inv)
