"""A short training on real frames: it places the frames between those that it has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.damage import damaged
from placecell.datasets import seven_scenes
from placecell.estimate import Query
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.images import load_query
from placecell.log import Silent
from placecell.pose import pose_error
from placecell.scene import Scene

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.fixture(scope="module")
def walk(data_root: Path) -> Scene:
    """One training sequence of the red kitchen; each other frame is learned from, the others are asked."""
    kitchen = seven_scenes.read(data_root / "redkitchen", labels="sfm")
    return kitchen.keep([frame.sequence == "seq-04" for frame in kitchen.frames])


@pytest.fixture(scope="module")
def found(walk: Scene, data_root: Path) -> CoordinatesMap:
    weights = data_root.parent / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not weights.is_file():
        pytest.skip(f"no ImageNet weights: {weights} is not there")
    settings = Coordinates(
        weights=str(weights),
        short_side=240,
        looks=2,
        samples=200,
        hidden=256,
        blocks=1,
        clusters=20,
        epochs=16.0,
        batch=1024,
        max_error_px=5.0,
    )
    seen = walk.keep([index % 2 == 0 for index in range(len(walk.frames))])
    return settings.build(seen, seed=0, log=Silent())


@pytest.fixture(scope="module")
def between(walk: Scene) -> list[Query]:
    return [load_query(walk, frame) for frame in walk.frames[1::10]]


def medians(walk: Scene, found: CoordinatesMap, queries: list[Query]) -> tuple[float, float]:
    truths = {frame.name: frame.world_from_cam for frame in walk.frames}
    errors = [
        pose_error(estimate.world_from_cam, truth)
        for estimate in found.localize(queries)
        if (truth := truths[estimate.name]) is not None
    ]
    distance, angle = np.median(errors, axis=0)
    return float(distance), float(angle)


def test_it_places_frames_between_those_it_has_seen(walk: Scene, found: CoordinatesMap, between: list[Query]) -> None:
    distance, angle = medians(walk, found, between)
    assert distance < 0.08 and angle < 2.0, (distance, angle)  # 3.9 cm, 0.9 degrees


def test_another_focal_length_does_not_matter(walk: Scene, found: CoordinatesMap, between: list[Query]) -> None:
    zoomed = [damaged(query, "zoomed", 0.3, seed=0) for query in between]
    assert zoomed[0].camera.fx != between[0].camera.fx
    distance, angle = medians(walk, found, zoomed)
    assert distance < 0.2 and angle < 3.0, (distance, angle)  # 10.8 cm, 1.6 degrees


def test_a_wall_is_refused(found: CoordinatesMap, between: list[Query]) -> None:
    """Bare, or so close that only the noise of the sensor is in the picture."""
    camera, rng = between[0].camera, np.random.default_rng(0)
    shade = np.linspace(110, 160, camera.width)[None, :, None] * np.linspace(0.8, 1.0, camera.height)[:, None, None]
    walls = {noise: shade + rng.normal(0, noise, (camera.height, camera.width, 3)) for noise in (0.0, 2.0, 5.0)}
    for noise, image in walls.items():
        wall = Query(f"noise {noise}", image.clip(0, 255).astype(np.uint8), camera)
        (estimate,) = found.localize([wall])
        assert estimate.world_from_cam is None, (noise, estimate.inliers)
