"""Three points and their rays to camera poses, many samples at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Array

Indices = NDArray[np.intp]


def p3p(rays: Array, points_world: Array) -> tuple[Indices, Array]:
    """Points in camera axes that lie on given rays, as far from each other as in the world: up to four a sample.

    Grunert's solution (1841) as Haralick et al. (IJCV 1994) write it: a quartic in the ratio of two depths, solved in
    closed form after Ferrari. Nearly flat samples and double roots come out inexact or not at all, which RANSAC does
    not mind; poselib.p3p is more careful, and slower, as it takes one sample at a time.

    Args:
        rays: (T, 3, 3) unit directions in camera axes, a row a point.
        points_world: (T, 3, 3).

    Returns:
        sample: (S,) which of the T samples a solution belongs to.
        points_cam: (S, 3, 3) all in front of the camera centre, along the rays.
    """
    rays, points_world = np.asarray(rays, np.float64), np.asarray(points_world, np.float64)
    with np.errstate(all="ignore"):  # what is degenerate ends as NaN and is left out
        cosines = np.einsum("tki,tki->kt", rays[:, [1, 0, 0]], rays[:, [2, 2, 1]])
        sides = points_world[:, [1, 0, 0]] - points_world[:, [2, 2, 1]]
        squares = np.einsum("tki,tki->kt", sides, sides)
        ratio = quartic_roots(_grunert(cosines, squares))
        third, sample = np.nonzero(np.isfinite(ratio) & (ratio > 0))
        depth = _depths(ratio[third, sample], cosines[:, sample], squares[:, sample])
        good = np.isfinite(depth).all(axis=0) & (depth > 0).all(axis=0)
    sample = sample[good]
    return sample, depth.T[good][..., None] * rays[sample]


@np.errstate(invalid="ignore")
def pose_of_triangles(triangles_world: Array, triangles_cam: Array) -> tuple[Array, Array]:
    """Rotations (S, 3, 3) and translations (S, 3) of `world_from_cam` that carry congruent triangles (S, 3, 3) over.

    NaN for triangles without an area.
    """
    rotation = np.swapaxes(_frames(triangles_world), -1, -2) @ _frames(triangles_cam)
    translation = triangles_world[:, 0] - (rotation @ triangles_cam[:, 0, :, None])[..., 0]
    return rotation, translation


@np.errstate(all="ignore")
def quartic_roots(coefficients: Array) -> Array:
    """(4, T) real roots of quartics, NaN for the others; coefficients (5, T) from the highest power on."""
    b, c, d, e = coefficients[1:] / coefficients[0]
    p = c - 3 * b * b / 8
    q = d - b * c / 2 + b**3 / 8
    r = e - b * d / 4 + b * b * c / 16 - 3 * b**4 / 256
    # x⁴ + p x² + q x + r is a product of two quadratics by the largest root of Ferrari's resolvent.
    m = np.maximum(_largest_cubic_root(p, p * p / 4 - r, -q * q / 8), 1e-300)
    root = np.sqrt(2 * m)
    turns = [np.sqrt(-2 * (p + m) + sign * 2 * q / root) for sign in (-1.0, 1.0)]
    found: Array = np.stack([root + turns[0], root - turns[0], -root + turns[1], -root - turns[1]]) / 2 - b / 4
    for _ in range(2):  # Newton
        slope = ((4 * found + 3 * b) * found + 2 * c) * found + d
        step = ((((found + b) * found + c) * found + d) * found + e) / slope
        found = np.where(np.abs(step) < 0.1 * (np.abs(found) + 0.1), found - step, found)
    return found


def _grunert(cosines: Array, squares: Array) -> Array:
    """(5, T) coefficients A4 to A0 of the quartic in v = s3 / s1."""
    ca, cb, cg = cosines
    a, c = squares[0] / squares[1], squares[2] / squares[1]
    less, more = a - c, a + c
    return np.stack(
        [
            (less - 1) ** 2 - 4 * c * ca**2,
            4 * (less * (1 - less) * cb - (1 - more) * ca * cg + 2 * c * ca**2 * cb),
            2
            * (less**2 - 1 + 2 * less**2 * cb**2 + 2 * (1 - c) * ca**2 - 4 * more * ca * cb * cg + 2 * (1 - a) * cg**2),
            4 * (-less * (1 + less) * cb + 2 * a * cg**2 * cb - (1 - more) * ca * cg),
            (1 + less) ** 2 - 4 * a * cg**2,
        ]
    )


def _depths(v: Array, cosines: Array, squares: Array) -> Array:
    """(3, S) depths along the rays, of ratios v = s3 / s1."""
    ca, cb, cg = cosines
    less = (squares[0] - squares[2]) / squares[1]
    u = ((less - 1) * v**2 - 2 * less * cb * v + 1 + less) / (2 * (cg - v * ca))
    first = np.sqrt(squares[1] / (1 + v**2 - 2 * v * cb))
    return np.stack([first, u * first, v * first])


def _largest_cubic_root(b: Array, c: Array, d: Array) -> Array:
    """The largest real root of x³ + b x² + c x + d."""
    p, q = c - b * b / 3, 2 * b**3 / 27 - b * c / 3 + d
    inner = q * q / 4 + p**3 / 27
    half = np.sqrt(np.maximum(inner, 0.0))
    outer = -np.sign(q) * (np.abs(q) / 2 + half)
    one = np.cbrt(outer)
    lone = one - np.where(one == 0, 0.0, p / (3 * one))
    size = np.sqrt(np.maximum(-p / 3, 0.0))
    three = 2 * size * np.cos(np.arccos(np.clip(-q / (2 * size**3), -1.0, 1.0)) / 3)
    root = np.where(inner >= 0, lone, three) - b / 3
    slope = (3 * root + 2 * b) * root + c
    return np.where(slope > 0, root - (((root + b) * root + c) * root + d) / slope, root)


def _frames(triangles: Array) -> Array:
    """(S, 3, 3) orthonormal axes of triangles, as rows."""
    first = triangles[:, 1] - triangles[:, 0]
    third = np.cross(first, triangles[:, 2] - triangles[:, 0])
    first = first / np.linalg.norm(first, axis=-1, keepdims=True)
    third = third / np.linalg.norm(third, axis=-1, keepdims=True)
    return np.stack([first, np.cross(third, first), third], axis=1)
