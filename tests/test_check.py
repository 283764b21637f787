"""Faults are put into a sound scene one at a time; each has to be found, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from placecell import check as check_module
from placecell.camera import Camera
from placecell.check import Finding, Report, check, lines
from placecell.convention import STORED
from placecell.log import Silent
from placecell.points import PointCloud
from placecell.pose import Array, Pose
from placecell.scene import Frame, Scene
from test_convention import MISTAKES, misread, red_kitchen, walk


def picture(seed: int) -> Image.Image:
    """Blocks of random colours: every seed looks different, even as a thumbnail."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((64, 48), Image.Resampling.NEAREST)


def path_of(count: int) -> Array:
    angles = np.linspace(0, 5, count)
    return np.column_stack([3 * np.cos(angles), 2 * np.sin(angles), 0.1 * angles])


def scene_at(centres: Array, root: Path = Path(), splits: str = "") -> Scene:
    """Frames of two sequences; `splits` has a letter a frame, r for train and e for test."""
    frames = []
    for i, centre in enumerate(centres):
        name = f"seq-{1 + 2 * i // len(centres)}/{i:04}.png"
        world_from_cam = Pose(Rotation.from_rotvec([0.02 * i, 0.3, 0.0]).as_matrix(), centre)
        split = "test" if (splits[i] == "e" if splits else 2 * i >= len(centres)) else "train"
        frames.append(Frame(name, name, "c", world_from_cam, name.split("/")[0], split))  # type: ignore[arg-type]
    return Scene("room", "by hand", True, tuple(frames), {"c": Camera.from_focal(64, 48, 50.0)}, root)


@pytest.fixture
def room(tmp_path: Path) -> Scene:
    """A sound scene of ten pictures."""
    scene = scene_at(path_of(10), tmp_path)
    for i, frame in enumerate(scene.frames):
        path = scene.image_path(frame)
        path.parent.mkdir(exist_ok=True)
        picture(i).save(path)
    return scene


def found(scene: Scene) -> Report:
    return check(scene, seed=0, log=Silent())


def the(report: Report, subject: str) -> Finding:
    findings = report.about(subject)
    assert len(findings) == 1, lines(report)
    return findings[0]


def grave(report: Report) -> set[str]:
    return {finding.subject for finding in report.findings if finding.severity != "note"}


def test_a_sound_scene_has_only_notes(room: Scene) -> None:
    report = found(room)
    assert grave(report) == set()
    assert report.convention == "undecided"
    assert "10 of 10 pictures were decoded" in the(report, "pictures").text


def test_lines_are_lines_and_the_worst_comes_first(room: Scene) -> None:
    room.image_path(room.frames[3]).unlink()
    report = found(replace(room, notes=("two\nlines",), metric=False))
    printed = lines(report)
    assert printed[0] == "room: poses of undecided convention; 1 error, 0 warnings"
    assert printed[1].startswith("error    missing: ")
    assert all("\n" not in line for line in printed)
    assert len(printed) == 1 + len(report.findings)


def test_notes_of_the_reader_and_a_missing_scale_are_shown(room: Scene) -> None:
    report = found(replace(room, notes=("7 quaternions were not of unit length",), metric=False))
    assert the(report, "made").text == "7 quaternions were not of unit length"
    assert "no metric scale" in the(report, "scale").text


@pytest.mark.parametrize("count", [0, 1])
def test_a_scene_of_one_frame_is_an_error(room: Scene, count: int) -> None:
    report = found(replace(room, frames=room.frames[:count]))
    assert any("makes no map" in finding.text for finding in report.about("frames"))


def test_frames_without_poses_are_counted(room: Scene) -> None:
    frames = (replace(room.frames[0], world_from_cam=None), *room.frames[1:])
    assert the(found(replace(room, frames=frames)), "poses").frames == (room.frames[0].name,)


def test_a_pure_rotation_is_an_error(room: Scene) -> None:
    report = found(scene_at(np.tile([1.0, 2.0, 3.0], (10, 1)), room.root))
    assert the(report, "rotation").severity == "error"
    assert not report.about("outliers")


def outliers(scene: Scene) -> tuple[str, ...]:
    findings = list(check_module._trajectory(scene))
    return next((finding.frames for finding in findings if finding.subject == "outliers"), ())


def test_the_frame_of_cambridge_three_billion_metres_away_is_found() -> None:
    centres = path_of(1500)
    centres[297] = (3.1e9, -1.4e8, -1.2e9)
    scene = scene_at(centres)
    assert outliers(scene) == (scene.frames[297].name,)


def test_two_outliers_together_are_found() -> None:
    centres = path_of(100)
    centres[40:42] = ((500, 0, 0), (501, 0, 0))
    assert len(outliers(scene_at(centres))) == 2


def test_a_leap_within_the_room_is_found() -> None:
    centres = path_of(200)
    centres[60] += (0, 0, 2.5)
    scene = scene_at(centres)
    assert outliers(scene) == (scene.frames[60].name,)


@pytest.mark.parametrize("kind", ["ring", "line", "walk", "pause", "sprint", "two places", "collection", "two frames"])
def test_ordinary_trajectories_have_no_outliers(kind: str) -> None:
    random = np.random.default_rng(0)
    centres = {
        "ring": path_of(300),
        "line": np.outer(np.arange(300.0), (1, 0.1, 0)),
        "walk": np.cumsum(random.normal(size=(300, 3)), axis=0),
        "pause": np.vstack([random.normal(scale=1e-3, size=(150, 3)), np.outer(np.arange(150.0), (0.1, 0, 0))]),
        "sprint": np.outer(np.cumsum(np.where(abs(np.arange(300) - 150) < 4, 1.0, 0.01)), (1, 0, 0)),
        "two places": np.vstack([random.normal(size=(50, 3)), random.normal(size=(50, 3)) + 200]),
        "collection": random.standard_cauchy(size=(100, 3)).clip(-30, 30),
        "two frames": np.array([[0.0, 0, 0], [100.0, 0, 0]]),
    }[kind]
    assert outliers(scene_at(centres)) == ()


def test_a_missing_picture_is_named(room: Scene) -> None:
    room.image_path(room.frames[3]).unlink()
    finding = the(found(room), "missing")
    assert finding.severity == "error"
    assert finding.frames == (room.frames[3].name,)


@pytest.mark.parametrize("content", [b"", b"not a picture at all"])
def test_a_file_that_is_no_picture_is_named(room: Scene, content: bytes) -> None:
    room.image_path(room.frames[3]).write_bytes(content)
    assert the(found(room), "unreadable").frames == (room.frames[3].name,)


def test_a_picture_cut_short_is_named(room: Scene) -> None:
    path = room.image_path(room.frames[3])
    path.write_bytes(path.read_bytes()[:-60])
    assert the(found(room), "unreadable").frames == (room.frames[3].name,)


def test_a_black_picture_is_named(room: Scene) -> None:
    Image.new("RGB", (64, 48)).save(room.image_path(room.frames[3]))
    assert the(found(room), "black").frames == (room.frames[3].name,)


@pytest.mark.parametrize(("size", "subject"), [((48, 64), "size"), ((60, 48), "size"), ((128, 96), "resized")])
def test_a_picture_of_another_size_than_its_camera_is_named(room: Scene, size: tuple[int, int], subject: str) -> None:
    picture(3).resize(size).save(room.image_path(room.frames[3]))
    report = found(room)
    finding = the(report, subject)
    assert finding.frames == (room.frames[3].name,)
    assert f"{size[0]}x{size[1]}" in finding.text
    assert grave(report) == {subject}


def test_a_picture_that_exif_turns_upright_fits_its_camera(room: Scene) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).transpose(Image.Transpose.ROTATE_90).save(room.image_path(room.frames[3]), exif=exif)
    assert grave(found(room)) == set()


def test_the_same_file_twice_is_found(room: Scene) -> None:
    shutil.copyfile(room.image_path(room.frames[1]), room.image_path(room.frames[3]))
    report = found(room)
    assert set(the(report, "duplicates").frames) == {room.frames[1].name, room.frames[3].name}
    assert grave(report) == {"duplicates"}


def test_the_same_picture_in_train_and_test_leaks(room: Scene) -> None:
    shutil.copyfile(room.image_path(room.frames[1]), room.image_path(room.frames[8]))
    finding = the(found(room), "leakage")
    assert finding.severity == "error"
    assert set(finding.frames) == {room.frames[1].name, room.frames[8].name}


def test_the_same_picture_encoded_again_at_the_same_pose_leaks_too(room: Scene) -> None:
    Image.open(room.image_path(room.frames[1])).save(room.image_path(room.frames[8]), "JPEG", quality=95)
    frames = list(room.frames)
    frames[8] = replace(frames[8], world_from_cam=frames[1].world_from_cam)
    report = found(replace(room, frames=tuple(frames)))
    assert set(the(report, "twins").frames) == {frames[1].name, frames[8].name}
    assert the(report, "leakage").severity == "error"


def test_other_pictures_at_the_same_pose_are_no_twins(room: Scene) -> None:
    frames = list(room.frames)
    frames[8] = replace(frames[8], world_from_cam=frames[1].world_from_cam)
    assert not found(replace(room, frames=tuple(frames))).about("twins")


def test_test_frames_among_training_frames_of_one_sequence_leak(room: Scene) -> None:
    finding = the(found(scene_at(path_of(10), room.root, splits="rererrrrrr")), "leakage")
    assert finding.severity == "warning"
    assert finding.numbers["share"] == 1.0
    assert "split by whole sequences" in finding.text


def test_one_border_between_train_and_test_in_a_long_sequence_is_a_note() -> None:
    scene = scene_at(path_of(100), splits="r" * 25 + "e" * 75)
    findings = list(check_module._leakage(scene))
    assert [finding.severity for finding in findings] == ["note"]
    assert findings[0].frames == (scene.frames[25].name,)


def test_neighbours_are_so_by_time_where_it_is_known() -> None:
    scene = scene_at(path_of(4), splits="rere")
    timed = [replace(frame, sequence="a", time_s=time) for frame, time in zip(scene.frames, (0, 8, 1, 9), strict=True)]
    findings = list(check_module._leakage(replace(scene, frames=tuple(timed))))
    assert findings[0].frames == (scene.frames[1].name,)


def test_numbers_that_are_not_finite_are_found(room: Scene) -> None:
    points_world = np.zeros((5, 3))
    points_world[2, 1] = np.nan
    index = np.array([0, 4], np.int32)
    pixels = np.array([[1.0, np.inf], [2.0, 2.0]], np.float32)
    points = PointCloud(points_world, np.zeros((5, 3), np.uint8), index, index, pixels)
    frames = (replace(room.frames[0], time_s=float("nan")), *room.frames[1:])
    texts = " ".join(f.text for f in found(replace(room, points=points, frames=frames)).about("numbers"))
    assert "1 point not finite" in texts
    assert "1 observation at pixels" in texts
    assert "times that are not finite" in texts


@pytest.mark.parametrize("name", [STORED, "inverted", "quaternion xyzw read as wxyz"])
def test_the_verdict_names_the_mistake_and_its_remedy(name: str) -> None:
    scene = walk() if name == STORED else misread(walk(), MISTAKES[name])
    convention, findings = check_module._convention(scene, np.random.default_rng(0), Silent())
    assert convention == name
    severities = {finding.severity for finding in findings if finding.numbers.get("count")}
    assert severities == ({"note"} if name == STORED else {"error"})


@pytest.mark.data
@pytest.mark.parametrize("labels", ["sfm", "kinectfusion"])
def test_the_red_kitchen_is_sound(data_root: Path, labels: str) -> None:
    report = found(red_kitchen(data_root, labels))
    assert report.convention == STORED
    # Its recorder wrote some frames twice, always within one sequence.
    assert grave(report) == {"duplicates"}
