"""What the 3-D view of the page draws, packed small: quantised points, paths, truths and answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placecell.points import PointCloud
from placecell.pose import Array, Pose
from placecell.report.judged import Judged, ground_axes
from placecell.report.ramp import REFUSED, Ramp
from placecell.scene import Scene, centres, sequences

MAX_POINTS = 60_000


def view_data(scene: Scene, judged: Sequence[Judged], distance: Ramp, turn: Ramp) -> dict[str, Any]:
    """The JSON of the view. Poses are float32 rows of 12 (rotation row by row, then translation), NaN for no answer."""
    poses = [frame.world_from_cam for frame in scene.posed if frame.world_from_cam is not None]
    where = np.array([pose.translation for pose in poses])
    low, high = _bounds(scene.points, where)
    camera = scene.camera_of(judged[0].frame)
    return {
        "unit": scene.unit,
        "axes": ground_axes(poses).round(6).tolist(),
        "centre": ((low + high) / 2).round(6).tolist(),
        "radius": max(float(np.linalg.norm(high - low)) / 2, 1e-6),
        "frustum": [camera.width / (2 * camera.fx), camera.height / (2 * camera.fy)],
        "points": _points(scene.points, where),
        "training": _paths(scene, "train"),
        "truthPaths": _paths_of(judged),
        "truth": _pack(np.array([_row(item.truth) for item in judged], np.float32)),
        "answer": _pack(np.array([_row(item.answer) for item in judged], np.float32)),
        "frames": [_facts(item) for item in judged],
        "colours": {
            "distance": [distance.colour(item.error.distance) for item in judged],
            "angle": [REFUSED if item.answer is None else turn.colour(item.error.angle_deg) for item in judged],
        },
    }


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no <, > or & in it, whatever the names of the frames are."""
    encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return encoded


def _facts(item: Judged) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": item.frame.name, "sequence": item.frame.sequence}
    if item.answer is None:
        facts["reason"] = item.estimate.reason
    else:
        facts["distance"], facts["angle"] = float(f"{item.error.distance:.4g}"), float(f"{item.error.angle_deg:.4g}")
    for key in ("inliers", "confidence"):
        value = getattr(item.estimate, key)
        if value is not None:
            facts[key] = round(float(value), 4)
    return facts


def _bounds(cloud: PointCloud | None, where: Array) -> tuple[Array, Array]:
    """The box to look at first: where most of the points and all but stray cameras are."""
    boxes = [np.percentile(where, (2, 98), axis=0)]
    if cloud is not None and len(cloud):
        boxes.append(np.nanpercentile(cloud.points_world, (8, 92), axis=0))
    return np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)


def _points(cloud: PointCloud | None, where: Array) -> dict[str, Any] | None:
    """At most 60 000 points near the cameras, positions in 65 535 steps of their bounding box."""
    if cloud is None or not len(cloud):
        return None
    usable = np.isfinite(cloud.points_world).all(axis=1)
    points, rgb = cloud.points_world[usable], cloud.rgb[usable]
    if not len(points):
        return None
    low, high = np.percentile(np.vstack([points, where]), (0.5, 99.5), axis=0)
    near = ((points >= low - (high - low) * 0.25) & (points <= high + (high - low) * 0.25)).all(axis=1)
    chosen = np.flatnonzero(near)
    if len(chosen) > MAX_POINTS:
        chosen = np.random.default_rng(0).choice(chosen, MAX_POINTS, replace=False)
    points, rgb = points[chosen], rgb[chosen]
    if not len(points):
        return None
    floor = points.min(axis=0)
    step = np.maximum((points.max(axis=0) - floor) / 65535.0, 1e-12)
    steps = np.round((points - floor) / step).astype("<u2")
    return {"low": floor.tolist(), "step": step.tolist(), "xyz": _pack(steps), "rgb": _pack(rgb), "count": len(points)}


def _paths(scene: Scene, split: str) -> list[str]:
    groups = sequences([frame for frame in scene.posed if frame.split == split])
    return [_pack(centres(group).astype("<f4")) for group in groups.values()]


def _paths_of(judged: Sequence[Judged]) -> list[str]:
    return [_pack(centres(group).astype("<f4")) for group in sequences([item.frame for item in judged]).values()]


def _row(pose: Pose | None) -> Array:
    return np.full(12, np.nan) if pose is None else np.concatenate([pose.rotation.ravel(), pose.translation])


def _pack(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
