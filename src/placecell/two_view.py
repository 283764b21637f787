"""Matches of two pictures that one fundamental matrix explains, kept in COLMAP's database."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from placecell.log import Log
from placecell.pairs import Pair
from placecell.pose import Array
from placecell.sift import Features, as_unit, match

_MIN_INLIERS = 15
"""Fewer say nothing: chance alone brings seven onto any fundamental matrix."""

_WITNESSES = 40
_MANY = 50


@dataclass(frozen=True)
class Verification:
    """How matches are made and checked. Frozen."""

    ratio: float = 0.8
    """Lowe's ratio test."""
    max_error: float = 0.003
    """How far a match may lie from its epipolar line, in longer sides of the picture (2 px at 640)."""
    trials: int = 1000
    """Random samples a pair, at most: ten times more find the same pairs here, in four times the time."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TwoView:
    """What two pictures agree on."""

    fundamental: Array
    """(3, 3): x_second^T F x_first = 0 in pixels."""
    matches: NDArray[np.uint32]
    """(N, 2) indices of features."""


def agree(first: Features, second: Features, verification: Verification, max_error_px: float) -> TwoView | None:
    """Matches by descriptor that fit one fundamental matrix (MAGSAC++, Barath et al. 2020), or None."""
    found = match(as_unit(first.descriptors), as_unit(second.descriptors), ratio=verification.ratio)
    if len(found.first) < _MIN_INLIERS:
        return None
    pixels = first.pixels[found.first].astype(np.float64), second.pixels[found.second].astype(np.float64)
    fundamental, mask = cv2.findFundamentalMat(*pixels, _usac(verification, max_error_px))
    if fundamental is None or fundamental.shape != (3, 3) or np.count_nonzero(mask) < _MIN_INLIERS:
        return None
    inliers = mask.ravel() > 0
    return TwoView(fundamental, np.stack([found.first, found.second], axis=1)[inliers].astype(np.uint32))


def _usac(verification: Verification, max_error_px: float) -> Any:
    settings = cv2.UsacParams()
    settings.confidence, settings.maxIterations = 0.999, verification.trials
    settings.threshold, settings.randomGeneratorState = max_error_px, verification.seed
    settings.score, settings.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_SIGMA
    settings.final_polisher, settings.final_polisher_iterations = cv2.MAGSAC, 10
    return settings


def match_into(
    database_path: Path,
    features: Sequence[Features],
    sizes_px: Sequence[int],
    pairs: Sequence[Pair],
    verification: Verification,
    log: Log,
    threads: int = 2,
) -> None:
    """Match pairs of pictures and write what they agree on to the database; pairs that it holds are passed over.

    Args:
        sizes_px: the longer side of each picture.
    """

    def agreement(pair: Pair) -> TwoView | None:
        i, j = pair
        return agree(features[i], features[j], verification, verification.max_error * max(sizes_px[i], sizes_px[j]))

    database, before = pycolmap.Database.open(database_path), cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        missing = [(i, j) for i, j in pairs if not database.exists_two_view_geometry(i + 1, j + 1)]
        with ThreadPoolExecutor(threads) as pool:
            results = zip(missing, pool.map(agreement, missing), strict=True)
            try:
                for (i, j), found in log.track(results, f"matching {len(pairs)} pairs", len(missing)):
                    database.write_two_view_geometry(i + 1, j + 1, _theirs(found))
            except BaseException:  # an interrupt too: thousands of pairs may wait
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        cv2.setNumThreads(before)
        database.close()


def _theirs(found: TwoView | None) -> Any:
    geometry = pycolmap.TwoViewGeometry()
    geometry.config = pycolmap.TwoViewGeometryConfiguration.DEGENERATE
    if found is not None:
        geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
        geometry.F, geometry.inlier_matches = found.fundamental, found.matches
    return geometry


def read_geometries(database_path: Path) -> dict[Pair, Any]:
    """The `pycolmap.TwoViewGeometry` of every pair in the database that agreed on any matches."""
    database = pycolmap.Database.open(database_path)
    try:
        keys, geometries = database.read_two_view_geometries()
    finally:
        database.close()
    pairs = [pycolmap.pair_id_to_image_pair(key) for key in keys]
    return {
        (first - 1, second - 1): geometry
        for (first, second), geometry in zip(pairs, geometries, strict=True)
        if len(geometry.inlier_matches)
    }


def turns_only(
    database_path: Path, features: Sequence[Features], sizes_px: Sequence[int], verification: Verification
) -> bool:
    """Whether homographies explain the matches of most pairs: pure rotation, no motion, or a plane.

    Only the half of the pairs that moved most testifies: neighbours in any video hardly differ.
    """
    moved = []
    for (i, j), geometry in read_geometries(database_path).items():
        matches = geometry.inlier_matches
        pixels = features[i].pixels[matches[:, 0]], features[j].pixels[matches[:, 1]]
        limit_px = 1.5 * verification.max_error * max(sizes_px[i], sizes_px[j])
        moved.append((float(np.median(np.linalg.norm(pixels[1] - pixels[0], axis=1))), limit_px, pixels))
    moved.sort(key=lambda pair: -pair[0])
    moved = moved[: (len(moved) + 1) // 2]
    explained = []
    for _, limit_px, pixels in moved[:: max(1, len(moved) // _WITNESSES)]:
        _, mask = cv2.findHomography(*pixels, cv2.RANSAC, limit_px)
        explained.append(0.0 if mask is None else float(np.mean(mask)))
    return len(explained) >= 3 and float(np.median(explained)) > 0.85


def guess_focal_lengths(database_path: Path, of_picture: Sequence[int], cameras: Sequence[Any]) -> None:
    """Write to the database the focal lengths of cameras without a known one, where their matches tell it.

    With the right calibration K, an essential matrix K^T F K has two equal singular values (Mendonça and Cipolla, CVPR
    1999); the focal length is that for which most fundamental matrices of two pictures of one camera come near to it.
    """
    found = read_geometries(database_path)
    database = pycolmap.Database.open(database_path)
    try:
        for index, camera in enumerate(cameras):
            mine = [
                geometry.F
                for (i, j), geometry in found.items()
                if of_picture[i] == of_picture[j] == index and len(geometry.inlier_matches) >= _MANY
            ]
            if camera.has_prior_focal_length or len(mine) < _WITNESSES:
                continue
            camera.params = [focal_from_fundamentals(np.array(mine), camera.width, camera.height), *camera.params[1:]]
            database.update_camera(camera)
    finally:
        database.close()


def focal_from_fundamentals(fundamentals: Array, width: int, height: int) -> float:
    """The focal length in pixels under which most of (N, 3, 3) come nearest to essential matrices."""
    candidates = max(width, height) * np.geomspace(0.4, 3.0, 200)
    scores = [_doubt(fundamentals, focal_px, width, height) for focal_px in candidates]
    return float(candidates[np.argmin(scores)])


def _doubt(fundamentals: Array, focal_px: float, width: int, height: int) -> float:
    calibration = np.array([[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]])
    singular = np.linalg.svd(calibration.T @ fundamentals @ calibration, compute_uv=False)
    apart = 1.0 - singular[:, 1] / singular[:, 0]
    return float(np.mean(apart / (apart + 0.01)))  # bounded, as many matrices are of pairs that hardly moved
