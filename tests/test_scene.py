from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from conftest import SceneMaker
from placecell.camera import Camera
from placecell.errors import FormatError, PlacecellError, SceneError
from placecell.pose import Pose, pose_error
from placecell.scene import (
    Frame,
    Scene,
    camera_from_json,
    camera_to_json,
    centres,
    pose_from_json,
    pose_to_json,
    sequences,
)


def assert_same(a: Scene, b: Scene) -> None:
    """Everything but where it lies."""
    assert (a.name, a.labels, a.metric, a.cameras, a.notes) == (b.name, b.labels, b.metric, b.cameras, b.notes)
    assert [f.name for f in a.frames] == [f.name for f in b.frames]
    for mine, theirs in zip(a.frames, b.frames, strict=True):
        for key in ("camera", "sequence", "split", "time_s"):
            assert getattr(mine, key) == getattr(theirs, key), key
        assert a.image_path(mine).read_bytes() == b.image_path(theirs).read_bytes()
        assert (mine.depth is None) == (theirs.depth is None)
        if mine.depth is not None and theirs.depth is not None:
            assert (a.root / mine.depth).read_bytes() == (b.root / theirs.depth).read_bytes()
        if mine.world_from_cam is None or theirs.world_from_cam is None:
            assert mine.world_from_cam is theirs.world_from_cam
        else:
            assert_allclose(mine.world_from_cam.matrix, theirs.world_from_cam.matrix, atol=1e-14)
    assert (a.depth_sensor is None) == (b.depth_sensor is None)
    if a.depth_sensor is not None and b.depth_sensor is not None:
        assert a.depth_sensor.camera == b.depth_sensor.camera
        assert (a.depth_sensor.unit_m, a.depth_sensor.invalid) == (b.depth_sensor.unit_m, b.depth_sensor.invalid)
        assert pose_error(a.depth_sensor.cam_from_depth, b.depth_sensor.cam_from_depth) == pytest.approx((0, 0))
    assert (a.points is None) == (b.points is None)
    if a.points is not None and b.points is not None:
        for key in ("points_world", "rgb", "seen_point", "seen_frame", "seen_px"):
            assert_array_equal(getattr(a.points, key), getattr(b.points, key))


class TestSaveAndLoad:
    @pytest.mark.parametrize("images", ["link", "copy"])
    @pytest.mark.parametrize("depth", [False, True])
    def test_identical(self, scene_of: SceneMaker, tmp_path: Path, images: Any, depth: bool) -> None:
        scene = scene_of(depth=depth)
        saved = scene.save(tmp_path / "out" / "scene", images=images)
        assert_same(saved, scene)
        assert_same(Scene.load(tmp_path / "out" / "scene"), scene)
        assert saved.fingerprint == scene.fingerprint
        links = {saved.image_path(frame).is_symlink() for frame in saved.frames}
        assert links == {images == "link"}

    def test_a_copy_can_travel(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        scene = scene_of()
        scene.save(tmp_path / "out", images="copy")
        (tmp_path / "out").rename(tmp_path / "elsewhere")
        assert_same(Scene.load(tmp_path / "elsewhere"), scene)

    def test_links_survive_a_relative_folder(self, scene_of: SceneMaker, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        scene = replace(scene_of(), root=Path("photos"))
        scene.save(Path("here/out"))
        monkeypatch.chdir("/")
        assert_same(Scene.load(tmp_path / "here" / "out"), replace(scene, root=tmp_path / "photos"))

    def test_names_of_every_kind(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        names = (
            "Küche 1/фото №1.jpg",
            "no suffix",
            "seq.01/frame.color",
            "line\u2028sep.jpg",
            "e\u0085l",
            "b/日本.png",
        )
        scene = scene_of(names)
        saved = scene.save(tmp_path / "sälön", images="copy")
        assert_same(saved, scene)
        assert saved.frames[0].image == "images/Küche 1/фото №1.jpg"
        assert saved.frames[1].image == "images/no suffix.jpg"  # the suffix of the picture, so that viewers open it

    def test_without_points_and_without_frames(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        scene = scene_of((), points=False)
        assert_same(scene.save(tmp_path / "out"), scene)

    @pytest.mark.parametrize("images", ["link", "copy"])
    def test_a_scene_can_replace_itself(self, scene_of: SceneMaker, tmp_path: Path, images: Any) -> None:
        original = scene_of(depth=True)
        first = original.save(tmp_path / "out", images="copy")
        again = first.save(tmp_path / "out", images=images, overwrite=True)
        assert_same(again, original)
        assert_same(again.keep([True] * 4).save(tmp_path / "out", overwrite=True), original)

    def test_saving_leaves_the_pictures_of_the_source_alone(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        """Two frames for one file: the second would be written through the link onto the first one's original."""
        scene = scene_of(("a.jpg", "a"))
        with pytest.raises(SceneError, match=r"images/a\.jpg would hold two frames.*rename"):
            scene.save(tmp_path / "out")
        assert (scene.root / "rgb" / "0.jpg").read_text() == "rgb of a.jpg"
        assert not (tmp_path / "out").exists()

    def test_an_existing_folder_is_kept_unless_asked(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        scene = scene_of()
        scene.save(tmp_path / "out")
        with pytest.raises(PlacecellError, match="exists already"):
            scene.save(tmp_path / "out")

    def test_a_missing_picture_is_named_and_nothing_is_left(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        scene = scene_of()
        scene.image_path(scene.frames[2]).unlink()
        with pytest.raises(SceneError, match=r"rgb/2\.jpg: the picture of frame b/3\.jpg is missing"):
            scene.save(tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]

    @pytest.mark.parametrize(
        "name", ["../escape.jpg", "/tmp/escape.jpg", "a/../../b.jpg", "", ".", "a\0b", "\udcff.jpg"]
    )
    def test_a_name_cannot_leave_the_folder(self, scene_of: SceneMaker, name: str) -> None:
        scene = scene_of(("a.jpg",), points=False)
        with pytest.raises(SceneError, match="not a plain relative path"):
            replace(scene, frames=(replace(scene.frames[0], name=name),))


class TestSubsets:
    def test_split_keeps_the_frames_of_one_kind(self, scene_of: SceneMaker) -> None:
        scene = scene_of()
        assert [f.name for f in scene.split("train").frames] == ["a/1.jpg", "b/3.jpg"]
        assert [f.name for f in scene.split("test").frames] == ["a/2.jpg", "b/4.jpg"]
        assert scene.split("all") is scene

    def test_observations_are_renumbered(self, scene_of: SceneMaker) -> None:
        scene = scene_of()
        test = scene.split("test")
        assert scene.points is not None and test.points is not None

        def seen(part: Scene) -> set[tuple[str, int, tuple[float, ...]]]:
            found = part.points
            assert found is not None
            rows = zip(found.seen_frame, found.seen_point, found.seen_px, strict=True)
            return {(part.frames[f].name, int(p), tuple(map(float, px))) for f, p, px in rows}

        names = {frame.name for frame in test.frames}
        assert seen(test) == {row for row in seen(scene) if row[0] in names}
        assert 0 < len(seen(test)) < len(seen(scene))
        assert len(test.points) == len(scene.points)

    def test_keep_takes_as_many_wishes_as_frames(self, scene_of: SceneMaker) -> None:
        with pytest.raises(ValueError):
            scene_of(points=False).keep([True])

    def test_posed_frames_and_centres(self, scene_of: SceneMaker) -> None:
        scene = scene_of()
        assert [frame.name for frame in scene.posed] == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
        assert_allclose(centres(scene.frames), [[0, 0.5, -1.25], [1, 0.5, -1.25], [2, 0.5, -1.25]])
        assert centres(()).shape == (0, 3)

    def test_sequences_keep_their_order(self, scene_of: SceneMaker) -> None:
        frames = list(scene_of().frames)
        groups = sequences([frames[2], frames[1], frames[0], frames[3]])
        assert {key: [f.name for f in group] for key, group in groups.items()} == {
            "b": ["b/3.jpg", "b/4.jpg"],
            "a": ["a/2.jpg", "a/1.jpg"],
        }
        assert list(groups) == ["b", "a"]

    def test_unit_says_whether_there_is_a_scale(self, scene_of: SceneMaker) -> None:
        assert scene_of().unit == "m"
        assert replace(scene_of(), metric=False).unit == "units"


class TestFingerprint:
    def test_does_not_depend_on_the_folder_or_the_files(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        scene = scene_of()
        other = scene_of(folder="copy")
        assert scene.fingerprint == other.fingerprint
        assert len(scene.fingerprint) == 16
        again = scene.save(tmp_path / "1").save(tmp_path / "2", images="copy").save(tmp_path / "3")
        assert again.fingerprint == scene.fingerprint

    def test_half_turns_keep_it(self, scene_of: SceneMaker, tmp_path: Path) -> None:
        """w = 0 has two quaternions; rounding picks one or the other on the way through the file."""
        rng = np.random.default_rng(0)
        scene = scene_of(("a.jpg",), points=False)
        for trial in range(20):
            axis = rng.normal(size=3)
            pose = Pose.exp([*(math.pi * axis / np.linalg.norm(axis)), -0.0, 1.0, 2.0])
            turned = replace(scene, frames=(replace(scene.frames[0], world_from_cam=pose),))
            assert turned.save(tmp_path / str(trial)).fingerprint == turned.fingerprint

    @pytest.mark.parametrize(
        "change",
        [
            lambda frame: replace(frame, world_from_cam=None),
            lambda frame: replace(frame, world_from_cam=frame.world_from_cam @ Pose.exp([0, 0, 0, 1e-9, 0, 0])),
            lambda frame: replace(frame, world_from_cam=frame.world_from_cam @ Pose.exp([0, 1e-6, 0, 0, 0, 0])),
            lambda frame: replace(frame, world_from_cam=frame.world_from_cam.inv),
            lambda frame: replace(frame, split="test"),
            lambda frame: replace(frame, sequence="z"),
            lambda frame: replace(frame, name="z.jpg"),
            lambda frame: replace(frame, time_s=0.5),
        ],
    )
    def test_changes_with_every_label(self, scene_of: SceneMaker, change: Callable[[Frame], Frame]) -> None:
        scene = scene_of()
        assert replace(scene, frames=(change(scene.frames[0]), *scene.frames[1:])).fingerprint != scene.fingerprint

    def test_changes_with_the_scene(self, scene_of: SceneMaker) -> None:
        scene = scene_of()
        changed = [
            replace(scene, name="z"),
            replace(scene, labels="sfm"),
            replace(scene, metric=False),
            replace(scene, frames=scene.frames[::-1]),
            replace(scene, cameras={"phone": replace(scene.cameras["phone"], fx=50.001)}),
            scene.split("train"),
        ]
        assert len({part.fingerprint for part in [scene, *changed]}) == len(changed) + 1


class TestRefused:
    def test_two_frames_of_one_name(self, scene_of: SceneMaker) -> None:
        scene = scene_of()
        with pytest.raises(SceneError, match=r"two frames are called a/1\.jpg"):
            replace(scene, frames=(scene.frames[0], scene.frames[0]), points=None)

    def test_an_unknown_camera(self, scene_of: SceneMaker) -> None:
        scene = scene_of()
        with pytest.raises(SceneError, match="names camera 'phone', known are tablet"):
            replace(scene, cameras={"tablet": scene.cameras["phone"]})

    def test_points_seen_by_nobody(self, scene_of: SceneMaker) -> None:
        scene = scene_of()
        with pytest.raises(SceneError, match="does not have"):
            replace(scene, frames=scene.frames[:2])

    def test_what_is_no_scene(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_text("")
        for name in ("nothing", "folder", "file"):
            with pytest.raises(SceneError, match=r"is not a scene .*placecell scene"):
                Scene.load(tmp_path / name)


def damage(lines: list[str], change: Callable[[dict[str, Any]], object]) -> None:
    row = json.loads(lines[1])
    change(row)
    lines[1] = json.dumps(row)


class TestDamage:
    @pytest.fixture
    def folder(self, scene_of: SceneMaker, tmp_path: Path) -> Path:
        scene_of(depth=True).save(tmp_path / "out")
        return tmp_path / "out"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda row: row.pop("name"), "no 'name'"),
            (lambda row: row.pop("t"), "no 't'"),
            (lambda row: row.update(name=5), "name is 5, not a str"),
            (lambda row: row.update(image=None), "image is null"),
            (lambda row: row.update(depth=[]), "depth is"),
            (lambda row: row.update(time_s="noon"), "noon"),
            (lambda row: row.update(t=[0, math.nan, 0]), "finite"),
            (lambda row: row.update(t=[0, 0]), "pose takes"),
            (lambda row: row.update(t=None), "pose takes"),
            (lambda row: row.update(quat_wxyz=[0, 0, 0, 0]), "not a rotation quaternion"),
            (lambda row: row.update(quat_wxyz=[1, math.nan, 0, 0]), "not a rotation quaternion"),
            (lambda row: row.update(quat_wxyz=[1, 0, 0]), "not a rotation quaternion"),
            (lambda row: row.update(quat_wxyz="up"), "up"),
            (lambda row: row.update(camera="tablet"), "camera 'tablet' is not in scene.json, known are phone"),
            (lambda row: row.update(camera=["phone"]), "unhashable"),
            (lambda row: row.update(split="val"), "split 'val'; known are train, test"),
            (lambda row: row.update(name="a/1.jpg"), "a/1.jpg comes twice"),
        ],
    )
    def test_a_damaged_line_is_named(self, folder: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
        path = folder / "frames.jsonl"
        lines = path.read_text().splitlines()
        damage(lines, change)
        path.write_text("\n".join(lines))
        with pytest.raises(FormatError, match="mend or delete the line") as caught:
            Scene.load(folder)
        assert str(caught.value).startswith(f"{path}:2: ")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("line", ["{", "[1]", "5", "null", '"x"', '{"name": "a"'])
    def test_a_line_that_is_no_row(self, folder: Path, line: str) -> None:
        path = folder / "frames.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], "", line, *lines[1:]]))  # an empty line is no damage, but it counts
        with pytest.raises(FormatError, match=r"frames\.jsonl:3: "):
            Scene.load(folder)

    def test_windows_line_ends_and_marks_are_read(self, folder: Path, scene_of: SceneMaker) -> None:
        for name in ("frames.jsonl", "scene.json"):
            path = folder / name
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert_same(Scene.load(folder), scene_of(depth=True))

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1]", b'{"format": 1'])
    def test_a_scene_json_that_is_no_object(self, folder: Path, content: bytes) -> None:
        (folder / "scene.json").write_bytes(content)
        with pytest.raises(FormatError, match=r"scene\.json: not "):
            Scene.load(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda row: row.update(format=2), "format 2, this version reads 1"),
            (lambda row: row.pop("cameras"), "no 'cameras'"),
            (lambda row: row.update(cameras=[]), "cameras is"),
            (lambda row: row["cameras"]["phone"].update(model="thin"), "unknown camera model 'thin'"),
            (lambda row: row["cameras"]["phone"].update(size=[0, 5]), "not a camera"),
            (lambda row: row["cameras"]["phone"].update(size=[5]), "values to unpack"),
            (lambda row: row["cameras"]["phone"].pop("distortion"), "no 'distortion'"),
            (lambda row: row["cameras"].update(phone=5), "scene.json"),
            (lambda row: row.update(name=5), "name is 5"),
            (lambda row: row.update(metric="false"), 'metric is "false", not a bool'),
            (lambda row: row.update(notes=None), "notes is null"),
            (lambda row: row.update(depth_sensor=5), "scene.json"),
            (lambda row: row["depth_sensor"]["cam_from_depth"].update(quat_wxyz=None), "no pose"),
        ],
    )
    def test_a_damaged_scene_json_is_named(
        self, folder: Path, change: Callable[[dict[str, Any]], object], said: str
    ) -> None:
        path = folder / "scene.json"
        row = json.loads(path.read_text())
        change(row)
        path.write_text(json.dumps(row))
        with pytest.raises(FormatError) as caught:
            Scene.load(folder)
        assert str(caught.value).startswith(f"{path}: ")
        assert said in str(caught.value)

    def test_frames_that_are_gone_or_unreadable(self, folder: Path) -> None:
        path = folder / "frames.jsonl"
        path.write_bytes(b"\xff\xfe")
        with pytest.raises(FormatError, match=r"frames\.jsonl: not readable"):
            Scene.load(folder)
        path.unlink()
        with pytest.raises(FormatError, match=r"frames\.jsonl: not readable \(No such file or directory\)"):
            Scene.load(folder)

    def test_tracks_of_frames_that_are_gone(self, folder: Path) -> None:
        path = folder / "frames.jsonl"
        path.write_text(path.read_text().splitlines()[0] + "\n")
        with pytest.raises(SceneError, match="does not have"):
            Scene.load(folder)


@pytest.mark.parametrize(
    "camera",
    [
        Camera.from_focal(64, 48, 50.1),
        Camera(64, 48, 1 / 3, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002, 1e-9)),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "fisheye", (0.1, 0.0, 0.0, 0.0)),
    ],
)
def test_a_camera_survives_json(camera: Camera) -> None:
    assert camera_from_json(json.loads(json.dumps(camera_to_json(camera)))) == camera


def test_a_pose_survives_json() -> None:
    pose = Pose.exp([0.1, -0.2, 3.0, 1 / 3, -1e9, 1e-9])
    again = pose_from_json(json.loads(json.dumps(pose_to_json(pose))))
    assert again is not None
    assert_allclose(again.rotation, pose.rotation, atol=1e-15)
    assert_array_equal(again.translation, pose.translation)
    assert pose_from_json(pose_to_json(None)) is None


def test_links_that_the_file_system_refuses_become_copies(
    scene_of: SceneMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    scene = scene_of()
    saved = scene.save(tmp_path / "out")
    assert_same(saved, scene)
    assert not saved.image_path(saved.frames[0]).is_symlink()
