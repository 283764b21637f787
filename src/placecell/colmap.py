"""Our pictures, cameras and features in pycolmap's hands: its database and its reconstruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from placecell.camera import Camera
from placecell.errors import FormatError
from placecell.pose import Pose
from placecell.sift import Features

MODELS: dict[str, str] = {"pinhole": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}


@contextmanager
def quiet() -> Iterator[None]:
    """pycolmap's own log lines off, below errors; its setting is put back."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def to_colmap(camera: Camera, camera_id: int) -> Any:
    """`pycolmap.Camera` of the same projection; its pixel centres lie at .5 as ours do."""
    distortion, model = list(camera.distortion), MODELS[camera.model]
    if len(distortion) > 4:
        # FULL_OPENCV orders k1 k2 p1 p2 k3 k4 k5 k6 as we do.
        model, distortion = "FULL_OPENCV", distortion + [0.0] * (8 - len(distortion))
    return pycolmap.Camera(
        camera_id=camera_id,
        model=model,
        width=camera.width,
        height=camera.height,
        params=[camera.fx, camera.fy, camera.cx, camera.cy, *distortion],
    )


def from_colmap(camera: Any) -> Camera:
    """Our camera of a `pycolmap.Camera`.

    Raises:
        FormatError: the model has no equal among ours.
    """
    name, values = camera.model.name, [float(value) for value in camera.params]
    size = (int(camera.width), int(camera.height))
    if name == "SIMPLE_PINHOLE":
        focal, cx, cy = values
        return Camera(*size, focal, focal, cx, cy)
    if name == "PINHOLE":
        fx, fy, cx, cy = values
        return Camera(*size, fx, fy, cx, cy)
    if name in ("SIMPLE_RADIAL", "RADIAL"):
        focal, cx, cy, *radial = values
        k1, k2 = (*radial, 0.0)[:2]
        return Camera(*size, focal, focal, cx, cy, "opencv", (k1, k2, 0.0, 0.0))
    if name in ("OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"):
        fx, fy, cx, cy, *distortion = values
        return Camera(*size, fx, fy, cx, cy, "fisheye" if "FISHEYE" in name else "opencv", tuple(distortion))
    if name in ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        focal, cx, cy, *radial = values
        k1, k2 = (*radial, 0.0)[:2]
        return Camera(*size, focal, focal, cx, cy, "fisheye", (k1, k2, 0.0, 0.0))
    raise FormatError(f"camera model {name} of COLMAP has no equal here; undistort the images with COLMAP first")


def to_pose(rigid: Any) -> Pose:
    """Our pose of a `pycolmap.Rigid3d`, same direction."""
    return Pose.nearest(np.asarray(rigid.matrix()))


def to_rigid(pose: Pose) -> Any:
    """`pycolmap.Rigid3d` of our pose, same direction."""
    return pycolmap.Rigid3d(pose.matrix[:3])


def write_database(
    path: Path, names: Sequence[str], features: Sequence[Features], cameras: Sequence[Any], camera_of: Sequence[int]
) -> None:
    """A COLMAP database of pictures with their features; picture i gets image id i + 1.

    Args:
        cameras: `pycolmap.Camera`s whose ids are 1, 2, …
        camera_of: for each picture the index of its camera.
    """
    database = pycolmap.Database.open(path)
    try:
        for camera in cameras:  # rigs of one sensor, as COLMAP wants since 3.12
            database.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig(rig_id=camera.camera_id)
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)
        for index, (name, found) in enumerate(zip(names, features, strict=True)):
            image = pycolmap.Image(name=name, camera_id=cameras[camera_of[index]].camera_id, image_id=index + 1)
            database.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=index + 1, rig_id=image.camera_id)
            frame.add_data_id(image.data_id)
            database.write_frame(frame, use_frame_id=True)
            shape = np.stack([found.scales_px, found.angles_rad], axis=1)
            database.write_keypoints(index + 1, np.concatenate([found.pixels, shape], axis=1).astype(np.float32))
            descriptors = pycolmap.FeatureDescriptors(pycolmap.FeatureExtractorType.SIFT, found.descriptors)
            database.write_descriptors(index + 1, descriptors)
    finally:
        database.close()
