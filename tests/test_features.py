"""Features of a scene's frames: those of the pictures, in the order of the frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.features import scene_features
from placecell.images import load_query, write_jpeg
from placecell.log import Silent
from placecell.scene import Frame, Scene
from placecell.sift import Sift

T = TypeVar("T")


class Listening(Silent):
    """A log that remembers what it was asked to track."""

    def __init__(self) -> None:
        self.tracked: list[tuple[str, int | None, int]] = []

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        found = list(items)
        self.tracked.append((what, total, len(found)))
        yield from found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Six pictures of different size of texture, the third blank."""
    frames = []
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 255, (6 + 3 * index, 8 + 4 * index, 3))
        image = np.kron(noise, np.ones((8, 8, 1))).astype(np.uint8)[:48, :64]
        write_jpeg(tmp_path / f"{index}.jpg", np.full((48, 64, 3), 90, np.uint8) if index == 2 else image)
        frames.append(Frame(f"{index}.jpg", f"{index}.jpg", "phone"))
    return Scene("wall", "none", False, tuple(frames), {"phone": Camera.from_focal(64, 48, 50.0)}, tmp_path)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_frame_gets_the_features_of_its_picture(scene: Scene, threads: int) -> None:
    order = [scene.frames[index] for index in (4, 0, 2, 5)]
    sift = Sift(count=40)
    found = scene_features(scene, order, sift, Silent(), threads=threads)
    assert [len(features) > 0 for features in found] == [True, True, False, True]
    for frame, features in zip(order, found, strict=True):
        alone = sift.detect(load_query(scene, frame).image)
        np.testing.assert_array_equal(features.pixels, alone.pixels)
        np.testing.assert_array_equal(features.descriptors, alone.descriptors)


def test_no_frames_have_no_features(scene: Scene) -> None:
    assert scene_features(scene, [], Sift(), Silent()) == []


def test_progress_is_told(scene: Scene) -> None:
    log = Listening()
    scene_features(scene, scene.frames, Sift(), log)
    assert log.tracked == [("detecting features", 6, 6)]


def test_a_picture_that_cannot_be_read_is_named(scene: Scene) -> None:
    (scene.root / "3.jpg").write_text("not a picture")
    with pytest.raises(ImageError, match=r"3\.jpg"):
        scene_features(scene, scene.frames, Sift(), Silent())


def test_a_picture_that_does_not_fit_its_camera_is_named(scene: Scene) -> None:
    tall = replace(scene, cameras={"phone": Camera.from_focal(48, 480, 50.0)})
    with pytest.raises(ImageError, match=r"0\.jpg"):
        scene_features(tall, tall.frames, Sift(), Silent())
