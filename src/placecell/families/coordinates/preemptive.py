"""Many modes a pixel to one pose: pre-emptive RANSAC, which drops half of its hypotheses after each batch of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.families.coordinates.mixtures import Mixtures, mixtures_of
from placecell.families.coordinates.modes import Modes, modes_of
from placecell.pnp import refine_pnp
from placecell.pose import Array, Pose
from placecell.rigid import refine_rigid

Floats = NDArray[np.float32]

_LEAST_NOISE_M = 1e-3
_MEDIAN_OF_3D = 1.5382
"""Median length of a vector of three independent normal numbers."""


@dataclass(frozen=True, eq=False)
class Guesses:
    """Where in the world the N pixels of a query may look, up to K modes each."""

    pixels: Floats
    """(N, 2) px of the camera."""
    points_world: Floats
    """(N, K, 3) the modes; anything where the weight is 0."""
    weight: Floats
    """(N, K), 0 where a pixel has fewer modes; rows sum to at most 1."""
    points_cam: Floats | None = None
    """(N, 3) from the depth, in camera axes, NaN where there is none; None for pictures without depth."""
    covariance: Floats | None = None
    """(N, K, 3, 3) of the modes in world axes; None when it is not known."""

    def __post_init__(self) -> None:
        count, modes = self.weight.shape
        shapes = {"pixels": (count, 2), "points_world": (count, modes, 3)}
        if self.points_cam is not None:
            shapes["points_cam"] = (count, 3)
        if self.covariance is not None:
            shapes["covariance"] = (count, modes, 3, 3)
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} is {getattr(self, name).shape} beside weights of {(count, modes)}")


@dataclass(frozen=True, eq=False)
class Found:
    """What the guesses agree on."""

    world_from_cam: Pose | None
    inliers: int
    """How many pixels agree with the pose."""
    covariance: Array | None
    """(6, 6), right perturbation of `world_from_cam` in camera axes; it takes the pixels for independent."""
    reason: str | None
    """Why there is no pose."""
    matches: int = 0
    """How many pixels were asked whether they agree."""


def preemptive_kabsch(
    guesses: Guesses, *, hypotheses: int = 1024, batch: int = 500, max_error_m: float = 0.1, seed: int
) -> Found:
    """Pose of a picture with depth, after Shotton et al. 2013, sec. 3.

    A hypothesis is made of three pixels with a mode each, drawn by weight, whose triangle has the same sides in the
    world as in the camera (our addition, as Cavallari et al. 2017). Rounds look at `batch` more pixels, add to the
    energy of each hypothesis those whose nearest mode is farther off than `max_error_m`, drop the worse half, and
    refine the others by Kabsch on the inliers among all pixels looked at so far. `refine_rigid` on all pixels, each
    with its nearest mode, gives the answer. Pixels without depth or without modes take no part.
    """
    if guesses.points_cam is None:
        raise ValueError("preemptive_kabsch needs guesses with points_cam")
    modes, origin = modes_of(guesses.points_world, guesses.points_cam, guesses.weight, guesses.covariance, max_error_m)
    if len(modes) < 3:
        return _refusal(f"{len(modes)} pixels have both depth and a coordinate, 3 needed")
    random = np.random.default_rng(seed)
    rotation, translation = modes.hypotheses(hypotheses, random)
    if len(rotation) == 0:
        return _refusal("no three coordinates keep the distances that the depth gives them")
    return _from_depth(modes, _survivor(modes, rotation, translation, batch, random), origin)


def preemptive_pnp(
    guesses: Guesses,
    camera: Camera,
    *,
    hypotheses: int = 256,
    batch: int = 500,
    max_error_px: float = 10.0,
    seed: int,
) -> Found:
    """Pose of a picture without depth, after Brachmann et al. 2016, sec. 3.3.

    A hypothesis is made of four pixels with a mode each, drawn by weight: P3P (poselib) of three, which the fourth has
    to reproject with. Rounds look at `batch` more pixels, add to the energy of each hypothesis the negative
    log-likelihood of the mixtures of modes under projection (`Mixtures`), drop the worse half, and refine the others
    on all pixels looked at so far. `refine_pnp` on all pixels, each with its likeliest mode, gives the answer.
    The refinements, one Gauss-Newton step of expectation maximisation a round, are our reading.
    """
    mixtures, origin = mixtures_of(
        guesses.pixels, guesses.points_world, guesses.weight, guesses.covariance, camera, max_error_px
    )
    if len(mixtures) < 4:
        return _refusal(f"{len(mixtures)} pixels have a coordinate, 4 needed")
    random = np.random.default_rng(seed)
    rotation, translation = mixtures.hypotheses(hypotheses, random)
    if len(rotation) == 0:
        return _refusal("no four coordinates agree on a pose")
    return _from_pixels(mixtures, _survivor(mixtures, rotation, translation, batch, random), origin)


class _Evidence(Protocol):
    """What pixels say of poses."""

    def __len__(self) -> int: ...

    def only(self, pixels: NDArray[np.intp]) -> Self: ...

    def energy(self, rotation: Floats, translation: Floats) -> Array: ...

    def refined(self, rotation: Floats, translation: Floats) -> tuple[Floats, Floats]: ...


def _survivor(
    evidence: _Evidence, rotation: Floats, translation: Floats, batch: int, random: np.random.Generator
) -> Pose:
    """The one that is left after halving, round by round; `energy` keeps what poses cost when they were looked at."""
    order = random.permutation(len(evidence))
    energy, seen = np.zeros(len(rotation)), 0
    while len(rotation) > 1:
        fresh = np.take(order, np.arange(seen, seen + batch), mode="wrap")
        energy += evidence.only(fresh).energy(rotation, translation)
        seen += batch
        best = np.argsort(energy, kind="stable")[: len(energy) // 2]
        energy = energy[best]
        rotation, translation = evidence.only(order[:seen]).refined(rotation[best], translation[best])
    return Pose.nearest(np.column_stack([rotation[0], translation[0]]))


def _from_depth(modes: Modes, pose: Pose, origin: Array) -> Found:
    """The winner refined on all pixels, as noisy as its inliers turn out to be."""
    for _ in range(3):
        nearest, spread = modes.nearest(pose.rotation, pose.translation)
        off = np.linalg.norm(nearest - pose.apply(modes.cam), axis=-1)
        near = off < modes.max_error_m
        if near.sum() < 3:
            return _refusal(f"{near.sum()} coordinates agree on a pose, 3 needed")
        noise = np.maximum(spread * float(np.median((off / spread)[near]) / _MEDIAN_OF_3D), _LEAST_NOISE_M)
        found = refine_rigid(nearest, modes.cam, pose, max_error=modes.max_error_m, noise=noise)
        if found.world_from_cam is None:
            return _refusal(f"{found.count} coordinates agree on a pose, 3 needed")
        pose = found.world_from_cam
    return Found(Pose(pose.rotation, pose.translation + origin), found.count, found.covariance, None, len(modes))


def _from_pixels(mixtures: Mixtures, pose: Pose, origin: Array) -> Found:
    """The winner refined on all pixels; modes of unknown spread are as noisy as the inliers turn out to be."""
    noise: Array | None = None
    for _ in range(3):
        points, covariance = mixtures.likeliest(pose.rotation, pose.translation)
        found = refine_pnp(
            points,
            mixtures.pixels,
            mixtures.camera,
            pose,
            point_covariance=noise if covariance is None else covariance,
            max_error_px=mixtures.max_error_px,
        )
        if found.world_from_cam is None:
            return _refusal(f"{found.count} coordinates agree on a pose, 4 needed")
        pose = found.world_from_cam
        if covariance is None:
            sigma = _sigma_across(points[found.inliers], mixtures.pixels[found.inliers], mixtures.camera, pose)
            noise = np.broadcast_to(sigma**2 * np.eye(3), (len(points), 3, 3))
    return Found(Pose(pose.rotation, pose.translation + origin), found.count, found.covariance, None, len(mixtures))


def _sigma_across(points_world: Array, pixels: Array, camera: Camera, world_from_cam: Pose) -> float:
    """Robust standard deviation, an axis, of how far points lie from the rays of their pixels."""
    seen = world_from_cam.inv.apply(points_world)
    off = (camera.project(seen) - pixels) * seen[:, 2:] / (camera.fx, camera.fy)
    return float(1.4826 * np.median(np.abs(off)))


def _refusal(reason: str) -> Found:
    return Found(None, 0, None, reason)
