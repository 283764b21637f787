from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from families.coordinates.dsac_place import CAMERA
from placecell.augment import Varied
from placecell.backbones import picture_tensor
from placecell.camera import Camera
from placecell.families.coordinates.dsac.shots import STILL, Shots, Variation, _seen, batch_of, cell_pixels
from placecell.pose import Pose

PLANE = np.array([0.3, -0.2, 1.0, 2.0])
"""n x = d in the frame of the map: a wall before the cameras."""
VARIED = Variation(25.0, 1.4, 0.2)


def wall(pose: Pose, camera: Camera) -> NDArray[np.float64]:
    """(h, w) depth of the wall."""
    rays = camera.rays(camera.pixel_centres) @ pose.rotation.T
    depth: NDArray[np.float64] = (PLANE[3] - PLANE[:3] @ pose.translation) / (rays @ PLANE[:3])
    return depth


def shots_of(count: int = 3, *, depth: bool = True, camera: Camera = CAMERA) -> Shots:
    rng = np.random.default_rng(0)
    poses = [Pose.exp(0.2 * rng.normal(size=6)) for _ in range(count)]
    return Shots(
        names=[f"{index}.jpg" for index in range(count)],
        camera=camera,
        images=rng.integers(0, 255, (count, camera.height, camera.width, 3), np.uint8),
        rotations=np.stack([pose.rotation for pose in poses]).astype(np.float32),
        centres=np.stack([pose.translation for pose in poses]).astype(np.float32),
        depths=np.stack([wall(pose, camera) for pose in poses]) if depth else None,
    )


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([7, index]) for index in range(count)]


def test_cells_are_whole_and_named_by_their_middles() -> None:
    camera = Camera.from_focal(45, 30, 50.0)
    assert_allclose(cell_pixels(camera, 10)[..., 0], [[5, 15, 25, 35]] * 3)
    assert_allclose(cell_pixels(camera, 10)[..., 1], np.transpose([[5, 15, 25]] * 4))


def test_pictures_as_they_are() -> None:
    shots = shots_of()
    batch = batch_of(shots, [2, 0], STILL, 8, rngs(2))
    assert (batch["images"] == picture_tensor(shots.images[[2, 0]])).all()
    assert_allclose(batch["rotation"], shots.rotations[[2, 0]], atol=1e-7)
    assert_allclose(batch["centre"], shots.centres[[2, 0]])
    assert_allclose(batch["K"], [CAMERA.matrix] * 2)
    assert batch["seen"].shape == (2, 30, 40, 3)


@pytest.mark.parametrize("variation", [STILL, VARIED])
def test_seen_points_lie_on_the_rays_of_their_cells_and_on_the_wall(variation: Variation) -> None:
    """Turned and zoomed too: a swapped turn, a forgotten zoom or a depth along the wrong axis would leave the wall."""
    shots = shots_of()
    batch = batch_of(shots, [0, 1, 2], variation, 8, rngs(3))
    for index in range(3):
        seen = batch["seen"][index].double().numpy()
        known = np.isfinite(seen).all(axis=-1)
        assert known.mean() > 0.6
        pixels = seen @ batch["K"][index].double().numpy().T
        assert_allclose((pixels[..., :2] / pixels[..., 2:])[known], cell_pixels(CAMERA, 8)[known], atol=1e-3)
        points_map = seen @ batch["rotation"][index].double().numpy().T + batch["centre"][index].double().numpy()
        assert_allclose((points_map @ PLANE[:3])[known], PLANE[3], atol=0.01)  # the nearest of its pixels
    if variation is VARIED:
        assert not np.allclose(batch["K"][0], CAMERA.matrix)
        assert not np.allclose(batch["rotation"][0], shots.rotations[0], atol=0.01)


def test_depth_is_along_the_axis_of_the_camera_that_measured_it() -> None:
    """Turned up and sideways, where the two axes differ."""
    shots = shots_of(1)
    turned = Varied(shots.images[0], CAMERA, Pose.exp([0.1, -0.15, 0.3, 0.0, 0.0, 0.0]).rotation)
    seen = _seen(shots, 0, turned, 8)
    points_map = seen @ turned.cam_from_varied.T @ shots.rotations[0].T + shots.centres[0]
    known = np.isfinite(seen).all(axis=-1)
    assert known.mean() > 0.5
    assert_allclose((points_map @ PLANE[:3])[known], PLANE[3], atol=0.01)


def test_depth_may_be_of_another_size() -> None:
    full = shots_of()
    camera = CAMERA.resized(80, 60)
    assert full.depths is not None
    poses = [Pose.nearest(np.column_stack(pair)) for pair in zip(full.rotations, full.centres, strict=True)]
    small = replace(full, depths=np.stack([wall(pose, camera) for pose in poses]).astype(np.float16))
    seen = [batch_of(shots, [1], STILL, 8, rngs(1))["seen"] for shots in (full, small)]
    assert_allclose(seen[0], seen[1], atol=0.03)


def test_unknown_depth_is_unknown() -> None:
    shots = shots_of()
    assert shots.depths is not None
    shots.depths[0, :, :160] = np.nan
    known = np.isfinite(batch_of(shots, [0], STILL, 8, rngs(1))["seen"][0].numpy()).all(axis=-1)
    assert known.tolist() == [[column >= 20 for column in range(40)]] * 30


@pytest.mark.parametrize("variation", [STILL, VARIED])
def test_points_land_in_the_cells_that_show_them(variation: Variation) -> None:
    shots = shots_of(depth=False)
    rng = np.random.default_rng(1)
    pose = Pose.nearest(np.column_stack([shots.rotations[0], shots.centres[0]]))
    points_cam = CAMERA.rays(rng.uniform((0, 0), (320, 240), (300, 2))) * rng.uniform(1, 3, (300, 1))
    points = np.concatenate([pose.apply(points_cam), pose.apply(-points_cam[:50])]).astype(np.float32)
    shots = replace(shots, points=[points, points[:0], points[:0]])
    batch = batch_of(shots, [0], variation, 8, rngs(1))
    seen = batch["seen"][0].double().numpy()
    known = np.isfinite(seen).all(axis=-1)
    assert 100 < known.sum() <= 300
    pixels = seen[known] @ batch["K"][0].double().numpy().T
    off = pixels[:, :2] / pixels[:, 2:] - cell_pixels(CAMERA, 8)[known]
    assert np.abs(off).max() <= 4.001
    points_map = seen[known] @ batch["rotation"][0].double().numpy().T + batch["centre"][0].double().numpy()
    distance = np.linalg.norm(points_map[:, None] - points[None, :300], axis=-1)
    assert distance.min(axis=1).max() < 1e-5
    assert batch_of(shots, [1], variation, 8, rngs(1))["seen"].isnan().all()


def test_of_two_points_in_a_cell_the_nearer_counts() -> None:
    ray = CAMERA.rays([100.0, 100.0])
    for order in ((1.0, 2.0), (2.0, 1.0)):
        shots = shots_of(1, depth=False)
        shots = replace(shots, rotations=np.eye(3, dtype=np.float32)[None], centres=np.zeros((1, 3), np.float32))
        shots = replace(shots, points=[np.stack([ray * depth for depth in order]).astype(np.float32)])
        assert_allclose(batch_of(shots, [0], STILL, 8, rngs(1))["seen"][0, 12, 12], ray, atol=1e-6)


def test_shots_that_do_not_fit_together_are_refused() -> None:
    shots = shots_of()
    with pytest.raises(ValueError, match="do not fit together"):
        replace(shots, images=shots.images[:, :10])
    with pytest.raises(ValueError, match="opencv camera"):
        replace(shots, camera=replace(CAMERA, model="opencv", distortion=(0.1, 0.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match="what is known of 2"):
        replace(shots, points=[np.zeros((0, 3), np.float32)] * 2)
