"""Points from pictures whose poses are known: matches checked against the epipolar lines, then pycolmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.colmap import quiet, to_colmap, to_rigid, write_database
from placecell.log import Log
from placecell.pairs import Pair
from placecell.pnp import NOISE_PX, projection_jacobian
from placecell.pose import Array, Pose, skew
from placecell.sift import Features, as_unit, match


@dataclass(frozen=True, eq=False)
class Tracks:
    """N points and the features that saw them."""

    points_world: Array
    """(N, 3)."""
    point: NDArray[np.int32]
    """(M,) index of the point of each observation."""
    picture: NDArray[np.int32]
    """(M,) index of the picture."""
    feature: NDArray[np.int32]
    """(M,) index of the feature in that picture."""


@dataclass(frozen=True, eq=False)
class View:
    """A picture whose pose is known."""

    name: str
    camera: Camera
    world_from_cam: Pose
    features: Features


def triangulate(
    views: Sequence[View], pairs: Sequence[Pair], *, ratio: float = 0.8, max_error_px: float = 2.0, log: Log
) -> Tracks:
    """Points seen by at least three of the views, poses and intrinsics held fixed.

    Args:
        ratio: Lowe's ratio of the matches.
        max_error_px: how far a match may lie from its epipolar line, in either picture.
    """
    cameras = list(dict.fromkeys(view.camera for view in views))
    camera_of = [cameras.index(view.camera) for view in views]
    theirs = [to_colmap(camera, index + 1) for index, camera in enumerate(cameras)]
    with TemporaryDirectory() as folder:
        database_path = Path(folder) / "database.db"
        write_database(database_path, [v.name for v in views], [v.features for v in views], theirs, camera_of)
        _write_matches(database_path, views, pairs, (ratio, max_error_px), log)
        posed = pycolmap.Reconstruction()
        for camera in theirs:
            posed.add_camera_with_trivial_rig(camera)
        for index, view in enumerate(views):
            image = pycolmap.Image(
                name=view.name,
                keypoints=view.features.pixels.astype(np.float64),
                camera_id=camera_of[index] + 1,
                image_id=index + 1,
            )
            posed.add_image_with_trivial_frame(image, to_rigid(view.world_from_cam.inv))
        log.say(f"triangulating points from {len(views)} pictures")
        options = pycolmap.IncrementalPipelineOptions()
        options.extract_colors = False
        with quiet():
            found = pycolmap.triangulate_points(posed, database_path, folder, folder, options=options)
    return tracks_of(found)


def track_covariance(tracks: Tracks, views: Sequence[View], *, noise_px: float = NOISE_PX) -> Array:
    """(N, 3, 3) covariance of the points in world axes: noise_px² (Σ A_iᵀ A_i)⁻¹ over each track's observations.

    A_i is the derivative of the pixel by the point. Poses are taken as exact, so these are lower bounds.
    """
    information = np.zeros((len(tracks.points_world), 3, 3))
    for index, view in enumerate(views):
        seen = tracks.point[tracks.picture == index]
        jacobian = projection_jacobian(tracks.points_world[seen], view.camera, view.world_from_cam)
        by_point = -jacobian[:, :, 3:] @ view.world_from_cam.rotation.T
        np.add.at(information, seen, by_point.transpose(0, 2, 1) @ by_point)
    covariance: Array = noise_px**2 * np.asarray(np.linalg.pinv(information, hermitian=True), np.float64)
    return covariance


def track_colours(
    tracks: Tracks, pixels_of: Callable[[int], NDArray[np.float32]], image_of: Callable[[int], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """(N, 3) mean colour of each point over the pictures that saw it.

    Args:
        pixels_of: (F, 2) px of the features of a picture, by its index.
        image_of: the picture itself.
    """
    total = np.zeros((len(tracks.points_world), 3))
    for picture in np.unique(tracks.picture).tolist():
        mine = tracks.picture == picture
        image, pixels = image_of(picture), pixels_of(picture)[tracks.feature[mine]]
        column, row = pixels.astype(np.intp).T
        np.add.at(total, tracks.point[mine], image[row.clip(0, len(image) - 1), column.clip(0, image.shape[1] - 1)])
    seen = np.bincount(tracks.point, minlength=len(total))[:, None]
    colours: NDArray[np.uint8] = (total / np.maximum(seen, 1)).astype(np.uint8)
    return colours


def tracks_of(reconstruction: Any) -> Tracks:
    """The points of a `pycolmap.Reconstruction` whose image ids are picture index + 1."""
    points: list[Array] = []
    point, picture, feature = [], [], []
    for found in reconstruction.points3D.values():
        for element in found.track.elements:
            point.append(len(points))
            picture.append(element.image_id - 1)
            feature.append(element.point2D_idx)
        points.append(found.xyz)
    return Tracks(
        np.array(points, np.float64).reshape(-1, 3),
        np.array(point, np.int32),
        np.array(picture, np.int32),
        np.array(feature, np.int32),
    )


def _write_matches(
    path: Path, views: Sequence[View], pairs: Sequence[Pair], limits: tuple[float, float], log: Log, threads: int = 2
) -> None:
    ratio, max_error_px = limits
    units = [as_unit(view.features.descriptors) for view in views]
    rays = [view.camera.rays(view.features.pixels)[:, :2] for view in views]

    def agreeing(pair: Pair) -> NDArray[np.uint32]:
        i, j = pair
        found = match(units[i], units[j], ratio=ratio)
        error_px = _epipolar_error_px(views[i], views[j], rays[i][found.first], rays[j][found.second])
        good = error_px < max_error_px
        return np.stack([found.first[good], found.second[good]], axis=1).astype(np.uint32)

    database = pycolmap.Database.open(path)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for (i, j), matches in log.track(
                zip(pairs, pool.map(agreeing, pairs), strict=True), "matching", len(pairs)
            ):
                if len(matches) < 8:
                    continue
                geometry = pycolmap.TwoViewGeometry()
                geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
                geometry.inlier_matches = matches
                database.write_two_view_geometry(i + 1, j + 1, geometry)
    finally:
        database.close()


def _epipolar_error_px(first: View, second: View, rays_first: Array, rays_second: Array) -> Array:
    """(N,) larger distance of a match to its epipolar line in the two pictures; inf when the motion is a rotation."""
    second_from_first = second.world_from_cam.inv @ first.world_from_cam
    essential = skew(second_from_first.translation) @ second_from_first.rotation
    a = np.concatenate([rays_first, np.ones((len(rays_first), 1))], axis=1)
    b = np.concatenate([rays_second, np.ones((len(rays_second), 1))], axis=1)
    lines_second, lines_first = a @ essential.T, b @ essential
    numerator = np.abs(np.einsum("nk,nk->n", b, lines_second))
    with np.errstate(divide="ignore", invalid="ignore"):
        in_second = numerator / np.linalg.norm(lines_second[:, :2], axis=1) * second.camera.fx
        in_first = numerator / np.linalg.norm(lines_first[:, :2], axis=1) * first.camera.fx
    larger: Array = np.nan_to_num(np.maximum(in_first, in_second), nan=np.inf)
    return larger
