"""A short training on real frames: far better than not having trained, and far from what minutes give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell import floors
from placecell.datasets import seven_scenes
from placecell.estimate import Estimate
from placecell.families.regression.config import Regression
from placecell.families.regression.localizer import RegressionMap
from placecell.images import load_query
from placecell.log import Silent
from placecell.pose import pose_error
from placecell.run import asked_of, localize_all
from placecell.scene import Scene

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def kitchen(data_root: Path) -> Scene:
    return seven_scenes.read(data_root / "redkitchen", labels="sfm")


@pytest.fixture(scope="module")
def trained(kitchen: Scene, data_root: Path) -> RegressionMap:
    weights = data_root.parent / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not weights.is_file():
        pytest.skip(f"no ImageNet weights: {weights} is not there")
    settings = Regression(weights=str(weights), frames=120, epochs=32, new_views=2, short_side=96, validation=0.0)
    return settings.build(kitchen, device="cpu", seed=0, log=Silent())


def medians(scene: Scene, estimates: list[Estimate]) -> tuple[float, float]:
    """Distance and angle over the test frames."""
    truths = {frame.name: frame.world_from_cam for frame in scene.frames}
    errors = [pose_error(e.world_from_cam, truth) for e in estimates if (truth := truths[e.name]) is not None]
    distances, angles = zip(*errors, strict=True)
    return float(np.median(distances)), float(np.median(angles))


def test_it_learns(kitchen: Scene, trained: RegressionMap) -> None:
    asked = kitchen.split("test").posed[::3]
    found = medians(kitchen, list(localize_all(trained, asked_of(kitchen, asked))))
    constant = medians(kitchen, floors.constant(kitchen, asked))
    assert found[0] < 0.8 * constant[0] and found[1] < 0.8 * constant[1], (found, constant)


def test_it_tells_what_it_looks_at(kitchen: Scene, trained: RegressionMap) -> None:
    queries = [load_query(kitchen, frame) for frame in kitchen.split("test").posed[:2]]
    saliency = trained.saliency(queries[0])
    assert saliency.shape == (480, 640) and saliency.min() >= 0 and saliency.max() > 0
    features = trained.pose_features(queries)
    assert features.shape == (2, 128) and np.isfinite(features).all()
