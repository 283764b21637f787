"""What the service answers with, as JSON: its own shape, and that of ROS 2."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from placecell.estimate import Estimate, estimate_to_json
from placecell.pose import Array, pose_error
from placecell.report.judged import nearest_training_frame
from placecell.serve.limits import Problem
from placecell.serve.served import Served

_EXAMPLE: dict[str, Any] = {
    "map": "kitchen",
    "name": "photo.jpg",
    "quat_wxyz": [0.98, 0.02, 0.17, 0.01],
    "t": [-0.42, -0.21, 0.73],
    "unit": "m",
    "covariance": None,
    "confidence": None,
    "inliers": 812,
    "matches": 1430,
    "reason": None,
    "lens": "map or EXIF",
    "camera": {"width": 640, "height": 480, "fx": 525.5, "fy": 525.5, "cx": 320.0, "cy": 240.0},
    "nearest": None,
    "timings": {"wait_s": 0.0001, "decode_s": 0.0014, "localize_s": 0.0031},
}


class Nearest(BaseModel):
    """The training frame seen from closest to the answer."""

    frame: str
    distance: float = Field(description="between the camera centres, in the unit of the map")
    angle_deg: float


class Answer(BaseModel):
    """Where a picture was taken, or why that is not known: then `reason` is a text, `quat_wxyz` and `t` are null."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    map: str
    name: str
    quat_wxyz: list[float] | None = Field(description="rotation of world_from_cam; camera x right, y down, z forward")
    t: list[float] | None = Field(description="camera centre in the world")
    unit: str = Field(description="of lengths: m, or units where the scale is not known")
    covariance: list[float] | None = Field(
        default=None, description="21 numbers, upper triangle of 6x6, (rx ry rz tx ty tz) in camera axes, rad and unit"
    )
    confidence: float | None = Field(
        default=None, description="probability that the error is below the map's threshold"
    )
    inliers: int | None = None
    matches: int | None = Field(default=None, description="of which `inliers` agree with the pose")
    reason: str | None = None
    radii: dict[str, float] | None = Field(
        default=None, description="of a calibrated map: distance and angle_deg hold for the stated coverage of answers"
    )
    familiarity: float | None = Field(
        default=None, description="share of pictures of the place that look at least as strange to the map"
    )
    also: list[str] | None = Field(default=None, description="of several maps asked, others that claim the picture")
    lens: str = Field(description="where the intrinsics are from: request, map or EXIF, guess")
    camera: dict[str, float] = Field(description="the intrinsics that were used, at the size the map looked at")
    nearest: Nearest | None = Field(default=None, description="asked for with nearest=1, where the scene is served")
    timings: dict[str, float]


class RosStamp(BaseModel):
    """When it was answered."""

    sec: int
    nanosec: int


class RosHeader(BaseModel):
    """When, and in which frame."""

    stamp: RosStamp
    frame_id: str = Field(description="the map")


class RosPoint(BaseModel):
    """The camera's centre."""

    x: float
    y: float
    z: float


class RosQuaternion(RosPoint):
    """The rotation of world_from_cam, w last."""

    w: float


class RosPose(BaseModel):
    """Of the optical frame of the camera."""

    position: RosPoint
    orientation: RosQuaternion


class RosPoseWithCovariance(BaseModel):
    """A pose, and how sure it is."""

    pose: RosPose
    covariance: list[float] = Field(
        min_length=36, max_length=36, description="6x6, x y z and rotation about the world's axes; -1 first: not known"
    )


class RosAnswer(BaseModel):
    """The answer to shape=ros: `geometry_msgs/PoseWithCovarianceStamped`."""

    header: RosHeader
    pose: RosPoseWithCovariance


class ProblemText(BaseModel):
    """What was wrong."""

    kind: str = Field(examples=["too-many-bytes"])
    message: str


class ProblemShape(BaseModel):
    """The body of every answer that is not 200."""

    error: ProblemText


class UnreadPicture(ProblemShape):
    """A picture of a batch that is not answered, among those that are."""

    name: str


def answer_of(estimate: Estimate, served: Served, told: dict[str, Any], *, nearest: bool) -> dict[str, Any]:
    """The service's own shape; `told` is what it knows of the question: lens, camera, timings."""
    row = estimate_to_json(estimate)
    row.pop("seconds", None)
    return {
        "map": served.name,
        **row,
        "unit": served.unit,
        **told,
        "nearest": _nearest(estimate, served) if nearest else None,
    }


def _nearest(estimate: Estimate, served: Served) -> dict[str, Any] | None:
    if estimate.world_from_cam is None or served.scene is None:
        return None
    frame = nearest_training_frame(served.scene, estimate.world_from_cam, exclude="")
    if frame is None or frame.world_from_cam is None:
        return None
    away = pose_error(frame.world_from_cam, estimate.world_from_cam)
    return {"frame": frame.name, "distance": away.distance, "angle_deg": away.angle_deg}


def ros_of(estimate: Estimate, frame_id: str, stamp_s: float | None = None) -> dict[str, Any]:
    """The fields of `geometry_msgs/PoseWithCovarianceStamped` (ROS 2), of the optical frame of the camera.

    The covariance is that of (x y z, then rotation about the fixed axes x y z of the world), 36 numbers row by row:
    with R of world_from_cam and our Σ of (r t) in camera axes, J Σ Jᵀ with J = [[0 R] [R 0]]. Its first number is -1
    where the map knows none.

    Raises:
        Problem: there is no pose, which the message cannot say.
    """
    if estimate.world_from_cam is None:
        raise Problem(422, "not-placed", f"{estimate.name}: {estimate.reason}")
    seconds = time.time() if stamp_s is None else stamp_s
    fraction, whole = math.modf(seconds)
    x, y, z = estimate.world_from_cam.translation.tolist()
    w, qx, qy, qz = estimate.world_from_cam.quat_wxyz.tolist()
    covariance = np.zeros((6, 6))
    covariance[0, 0] = -1.0
    if estimate.covariance is not None:
        covariance = ros_covariance(estimate.covariance, estimate.world_from_cam.rotation)
    return {
        "header": {"stamp": {"sec": int(whole), "nanosec": int(fraction * 1e9)}, "frame_id": frame_id},
        "pose": {
            "pose": {"position": {"x": x, "y": y, "z": z}, "orientation": {"x": qx, "y": qy, "z": qz, "w": w}},
            "covariance": covariance.ravel().tolist(),
        },
    }


def ros_covariance(covariance: Array, rotation: Array) -> Array:
    """(6, 6) of (t r) in world axes, of ours of (r t) in camera axes; see `ros_of`."""
    jacobian = np.zeros((6, 6))
    jacobian[:3, 3:] = jacobian[3:, :3] = rotation
    moved: Array = jacobian @ covariance @ jacobian.T
    return moved
