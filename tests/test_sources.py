"""What a source is, what identifies it, and which frames are held out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placecell.camera import Camera
from placecell.errors import SceneError
from placecell.images import read_image, write_jpeg
from placecell.log import Silent
from placecell.pose import Pose
from placecell.scene import Frame, Scene
from placecell.sources import (
    hold_out,
    identity,
    photo_pictures,
    read_dataset,
    recognize,
    scene_pictures,
    thin,
    video_pictures,
)
from placecell.video import write_video


def jpeg(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jpeg(path, np.full((48, 64, 3), 90, np.uint8))
    return path


def clip(path: Path, frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (np.full((48, 64, 3), 10 + 5 * index, np.uint8) for index in range(frames)), 10.0)
    return path


class TestRecognize:
    def test_a_video(self, tmp_path: Path) -> None:
        source = recognize(clip(tmp_path / "my walk.avi", 3))
        assert (source.kind, source.name, source.files) == ("videos", "my walk", (tmp_path / "my walk.avi",))

    def test_a_folder_of_videos_of_photos_and_a_data_set(self, tmp_path: Path) -> None:
        clip(tmp_path / "videos" / "b.avi", 2)
        shutil.copy(tmp_path / "videos" / "b.avi", tmp_path / "videos" / "a.AVI")
        assert [path.name for path in recognize(tmp_path / "videos").files] == ["a.AVI", "b.avi"]
        for name in ("9.jpg", "10.jpg", "deep/1.jpg"):
            jpeg(tmp_path / "photos.2024" / name)
        photos = recognize(tmp_path / "photos.2024")
        assert (photos.kind, photos.name) == ("photos", "photos.2024")
        assert [path.name for path in photos.files] == ["9.jpg", "10.jpg", "1.jpg"]
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "transforms.json").write_text("{}")
        jpeg(tmp_path / "set" / "1.jpg")
        assert (recognize(tmp_path / "set").kind, recognize(tmp_path / "set").format) == ("dataset", "nerfstudio")
        assert recognize(tmp_path / "photos.2024", "tum").format == "tum"

    def test_a_scene_of_ours(self, scene_of: Callable[..., Scene], tmp_path: Path) -> None:
        saved = scene_of().save(tmp_path / "scene")
        source = recognize(tmp_path / "scene")
        assert (source.kind, source.format) == ("dataset", "scene")
        assert read_dataset(source).fingerprint == saved.fingerprint
        with pytest.raises(SceneError, match="drop --labels"):
            read_dataset(source, labels="sfm")

    def test_what_scenes_are_not_made_of(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        both = tmp_path / "both"
        clip(both / "a.avi", 2)
        jpeg(both / "a.jpg")
        (tmp_path / "notes.txt").write_text("hello")
        for path, text in (
            (tmp_path / "nothing", "no such file or folder"),
            (tmp_path / "empty", "holds no pictures, no videos and no data set"),
            (both, "1 videos and 1 pictures"),
            (tmp_path / "notes.txt", "not a video"),
        ):
            with pytest.raises(SceneError, match=text):
                recognize(path)
        with pytest.raises(SceneError, match="drop --format"):
            recognize(both / "a.avi", "tum")


class TestIdentity:
    def test_tells_inputs_apart(self, tmp_path: Path) -> None:
        paths = [jpeg(tmp_path / name) for name in ("a.jpg", "b.jpg")]
        first = identity(paths, {"every": 1})
        assert identity(paths, {"every": 1}) == first
        assert identity(paths, {"every": 2}) != first
        assert identity(paths[:1], {"every": 1}) != first
        assert identity(paths[::-1], {"every": 1}) != first
        os.utime(paths[0], (1, 1))
        assert identity(paths, {"every": 1}) != first

    def test_names_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(SceneError, match=r"gone\.jpg: not readable"):
            identity([tmp_path / "gone.jpg"], {})


class TestPictures:
    def test_of_photos(self, tmp_path: Path) -> None:
        for name in ("1.jpg", "east/2.jpg", "east/3.jpg"):
            jpeg(tmp_path / "p" / name)
        found = photo_pictures(recognize(tmp_path / "p"), focal_px=80.0)
        assert [(one.name, one.sequence) for one in found] == [
            ("1.jpg", ""),
            ("east/2.jpg", "east"),
            ("east/3.jpg", "east"),
        ]
        assert {one.camera for one in found} == {Camera.from_focal(64, 48, 80.0)}
        assert [one.name for one in photo_pictures(recognize(tmp_path / "p"), every=2)] == ["1.jpg", "east/3.jpg"]
        assert {one.camera for one in photo_pictures(recognize(tmp_path / "p"))} == {None}

    def test_of_one_video(self, tmp_path: Path) -> None:
        source = recognize(clip(tmp_path / "walk.avi", 7))
        found = video_pictures(source, tmp_path / "work", every=3, count=300, focal_px=None, log=Silent())
        assert [one.name for one in found] == [f"frame-{index:06d}.jpg" for index in (0, 3, 6)]
        assert {(one.sequence, one.lens, one.camera) for one in found} == {("walk", "walk", None)}
        assert [round(one.time_s or 0.0, 2) for one in found] == [0.0, 0.3, 0.6]
        assert abs(int(read_image(found[2].path).mean()) - 40) <= 3

    def test_of_several_videos(self, tmp_path: Path) -> None:
        clip(tmp_path / "v" / "one.avi", 6)
        clip(tmp_path / "v" / "two.avi", 4)
        source = recognize(tmp_path / "v")
        found = video_pictures(source, tmp_path / "work", every=2, count=300, focal_px=70.0, log=Silent())
        assert [one.name for one in found] == [
            *(f"one/frame-{index:06d}.jpg" for index in (0, 2, 4)),
            *(f"two/frame-{index:06d}.jpg" for index in (0, 2)),
        ]
        assert [one.sequence for one in found] == ["one"] * 3 + ["two"] * 2
        assert [one.lens for one in found] == ["one"] * 3 + ["two"] * 2  # two cameras, unless told
        assert all(one.path.is_file() for one in found)

    def test_of_a_scene_leave_its_poses_behind(self, scene_of: Callable[..., Scene]) -> None:
        scene = scene_of()
        found = scene_pictures(scene)
        assert [(one.name, one.sequence, one.lens) for one in found] == [
            (frame.name, frame.sequence, "phone") for frame in scene.frames
        ]
        assert {one.camera for one in found} == {scene.cameras["phone"]}
        assert {one.camera for one in scene_pictures(scene, 60.0)} == {Camera.from_focal(64, 48, 60.0)}


def walk(lengths: tuple[int, ...]) -> Scene:
    frames = tuple(
        Frame(f"{sequence}/{index}.jpg", "x.jpg", "c", Pose.identity(), sequence=str(sequence))
        for sequence, length in enumerate(lengths)
        for index in range(length)
    )
    return Scene("walk", "sfm", False, frames, {"c": Camera.from_focal(64, 48, 50.0)}, Path("/"))


class TestHoldOut:
    @given(st.lists(st.integers(1, 60), min_size=1, max_size=4).map(tuple), st.floats(0.01, 0.99))
    def test_takes_the_share_in_whole_blocks_and_leaves_some(self, lengths: tuple[int, ...], share: float) -> None:
        scene = hold_out(walk(lengths), share)
        assert [frame.name for frame in scene.frames] == [frame.name for frame in walk(lengths).frames]
        for sequence, length in enumerate(lengths):
            splits = [frame.split for frame in scene.frames if frame.sequence == str(sequence)]
            block = -(-length // 10)
            assert splits.count("train") > 0
            reached = min(share * length, length - block)
            assert reached - block <= splits.count("test") <= share * length + 2 * block
            runs = [(split, len(list(run))) for split, run in groupby(splits)]
            assert all(count >= length // 10 for _, count in runs)

    def test_spreads_the_blocks(self) -> None:
        splits = [frame.split for frame in hold_out(walk((100,)), 0.2).frames]
        assert [index for index, split in enumerate(splits) if split == "test"] == [*range(20, 30), *range(70, 80)]
        assert "20 of 100 frames held out" in hold_out(walk((100,)), 0.2).notes[-1]

    def test_refuses_what_cannot_be(self) -> None:
        for share in (0.0, 1.0, -0.1, float("nan")):
            with pytest.raises(SceneError, match="between 0 and 1"):
                hold_out(walk((20,)), share)
        with pytest.raises(SceneError, match="test frames of its own"):
            hold_out(hold_out(walk((20,)), 0.2), 0.2)


def test_thinning_starts_again_with_each_sequence() -> None:
    assert [frame.name for frame in thin(walk((5, 4)), 3).frames] == ["0/0.jpg", "0/3.jpg", "1/0.jpg", "1/3.jpg"]
