"""Camera poses from as few points as decide them: what RANSAC chooses between."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from placecell.camera import Camera
from placecell.families.coordinates.dsac.optimum import Poses, errors, followed, in_camera
from placecell.families.coordinates.dsac.sights import Depths, Pixels, Sight

MOST_TRIES = 50_000
"""Samples after which there are as many hypotheses as there will be; DSAC* gives up after a million."""
_FIRST_TRIES = 4
"""Samples a hypothesis in the first round; each later round doubles what was drawn, up to `_ROUND`."""
_ROUND = 8192


class Hypotheses(NamedTuple):
    """H poses `map_from_cam`; constants, until `moving` ties them to the coordinates."""

    indices_HM: Tensor
    """Which points each was made from; the first three of them decide the pose."""
    rotation_H33: Tensor
    centre_H3: Tensor


def sample_poses(
    points_world_N3: Tensor,
    pixels_N2: Tensor | NDArray[np.floating],
    camera: Camera,
    count: int,
    *,
    max_error_px: float = 10.0,
    generator: torch.Generator,
) -> Hypotheses:
    """At most `count` poses from 2D-3D matches, see `sampled`; pixels are those of the camera, distorted or not."""
    sight = Pixels.of(pixels_N2, camera, points_world_N3.device)
    return sampled(points_world_N3, sight, count, max_error=max_error_px, generator=generator)


def sample_rigid(
    points_world_N3: Tensor,
    points_cam_N3: Tensor | NDArray[np.floating],
    count: int,
    *,
    max_error: float = 0.1,
    generator: torch.Generator,
) -> Hypotheses:
    """At most `count` poses from 3D-3D matches, see `sampled`; NaN where a point has no depth."""
    sight = Depths.of(points_cam_N3, points_world_N3.device)
    return sampled(points_world_N3, sight, count, max_error=max_error, generator=generator)


@torch.no_grad()
def sampled(points_N3: Tensor, sight: Sight, count: int, *, max_error: float, generator: torch.Generator) -> Hypotheses:
    """At most `count` poses of minimal samples that agree with themselves, fewer where `MOST_TRIES` give no more.

    RGB: P3P of three points, and the fourth decides which of up to four poses; RGB-D: Kabsch of three. All points of
    a sample lie within `max_error` of what was measured, pixels or scene units; other samples are drawn anew
    (Brachmann & Rother 2021, sec. 3.3).

    Args:
        generator: of the CPU; with what is `usable`, it alone decides which samples are drawn.
    """
    usable = sight.usable.nonzero().squeeze(-1).cpu()
    points, tries = points_N3.double(), 0
    found = Hypotheses(
        torch.zeros(0, sight.minimum, dtype=torch.long, device=points.device),
        points.new_zeros(0, 3, 3),
        points.new_zeros(0, 3),
    )
    while len(usable) >= sight.minimum and len(found.indices_HM) < count and tries < MOST_TRIES:
        draws = min(_ROUND, max(_FIRST_TRIES * count, tries), MOST_TRIES - tries)
        samples = _drawn(usable, draws, sight.minimum, generator).to(points.device)
        more = _agreeing(points, sight, samples, max_error)
        found = Hypotheses(*(torch.cat(pair)[:count] for pair in zip(found, more, strict=True)))
        tries += draws
    return found


def moving(points: Tensor, sight: Sight, found: Hypotheses) -> Poses:
    """The hypotheses as functions of the three points that made each; values as they are.

    Args:
        points: (N, 3) of all hypotheses, or (H, N, 3) of each, the sight likewise.
    """
    three = found.indices_HM[:, :3]
    chosen = points[three] if points.ndim == 2 else points.gather(1, three.unsqueeze(-1).expand(-1, -1, 3))
    used = torch.ones_like(three, dtype=torch.bool)
    return followed(chosen.double(), sight.at(three), (found.rotation_H33, found.centre_H3), used)


def _drawn(usable: Tensor, draws: int, size: int, generator: torch.Generator) -> Tensor:
    """(T, size) different points each; those in which a point came twice are left out."""
    drawn = torch.randint(len(usable), (draws, size), generator=generator)
    ordered = drawn.sort(dim=1).values
    return usable[drawn[(ordered[:, 1:] > ordered[:, :-1]).all(1)]]


def _agreeing(points_N3: Tensor, sight: Sight, samples_TM: Tensor, max_error: float) -> Hypotheses:
    """The poses of the samples that agree with themselves, in the order of the samples."""
    three = samples_TM[:, :3]
    which, rotation, centre = sight.at(three).poses(points_N3[three])
    indices = samples_TM[which]
    worst = errors(sight.at(indices), in_camera(points_N3[indices], (rotation, centre))).amax(-1)
    good = _best_of_each(which, worst)
    good = good[worst[good] < max_error]
    return Hypotheses(indices[good], rotation[good], centre[good])


def _best_of_each(which_S: Tensor, worst_S: Tensor) -> Tensor:
    """The solution of the least error of each sample, in the order of the samples."""
    order = torch.argsort(worst_S, stable=True)
    order = order[torch.argsort(which_S[order], stable=True)]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = which_S[order][1:] != which_S[order][:-1]
    return order[first]
