"""Training pictures: decoded once, all as one camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import ImageError, MapError
from placecell.families.regression.shots import Shots, shots_of
from placecell.images import detail, load_query, write_jpeg
from placecell.log import Silent
from placecell.resample import canonical_camera, resample
from placecell.scene import Frame, Scene


def shots(scene: Scene, frames: tuple[Frame, ...], folder: Path, *, depth: bool = False, side: int = 48) -> Shots:
    camera = canonical_camera([scene.camera_of(frame) for frame in frames], side)
    anchor = Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    return shots_of(scene, frames, camera, anchor, depth=depth, folder=folder, log=Silent())


def test_a_shot_is_its_frame_as_the_canonical_camera_sees_it(room_scene: Scene, tmp_path: Path) -> None:
    frames = room_scene.split("train").frames[:3]
    found = shots(room_scene, frames, tmp_path)
    assert found.names == tuple(frame.name for frame in frames) and len(found) == 3
    assert (found.camera.width, found.camera.height) == (64, 48)
    for index, frame in enumerate(frames):
        query = load_query(room_scene, frame)
        np.testing.assert_array_equal(found.images[index], resample(query.image, query.camera, found.camera))
        assert found.details[index] == detail(found.images[index])
    assert found.depths is None


def test_sizes_and_lenses_may_be_mixed(room_scene: Scene, tmp_path: Path) -> None:
    """The same picture stored larger, or through a lens, is the same shot."""
    frame = room_scene.split("train").frames[0]
    query = load_query(room_scene, frame)
    large = query.camera.resized(960, 720)
    lens = replace(query.camera, model="opencv", distortion=(0.08, -0.05, 0.002, -0.001))
    write_jpeg(tmp_path / "large.jpg", resample(query.image, query.camera, large), quality=98)
    write_jpeg(tmp_path / "lens.jpg", resample(query.image, query.camera, lens), quality=98)
    write_jpeg(tmp_path / "same.jpg", query.image, quality=98)
    mixed = replace(
        room_scene,
        root=tmp_path,
        points=None,
        cameras={"same": query.camera, "large": large, "lens": lens},
        frames=tuple(
            replace(frame, name=f"{name}-{copy}", image=f"{name}.jpg", camera=name, depth=None)
            for name, copies in (("same", 2), ("large", 1), ("lens", 1))
            for copy in range(copies)
        ),
    )
    found = shots(mixed, mixed.frames, tmp_path / "work", side=96)
    assert found.camera == canonical_camera([query.camera], 96)
    inner = found.images[:, 12:-12, 16:-16].astype(float)  # the lens sees less at the corners
    for other in inner[2:]:
        assert np.abs(other - inner[0]).mean() < 2.5  # of 255
    assert np.abs(np.roll(inner[0], 2, axis=1) - inner[0]).mean() > 8  # two pixels off would be seen


def test_depth_comes_with_it(room_scene: Scene, tmp_path: Path) -> None:
    frames = room_scene.split("train").frames[:2]
    found = shots(room_scene, frames, tmp_path, depth=True)
    assert found.depths is not None and found.depths.shape == (2, 48, 64)
    query = load_query(room_scene, frames[1], depth=True)
    assert query.depth_m is not None
    middle = np.nanmedian(query.depth_m), np.nanmedian(found.depths[1])
    assert middle[1] == pytest.approx(middle[0], rel=0.03)


def test_a_frame_without_depth_is_named(room_scene: Scene, tmp_path: Path) -> None:
    frames = room_scene.split("train").frames[:3]
    frames = (*frames[:2], replace(frames[2], depth=None))
    with pytest.raises(MapError, match=rf"frame {frames[2].name} has no depth; leave out --depth"):
        shots(room_scene, frames, tmp_path, depth=True)


def test_pictures_are_decoded_once(room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = room_scene.split("train").frames[:3]
    before = shots(room_scene, frames, tmp_path)
    read: list[str] = []

    def load(scene: Scene, frame: Frame, *, depth: bool = False) -> object:
        read.append(frame.name)
        return load_query(scene, frame, depth=depth)

    monkeypatch.setattr("placecell.families.regression.shots.load_query", load)
    np.testing.assert_array_equal(shots(room_scene, frames, tmp_path).images, before.images)
    assert read == []
    shots(room_scene, frames, tmp_path, side=56)
    assert len(read) == 3
    shots(room_scene, frames[:2], tmp_path, side=56)
    assert len(read) == 5
    camera = room_scene.cameras["camera"]
    moved = replace(room_scene, cameras={"camera": replace(camera, cx=camera.cx + 1)})
    shots(moved, frames[:2], tmp_path, side=56)
    assert len(read) == 7


def test_a_changed_picture_is_read_again(room_scene: Scene, tmp_path: Path) -> None:
    frame = replace(room_scene.split("train").frames[0], image="a.jpg", depth=None)
    scene = replace(room_scene, root=tmp_path, frames=(frame,), points=None)
    camera = Camera.from_focal(480, 360, 393.6)
    for grey in (40, 200):
        write_jpeg(
            tmp_path / "a.jpg", np.full((camera.height, camera.width, 3), grey, np.uint8), quality=90 + grey // 40
        )
        assert abs(int(shots(scene, (frame,), tmp_path / "work").images[0].mean()) - grey) <= 1


def test_a_missing_picture_is_named(room_scene: Scene, tmp_path: Path) -> None:
    frames = room_scene.split("train").frames[:3]
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        shots(room_scene, (*frames[:2], replace(frames[2], image="gone.jpg")), tmp_path)
