"""How wrong a guess is: in pixels where it can be seen, in lengths where it cannot."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from placecell.families.coordinates.head import Guess
from placecell.geometry_torch import product

_NEAREST = 0.1
"""Of the typical depth: nearer guesses, or such behind the camera, have no projection worth looking at."""
_WILD_PX = 1000.0
_SPREAD_WEIGHT = 0.1
_LOG_SPREAD = (-3.0, 6.0)
_MOST_PX = 200.0


class Cells(NamedTuple):
    """What is known of N cells of the buffer."""

    rays_N2: Tensor
    """x / z and y / z in the camera of the look."""
    depth_N: Tensor
    """Along z in it, scene units; NaN where unknown."""
    rotation_N33: Tensor
    """`anchor_from_look`."""
    centre_N3: Tensor
    focal_px_N: Tensor


def tolerance_px(progress: float, first: float, last: float) -> float:
    """Errors count in full up to about this: ACE's schedule, first √(1 - t²) + last, with t from 0 to 1."""
    return first * math.sqrt(max(0.0, 1.0 - progress * progress)) + last


def cell_loss(
    guess: Guess, cells: Cells, tolerance: float, usual_depth: float, surface_weight: float = 0.0
) -> dict[str, Tensor]:
    """Mean over the cells of τ tanh(e / τ), e = |reprojection error|₁ in pixels (ACE).

    Where it is known how deep a cell lies, `surface_weight` of that is given to τ tanh(d / τ), d = |X̂ - X|₁ f / z, how
    far off the guess is in space, in pixels at its depth: a reprojection error alone leaves it free along the ray.

    A guess that is behind the camera, nearly in it, or wildly off is drawn to where it is known to lie or, where that
    is unknown, to the usual depth along its ray, in pixels at that depth. Beside it the spread s is learned as that of
    Laplace's distribution, |e|₂ exp(-s) + s, which moves no point.
    """
    rays = torch.cat([cells.rays_N2, torch.ones_like(cells.rays_N2[:, :1])], dim=1)
    known = cells.depth_N.isfinite()
    depth = torch.where(known, cells.depth_N, usual_depth)
    points_cam = product((guess.points_N3 - cells.centre_N3).unsqueeze(1), cells.rotation_N33).squeeze(1)
    ahead = points_cam[:, 2]
    error = points_cam[:, :2] / ahead.clamp_min(_NEAREST * usual_depth).unsqueeze(1) - cells.rays_N2
    error = error * cells.focal_px_N.unsqueeze(1)
    length = error.abs().sum(dim=1)
    seen = (ahead > _NEAREST * usual_depth) & (length.detach() < _WILD_PX)
    away = (points_cam - depth.unsqueeze(1) * rays).abs().sum(dim=1) * cells.focal_px_N / depth
    loss = torch.where(seen, tolerance * torch.tanh(length / tolerance), away.clamp_max(10 * _WILD_PX))
    apart = tolerance * torch.tanh(away / tolerance)
    loss = torch.where(seen & known, (1 - surface_weight) * loss + surface_weight * apart, loss)
    off = torch.linalg.vector_norm(error.detach(), dim=1).clamp_max(_MOST_PX)
    off = torch.where(seen, off, _MOST_PX)
    spread = guess.spread_N.clamp(*_LOG_SPREAD)
    # Beyond its range a spread is drawn back to it: clamped alone it would never learn again.
    told = (off * torch.exp(-spread) + spread + (guess.spread_N - spread).abs()).mean()
    return {
        "loss": loss.mean() + _SPREAD_WEIGHT * told,
        "error_px": length.detach().median(),
        "seen": seen.float().mean(),
    }
