"""One world frame onto another: least-squares similarities, scenes moved by them, and metric scale from evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placecell.errors import SceneError
from placecell.pose import Array, Pose, closest_rotation, pose_error
from placecell.scene import Scene

_TRIALS = 500
_WGS84_RADIUS_M = 6378137.0
_WGS84_ECCENTRICITY2 = 6.69437999014e-3


@dataclass(frozen=True, eq=False)
class Similarity:
    """A similarity `b_from_a` of Sim(3): x_b = scale * rotation @ x_a + translation. Immutable, float64."""

    scale: float
    """Units of b in one unit of a; positive."""
    rotation: Array
    """(3, 3), orthonormal, determinant +1."""
    translation: Array
    """(3,) in the unit of b."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"the scale of a similarity has to be positive and finite, not {self.scale}")
        rigid = Pose(self.rotation, self.translation)
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "rotation", rigid.rotation)
        object.__setattr__(self, "translation", rigid.translation)

    @classmethod
    def identity(cls) -> Similarity:
        """The similarity that moves nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    @classmethod
    def scaling(cls, scale: float) -> Similarity:
        """The change of the unit alone."""
        return cls(scale, np.eye(3), np.zeros(3))

    def apply(self, points: ArrayLike) -> Array:
        """Move points (..., 3) from frame a to frame b."""
        return self.scale * np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation

    def apply_pose(self, a_from_cam: Pose) -> Pose:
        """`b_from_cam`: the centre moves as a point does; the camera turns and keeps its own axes in the new unit."""
        return Pose.nearest(
            np.column_stack([self.rotation @ a_from_cam.rotation, self.apply(a_from_cam.translation)]),
        )

    @property
    def inv(self) -> Similarity:
        """`a_from_b` of this `b_from_a`."""
        return Similarity(1 / self.scale, self.rotation.T, -self.rotation.T @ self.translation / self.scale)

    def __matmul__(self, other: Similarity) -> Similarity:
        rotation = Pose.nearest(np.column_stack([self.rotation @ other.rotation, np.zeros(3)])).rotation
        return Similarity(self.scale * other.scale, rotation, self.apply(other.translation))


class RobustFit(NamedTuple):
    """A similarity and the points that it explains."""

    b_from_a: Similarity
    inliers: NDArray[np.bool_]
    """(N,)."""
    residual: float
    """Median distance of the inliers after the alignment, in the unit of b."""


def umeyama(points_a: ArrayLike, points_b: ArrayLike, *, scale: bool = True) -> Similarity:
    """The `b_from_a` that minimises the mean squared distance of points (N, 3), after Umeyama (PAMI 1991).

    Args:
        scale: estimate the scale (Sim(3)); else it is 1 (SE(3)).

    Raises:
        SceneError: fewer than three points, points on one line in either frame, or a coordinate that is not finite.
    """
    a, b = _paired(points_a, points_b)
    for points in (a, b):
        singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if singular[1] <= 1e-6 * singular[0] or singular[0] == 0:
            raise SceneError("the camera centres lie on one line, so the alignment is not unique; add frames beside it")
    found = _fit(a, b, scale)
    return Similarity(float(found.scale), found.rotation, found.translation)


def umeyama_robust(
    points_a: ArrayLike, points_b: ArrayLike, *, scale: bool = True, max_error: float | None = None, seed: int = 0
) -> RobustFit:
    """`umeyama` in spite of outliers, which may be up to half of the points: random triples, then the inliers.

    Without `max_error` the triple with the least median of squares wins (Rousseeuw 1984), and points within 2.2
    medians of it are inliers; with `max_error`, in the unit of b, the triple with most inliers wins.

    Raises:
        SceneError: as `umeyama`, or no triple of points spans a plane.
    """
    a, b = _paired(points_a, points_b)
    triples = _triples(len(a), np.random.default_rng(seed))
    for points in (a, b):
        extent = np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1))
        triples = triples[_second_singular_values(points[triples]) > 1e-3 * extent]
    if len(triples) == 0:
        raise SceneError("no three of the camera centres span a plane; the alignment needs a path that bends")
    trials = _fit(a[triples], b[triples], scale)
    errors = np.stack([np.linalg.norm(_moved(a, trials, i) - b, axis=1) for i in range(len(triples))])
    score = np.median(errors, axis=1) if max_error is None else -np.count_nonzero(errors < max_error, axis=1)
    inliers = _within(errors[np.argmin(score)], max_error)
    for _ in range(10):
        b_from_a = umeyama(a[inliers], b[inliers], scale=scale)
        distances = np.linalg.norm(b_from_a.apply(a) - b, axis=1)
        again = _within(distances, max_error)
        if (again == inliers).all():
            break
        inliers = again
    return RobustFit(b_from_a, inliers, float(np.median(distances[inliers])))


def align_scene(scene: Scene, b_from_world: Similarity, *, metric: bool, note: str) -> Scene:
    """The scene in another world frame: poses and points moved, `note` added; pictures and depth as they are.

    Depth pictures need no change: they are in metres by `DepthSensor.unit_m`, whatever the unit of the scene.
    """
    frames = tuple(
        frame
        if frame.world_from_cam is None
        else replace(frame, world_from_cam=b_from_world.apply_pose(frame.world_from_cam))
        for frame in scene.frames
    )
    points = scene.points
    if points is not None:
        points = replace(points, points_world=b_from_world.apply(points.points_world))
    return replace(scene, frames=frames, points=points, metric=metric, notes=(*scene.notes, note))


class TrajectoryError(NamedTuple):
    """How far estimated poses are from the truth after the best alignment of their centres."""

    distances: Array
    """(N,) between centres in the unit of the truth, in the order of the truths; inf where there is no estimate."""
    angles_deg: Array
    """(N,) full angles; 180 where there is no estimate."""
    truth_from_estimate: Similarity


def trajectory_error(estimates: Mapping[str, Pose], truths: Mapping[str, Pose], scale: bool = True) -> TrajectoryError:
    """Errors of `world_from_cam` estimates in a frame of their own (absolute trajectory error, frame by frame).

    Raises:
        SceneError: fewer than three names in common, or their centres lie on one line.
    """
    common = [name for name in truths if name in estimates]
    centres_estimate = np.array([estimates[name].translation for name in common]).reshape(-1, 3)
    centres_truth = np.array([truths[name].translation for name in common]).reshape(-1, 3)
    truth_from_estimate = umeyama(centres_estimate, centres_truth, scale=scale)
    errors = [
        pose_error(truth_from_estimate.apply_pose(estimates[name]) if name in estimates else None, truths[name])
        for name in truths
    ]
    distances, angles_deg = np.array(errors, dtype=np.float64).reshape(-1, 2).T
    return TrajectoryError(distances, angles_deg, truth_from_estimate)


class MetricFit(NamedTuple):
    """Where metres come from."""

    metric_from_world: Similarity
    residual: float
    """How well the evidence agrees: metres for GPS, relative spread of the scale for depth, 0 for one distance."""
    note: str
    """For `Scene.notes`."""


def metric_from_distance(scene: Scene, first: str, second: str, distance_m: float) -> MetricFit:
    """Metres from the known distance between the centres of two frames, given by name.

    Raises:
        SceneError: a frame is unknown or has no pose, the centres coincide, or the distance is not positive.
    """
    poses = {frame.name: frame.world_from_cam for frame in scene.posed}
    for name in (first, second):
        if name not in poses:
            raise SceneError(f"scene {scene.name}: no posed frame is called {name}; see frames.jsonl for the names")
    one, two = poses[first], poses[second]
    apart = 0.0 if one is None or two is None else float(np.linalg.norm(one.translation - two.translation))
    if not (np.isfinite(distance_m) and distance_m > 0):
        raise SceneError(f"a distance of {distance_m} m between {first} and {second} cannot be; give it in metres")
    if apart <= 1e-12:
        raise SceneError(f"scene {scene.name}: {first} and {second} have the same centre; name two frames far apart")
    note = f"metric scale from the distance of {distance_m:g} m between {first} and {second}"
    return MetricFit(Similarity.scaling(distance_m / apart), 0.0, note)


def metric_from_depth(depth_m: ArrayLike, depth_scene: ArrayLike) -> MetricFit:
    """Metres from depth readings (N,) at pixels of observed points and those points' z (N,) in the camera.

    The scale is the median ratio; readings that are not finite and positive are left out.

    Raises:
        SceneError: fewer than 20 usable readings, or ratios that do not agree (relative spread above 0.3).
    """
    metres, units = np.asarray(depth_m, dtype=np.float64), np.asarray(depth_scene, dtype=np.float64)
    usable = np.isfinite(metres) & np.isfinite(units) & (metres > 0) & (units > 0)
    if usable.sum() < 20:
        raise SceneError(
            f"only {usable.sum()} depth readings at points of the scene, 20 are needed; use GPS or a distance"
        )
    ratios = metres[usable] / units[usable]
    scale = float(np.median(ratios))
    spread = float(1.4826 * np.median(np.abs(ratios - scale)) / scale)
    if spread > 0.3:
        raise SceneError(
            f"depth and points disagree (scale {scale:.3g} +- {100 * spread:.0f} %); check unit_m and poses"
        )
    note = f"metric scale from {usable.sum()} depth readings, which agree within {100 * spread:.1f} %"
    return MetricFit(Similarity.scaling(scale), spread, note)


def metric_from_gps(
    centres_world: ArrayLike, lat_deg: ArrayLike, lon_deg: ArrayLike, alt_m: ArrayLike | None = None, *, seed: int = 0
) -> MetricFit:
    """East-north-up metres from the GPS positions (N,) of frames whose centres (N, 3) are known; NaN where unknown.

    The origin is the median position. Where altitudes are missing the path is taken as level.

    Raises:
        SceneError: fewer than four positions, or centres or positions on one line.
    """
    centres = np.asarray(centres_world, dtype=np.float64).reshape(-1, 3)
    lat, lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    alt = np.full(len(centres), np.nan) if alt_m is None else np.asarray(alt_m, dtype=np.float64)
    known = np.isfinite(centres).all(axis=1) & np.isfinite(lat) & np.isfinite(lon)
    if known.sum() < 4:
        raise SceneError(f"only {known.sum()} frames have GPS, 4 are needed; give a distance or depth instead")
    level = not np.isfinite(alt[known]).all()
    heights = np.zeros(int(known.sum())) if level else alt[known]
    places = np.column_stack([lat[known], lon[known], heights])
    positions_m = enu_from_geodetic(places, np.median(places, axis=0))
    fit = umeyama_robust(centres[known], positions_m, seed=seed)
    note = (
        f"metric scale, north and up from GPS of {fit.inliers.sum()} of {len(centres)} frames, "
        f"median residual {fit.residual:.2f} m{', altitudes unknown' if level else ''}"
    )
    width = _second_singular_values((positions_m - positions_m.mean(axis=0))[None])[0] / np.sqrt(len(positions_m))
    if width < 2 * fit.residual:
        note += "; the path is nearly straight, so its roll is not known"
    return MetricFit(fit.b_from_a, fit.residual, note)


def ecef_from_geodetic(places: ArrayLike) -> Array:
    """Earth-centred metres (..., 3) of (latitude deg, longitude deg, height over the WGS84 ellipsoid m)."""
    values = np.asarray(places, dtype=np.float64)
    lat_rad, lon_rad, height = np.radians(values[..., 0]), np.radians(values[..., 1]), values[..., 2]
    normal = _WGS84_RADIUS_M / np.sqrt(1 - _WGS84_ECCENTRICITY2 * np.sin(lat_rad) ** 2)
    flat = (normal + height) * np.cos(lat_rad)
    up = (normal * (1 - _WGS84_ECCENTRICITY2) + height) * np.sin(lat_rad)
    return np.stack([flat * np.cos(lon_rad), flat * np.sin(lon_rad), up], axis=-1)


def enu_from_geodetic(places: ArrayLike, origin: ArrayLike) -> Array:
    """Local east, north, up in metres (..., 3) about an origin, both as `ecef_from_geodetic` takes them."""
    centre = np.asarray(origin, dtype=np.float64)
    lat_rad, lon_rad = np.radians(centre[:2])
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(lat_rad), np.cos(lat_rad), np.sin(lon_rad), np.cos(lon_rad)
    enu_from_ecef = np.array(
        [
            [-sin_lon, cos_lon, 0.0],
            [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
            [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
        ]
    )
    enu: Array = (ecef_from_geodetic(places) - ecef_from_geodetic(centre)) @ enu_from_ecef.T
    return enu


class _Fits(NamedTuple):
    """Similarities in arrays of any leading shape."""

    scale: Array
    rotation: Array
    translation: Array


def _fit(a: Array, b: Array, scale: bool) -> _Fits:
    """Umeyama's closed form for points (..., N, 3); the numbers are the paper's equations."""
    mean_a, mean_b = a.mean(axis=-2), b.mean(axis=-2)  # eq. 34, 35
    offset_a, offset_b = a - mean_a[..., None, :], b - mean_b[..., None, :]
    variance_a = (offset_a**2).sum(axis=(-2, -1)) / a.shape[-2]  # eq. 36
    covariance = np.swapaxes(offset_b, -1, -2) @ offset_a / a.shape[-2]  # eq. 38
    rotation = closest_rotation(covariance)  # eq. 40, 43
    factor = (rotation * covariance).sum(axis=(-2, -1)) / variance_a if scale else np.ones(a.shape[:-2])  # eq. 42
    translation = mean_b - factor[..., None] * (rotation @ mean_a[..., None])[..., 0]  # eq. 41
    return _Fits(factor, rotation, translation)


def _moved(a: Array, fits: _Fits, index: int) -> Array:
    moved: Array = fits.scale[index] * a @ fits.rotation[index].T + fits.translation[index]
    return moved


def _paired(points_a: ArrayLike, points_b: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(points_a, dtype=np.float64), np.asarray(points_b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3:
        raise ValueError(f"the alignment takes two arrays (N, 3), not {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise SceneError("a camera centre is not finite; drop the frame before aligning")
    if len(a) < 3:
        raise SceneError(f"{len(a)} camera centres cannot be aligned; at least three are needed")
    return a, b


def _second_singular_values(points: Array) -> Array:
    """How far points (T, N, 3) are from lying on one line."""
    values: Array = np.linalg.svd(points - points.mean(axis=-2, keepdims=True), compute_uv=False)[..., 1]
    return values


def _triples(count: int, random: np.random.Generator) -> NDArray[np.intp]:
    drawn = random.integers(0, count, (_TRIALS, 3))
    distinct = (drawn[:, 0] != drawn[:, 1]) & (drawn[:, 0] != drawn[:, 2]) & (drawn[:, 1] != drawn[:, 2])
    triples: NDArray[np.intp] = drawn[distinct]
    return triples


def _within(errors: Array, max_error: float | None) -> NDArray[np.bool_]:
    """The inliers of a hypothesis; never fewer than three."""
    limit = max_error
    if limit is None:  # 99 % of the lengths of Gaussian 3-vectors are below 2.19 medians; few points spread more
        limit = 2.2 * (1 + 5 / max(len(errors) - 3, 1)) * float(np.median(errors)) + 1e-12
    inliers: NDArray[np.bool_] = errors <= max(limit, float(np.sort(errors)[2]))
    return inliers
