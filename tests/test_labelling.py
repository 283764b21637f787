"""From a source to a scene folder: killed anywhere, it goes on; metres, test frames and new labels are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dolly
from placecell.align import Similarity, align_scene, trajectory_error
from placecell.errors import PlacecellError, SceneError
from placecell.images import write_depth
from placecell.labelling import Wish, make_scene
from placecell.log import Silent
from placecell.pose import Pose
from placecell.rendering import render
from placecell.scene import DepthSensor, Frame, Scene
from placecell.sfm import Picture, Sfm, Stages
from placecell.sources import recognize
from placecell.synthetic import room
from placecell.video import write_video

COUNT = 12
WISH = Wish(every=1, focal_px=dolly.CAMERA.fx)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "walk.avi"
    write_video(path, dolly.images(dolly.poses(COUNT)), 10.0)
    return path


def fake(pictures: list[Picture], name: str, *_: object) -> Scene:
    """What structure from motion would say if it were perfect, in a unit of half a metre."""
    frames = tuple(
        Frame(one.name, one.path.relative_to("/").as_posix(), "1", pose, one.sequence, time_s=one.time_s)
        for one, pose in zip(pictures, dolly.poses(len(pictures)), strict=True)
    )
    scene = Scene(name, "sfm", False, frames, {"1": dolly.CAMERA}, Path("/"), notes=("fake",))
    return replace(align_scene(scene, Similarity.scaling(2.0), metric=False, note=""), notes=("fake",))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("placecell.labelling.reconstruct", fake)


class TestEndToEnd:
    def test_a_video_becomes_a_scene_and_leaves_nothing_else(self, video: Path, tmp_path: Path) -> None:
        first, last = dolly.frame_name(0), dolly.frame_name(11)
        apart = np.linalg.norm(dolly.poses(COUNT)[0].translation - dolly.poses(COUNT)[11].translation)
        wish = replace(WISH, metric_from=f"{first},{last},{apart}", holdout=0.2, name="my room")
        made = make_scene(recognize(video), tmp_path / "room", wish, Silent())
        scene = made.scene
        assert [path.name for path in tmp_path.iterdir()] == ["room"]
        assert Scene.load(tmp_path / "room").fingerprint == scene.fingerprint
        assert (scene.name, scene.labels, scene.metric) == ("my room", "sfm", True)
        assert next(iter(scene.cameras.values())).fx == dolly.CAMERA.fx
        poses = {frame.name: frame.world_from_cam for frame in scene.frames if frame.world_from_cam}
        found = trajectory_error(poses, dolly.truths(COUNT), scale=False)  # metres, so no scale is left to fit
        assert float(np.median(found.distances)) < 0.03
        assert [frame.split for frame in scene.frames].count("test") in (2, 3)
        assert not any(scene.image_path(frame).is_symlink() for frame in scene.frames)  # the workspace is gone
        assert scene.points is not None
        assert list(made.seconds) == ["pictures", "features", "matching", "mapping", "points", "writing"]

    @pytest.mark.slow
    def test_killed_in_every_stage_it_goes_on(self, video: Path, tmp_path: Path) -> None:
        out, work = tmp_path / "room", tmp_path / ".room.work"
        features, frames = work / "features", work / "frames" / "walk"
        assert killed(video, out, "placecell.video.write_jpeg", 5) and len(list(frames.iterdir())) == 5
        assert killed(video, out, "placecell.sfm.save_features", 4)
        # Two threads write features: the fifth may or may not have been whole when the process died.
        assert len(list(frames.glob("*.jpg"))) == COUNT and 3 <= len(list(features.glob("*.safetensors"))) <= 5
        kept = {path: path.stat().st_mtime_ns for path in [*frames.iterdir(), *features.glob("*.safetensors")]}
        assert killed(video, out, "placecell.two_view._theirs", 20)
        assert (work / "database.db").is_file() and not (work / "models-stepwise").exists()
        assert killed(video, out, "placecell.mapping._settle", 0)
        assert (work / "models-stepwise.partial").is_dir() and not (work / "models-stepwise").exists()
        assert killed(video, out, "placecell.scene.write_points", 0)
        assert (work / "models-stepwise").is_dir() and not out.exists()
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        scene = make_scene(recognize(video), out, WISH, Silent()).scene
        assert len(scene.posed) == COUNT
        assert [path.name for path in tmp_path.iterdir()] == ["room"]

    def test_an_interrupt_leaves_the_workspace(
        self, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("placecell.labelling.reconstruct", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_scene(recognize(video), tmp_path / "room", WISH, Silent())
        assert [path.name for path in tmp_path.iterdir()] == [".room.work"]
        assert len(list((tmp_path / ".room.work" / "frames" / "walk").iterdir())) == COUNT

    def test_a_full_disk_is_one_line_and_loses_nothing(
        self, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            with pytest.raises(PlacecellError, match="No space left") as caught:
                make_scene(recognize(video), tmp_path / "room", WISH, Silent())
            assert "\n" not in str(caught.value)
        assert not (tmp_path / "room").exists()
        monkeypatch.setattr("placecell.labelling.reconstruct", fake)
        assert len(make_scene(recognize(video), tmp_path / "room", WISH, Silent()).scene.frames) == COUNT


def killed(video: Path, out: Path, stage: str, calls: int) -> bool:
    """Run the command and let it die without any goodbye at the n-th call of a function."""
    module, _, name = stage.rpartition(".")
    code = f"""
import importlib, itertools, os
module, count = importlib.import_module({module!r}), itertools.count()
original = module.{name}
def dying(*a, **k):
    if next(count) >= {calls}:
        os._exit(9)
    return original(*a, **k)
module.{name} = dying
from placecell.cli import main
main(["scene", {str(video)!r}, {str(out)!r}, "--every", "1", "--focal-px", "{dolly.CAMERA.fx}"])
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 9, done.stderr
    return True


class TestWorkspace:
    def work(self, tmp_path: Path) -> Path:
        return tmp_path / ".room.work"

    def broken(self, *_: object) -> Scene:
        raise SceneError("nothing joined")

    @pytest.mark.parametrize(
        ("change", "kept"),
        [({}, True), ({"name": "x", "holdout": 0.2, "threads": 1}, True), ({"every": 2}, False), ({"seed": 1}, False)],
    )
    def test_another_input_clears_it(
        self, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], kept: bool
    ) -> None:
        monkeypatch.setattr("placecell.labelling.reconstruct", self.broken)
        for wish in (WISH, replace(WISH, **change)):  # type: ignore[arg-type]
            with pytest.raises(SceneError, match="nothing joined"):
                make_scene(recognize(video), tmp_path / "room", wish, Silent())
            if wish is WISH:
                (self.work(tmp_path) / "mark").touch()
        assert (self.work(tmp_path) / "mark").exists() == kept

    def test_a_note_cut_short_clears_it(self, video: Path, tmp_path: Path, quick: None) -> None:
        self.work(tmp_path).mkdir()
        (self.work(tmp_path) / "source.json").write_text('{"form')
        (self.work(tmp_path) / "frames").mkdir()
        (self.work(tmp_path) / "frames" / "frame-000000.jpg").write_bytes(b"of another video")
        make_scene(recognize(video), tmp_path / "room", WISH, Silent())
        assert not self.work(tmp_path).exists()


class TestFoundOutEarly:
    @pytest.mark.parametrize(
        ("wish", "text"),
        [
            (Wish(every=0), "--every and --frames"),
            (Wish(frames=0), "--every and --frames"),
            (Wish(focal_px=-3.0), "no focal length"),
            (Wish(holdout=1.5), "between 0 and 1"),
            (Wish(metric_from="a.jpg,b.jpg"), "a.jpg,b.jpg,1.5"),
            (Wish(metric_from="ruler"), "give gps, depth, or two frames"),
            (Wish(metric_from="gps"), "hold no GPS"),
            (Wish(labels="sfm"), "drop --labels"),
            (Wish(relabel=True), "drop --relabel"),
        ],
    )
    def test_wishes_that_cannot_be(
        self, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: Wish, text: str
    ) -> None:
        monkeypatch.setattr("placecell.labelling.video_pictures", None)
        with pytest.raises(SceneError, match=text):
            make_scene(recognize(video), tmp_path / "room", wish, Silent())
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_there_or_cannot_be_written(
        self, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("placecell.labelling.video_pictures", None)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "precious.txt").write_text("mine")
        with pytest.raises(PlacecellError, match="exists already"):
            make_scene(recognize(video), tmp_path / "full", WISH, Silent())
        assert (tmp_path / "full" / "precious.txt").read_text() == "mine"
        (tmp_path / "file").write_text("")
        with pytest.raises(PlacecellError, match="could not be written"):
            make_scene(recognize(video), tmp_path / "file" / "room", WISH, Silent())

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder(self, video: Path, tmp_path: Path) -> None:
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(PlacecellError, match="could not be written"):
            make_scene(recognize(video), tmp_path / "locked" / "room", WISH, Silent())


class TestMetres:
    def test_from_the_distance_of_two_frames(self, video: Path, tmp_path: Path, quick: None) -> None:
        poses = dolly.poses(COUNT)
        apart = np.linalg.norm(poses[1].translation - poses[9].translation)
        text = f"{dolly.frame_name(1)},{dolly.frame_name(9)},{apart}"
        scene = make_scene(recognize(video), tmp_path / "room", replace(WISH, metric_from=text), Silent()).scene
        assert scene.metric
        for frame, pose in zip(scene.frames, poses, strict=True):
            assert frame.world_from_cam is not None
            assert np.allclose(frame.world_from_cam.translation, pose.translation)
        assert "metric scale from the distance" in scene.notes[-1]

    def test_without_evidence_the_scene_says_so(self, video: Path, tmp_path: Path, quick: None) -> None:
        scene = make_scene(recognize(video), tmp_path / "room", WISH, Silent()).scene
        assert (scene.metric, scene.notes) == (False, ("fake", "no metric scale: lengths are in an arbitrary unit"))

    def test_an_unknown_frame_keeps_the_work(self, video: Path, tmp_path: Path, quick: None) -> None:
        with pytest.raises(SceneError, match="no posed frame is called nobody"):
            make_scene(recognize(video), tmp_path / "room", replace(WISH, metric_from="nobody,x,2"), Silent())
        assert (tmp_path / ".room.work").is_dir()


@pytest.fixture(scope="module")
def depth_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A data set with depth by another camera than the colour camera, wrong poses, and a test split."""
    root = tmp_path_factory.mktemp("rgbd")
    place, paths = room(0), dolly.photo_paths(root, COUNT)
    sensor = DepthSensor(dolly.CAMERA.resized(160, 120), Pose.exp([0.0, 0.02, 0.0, 0.06, 0.0, 0.01]))
    frames = []
    for index, (path, pose) in enumerate(zip(paths, dolly.poses(COUNT), strict=True)):
        depth_m = render(place, sensor.camera, pose @ sensor.cam_from_depth).depth_m
        write_depth(root / f"{index}.png", depth_m)
        frames.append(
            Frame(
                name=f"a/{path.name}",
                image=path.name,
                camera="kinect",
                world_from_cam=Pose.identity(),
                sequence="a",
                split="test" if index in (4, 5) else "train",
                depth=f"{index}.png",
                time_s=index / 10,
            )
        )
    cameras = {"kinect": dolly.CAMERA}
    return Scene("rgbd", "kinectfusion", True, tuple(frames), cameras, root, sensor).save(root / "scene")


class TestDataSets:
    def test_are_taken_as_they_are(self, scene_of: Callable[..., Scene], tmp_path: Path) -> None:
        saved = scene_of(("a/1.jpg", "b/1.jpg")).save(tmp_path / "given")
        made = make_scene(recognize(tmp_path / "given"), tmp_path / "out", Wish(name="room"), Silent())
        assert made.scene.fingerprint == saved.fingerprint
        assert made.scene.image_path(made.scene.frames[0]).is_symlink()
        copied = make_scene(recognize(tmp_path / "given"), tmp_path / "copy", Wish(images="copy"), Silent())
        assert not copied.scene.image_path(copied.scene.frames[0]).is_symlink()

    def test_are_thinned_by_sequence(self, scene_of: Callable[..., Scene], tmp_path: Path) -> None:
        scene_of().save(tmp_path / "given")
        made = make_scene(recognize(tmp_path / "given"), tmp_path / "out", Wish(every=2), Silent())
        assert [frame.name for frame in made.scene.frames] == ["a/1.jpg", "b/3.jpg"]

    def test_labelled_anew_they_keep_splits_sequences_and_depth_and_become_metric(
        self, depth_scene: Scene, tmp_path: Path
    ) -> None:
        made = make_scene(recognize(depth_scene.root), tmp_path / "out", Wish(relabel=True, focal_px=270.0), Silent())
        scene = made.scene
        assert (scene.labels, scene.metric) == ("own-sfm", True)
        for before, after in zip(depth_scene.frames, scene.frames, strict=True):
            assert (before.name, before.split, before.sequence, before.time_s) == (
                after.name,
                after.split,
                after.sequence,
                after.time_s,
            )
            assert after.depth is not None
        assert scene.depth_sensor == depth_scene.depth_sensor
        truths = {f"a/{name}": pose for name, pose in dolly.truths(COUNT).items()}
        poses = {frame.name: frame.world_from_cam for frame in scene.posed if frame.world_from_cam}
        assert len(poses) == COUNT
        free = trajectory_error(poses, truths)
        # What is left is the depth of surfaces beside their edges; a depth camera taken for the colour camera is worse.
        assert free.truth_from_estimate.scale == pytest.approx(1.0, abs=0.04)
        assert any("depth readings" in note for note in scene.notes)
        assert "the kinectfusion labels of the data set were not used" in scene.notes

    def test_frames_that_do_not_join_stay_without_a_pose(
        self, depth_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def partial(
            pictures: list[Picture], name: str, settings: Sfm, workspace: Path, log: Silent, stages: Stages
        ) -> Scene:
            whole = fake(pictures, name)
            return whole.keep([index != 3 for index in range(COUNT)])

        monkeypatch.setattr("placecell.labelling.reconstruct", partial)
        wish = Wish(relabel=True, metric_from=f"a/{dolly.frame_name(0)},a/{dolly.frame_name(11)},1")
        scene = make_scene(recognize(depth_scene.root), tmp_path / "out", wish, Silent()).scene
        assert [frame.world_from_cam is None for frame in scene.frames] == [index == 3 for index in range(COUNT)]


def test_the_identity_of_the_input_is_kept_with_the_work(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("placecell.labelling.reconstruct", TestWorkspace.broken)
    with pytest.raises(SceneError):
        make_scene(recognize(video), tmp_path / "room", WISH, Silent())
    note = json.loads((tmp_path / ".room.work" / "source.json").read_text())
    assert (note["format"], note["files"], note["settings"]["every"]) == (1, 1, 1)
