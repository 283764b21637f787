from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from conftest import SceneMaker
from placecell.camera import Camera
from placecell.datasets import colmap
from placecell.errors import FormatError, PlacecellError

from .known import (
    CAM_FROM_WORLD_QUAT_WXYZ,
    CAM_FROM_WORLD_TRANSLATION,
    POINT,
    assert_known_camera,
    assert_same_scene,
    pictures,
)

CAMERAS = "# cameras\n4 PINHOLE 64 48 40 40 32 24\n"
IMAGES = f"""# images
3 {CAM_FROM_WORLD_QUAT_WXYZ} {CAM_FROM_WORLD_TRANSLATION} 4 a b.jpg
1 1 -1 42 29 9
5 1 0 0 0 0 0 0 4 c.jpg

"""
POINTS = "9 5 1 2.5 10 20 30 0.5 3 1\n"


def make(root: Path, images: str = IMAGES, cameras: str = CAMERAS) -> Path:
    pictures(root / "images", ["a b.jpg", "c.jpg"])
    model = root / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(cameras)
    (model / "images.txt").write_text(images)
    (model / "points3D.txt").write_text(POINTS)
    return root


def test_poses_are_world_to_camera_and_pixel_centres_at_a_half(tmp_path: Path) -> None:
    scene = colmap.read(make(tmp_path))
    assert_known_camera(scene, scene.frames[0])
    cloud, pose = scene.points, scene.frames[0].world_from_cam
    assert cloud is not None
    assert pose is not None
    np.testing.assert_array_equal(cloud.points_world, [POINT])
    np.testing.assert_array_equal(cloud.rgb, [[10, 20, 30]])
    np.testing.assert_array_equal((*cloud.seen_point, *cloud.seen_frame), (0, 0))
    seen = scene.camera_of(scene.frames[0]).project(pose.inv.apply(POINT))
    np.testing.assert_allclose(cloud.seen_px, [seen], atol=1e-6)


def test_names_with_blanks_survive_the_text_model(tmp_path: Path) -> None:
    assert [frame.name for frame in colmap.read(make(tmp_path)).frames] == ["a b.jpg", "c.jpg"]


def test_binary_and_text_are_the_same_scene(tmp_path: Path) -> None:
    text = colmap.read(make(tmp_path / "text", IMAGES.replace("a b", "a")), images=_renamed(tmp_path))
    binary = tmp_path / "binary"
    binary.mkdir()
    pycolmap.Reconstruction(str(tmp_path / "text/sparse/0")).write_binary(str(binary))
    found = colmap.read(binary, images=tmp_path / "renamed")
    assert_same_scene(found, text)
    assert found.points is not None
    assert text.points is not None
    np.testing.assert_array_equal(found.points.seen_px, text.points.seen_px)
    assert replace(found, name="x").fingerprint == replace(text, name="x").fingerprint


def _renamed(tmp_path: Path) -> Path:
    pictures(tmp_path / "renamed", ["a.jpg", "c.jpg"])
    return tmp_path / "renamed"


def test_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    root = make(tmp_path)
    for path in (root / "sparse/0").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    scene = colmap.read(root)
    assert_known_camera(scene, scene.frames[0])


@pytest.mark.parametrize("model", [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"])
def test_every_camera_model_projects_as_colmap_does_or_is_refused(tmp_path: Path, model: str) -> None:
    theirs = pycolmap.Camera.create_from_model_name(4, model, 50.0, 64, 48)
    values = np.array(theirs.params)
    for index in theirs.extra_params_idxs():
        values[index] = 0.01 * (1 + index / 7)
    theirs.params = values
    numbers = " ".join(repr(float(value)) for value in values)
    root = make(tmp_path, cameras=f"4 {model} 64 48 {numbers}\n")
    try:
        scene = colmap.read(root)
    except FormatError as error:
        assert model not in ("PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE")
        assert f"camera 4: camera model {model}" in str(error)
        return
    points = np.array([[0.2, -0.1, 1.0], [-0.3, 0.25, 1.0], [0.0, 0.0, 1.0]])
    expected = [theirs.img_from_cam(point) for point in points]
    np.testing.assert_allclose(scene.cameras["4"].project(points), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("2 3 -1", "2 nan -1", r"images\.txt:2: the translation is not finite"),
        ("2 3 -1 4", "2 3 -1", r"images\.txt:2: no the picture's name|needs columns"),
        ("0.5 0.5 -0.5 0.5", "0.5 0.5 -0.5 1.5", r"images\.txt:2: not a rotation quaternion"),
        ("0 4 c.jpg", "0 8 c.jpg", "COLMAP cannot read this model"),
        ("c.jpg", "d.jpg", r"d\.jpg: missing, as are 1 of the 2"),
    ],
)
def test_damage_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    images = IMAGES.replace("a b.jpg", "c.jpg") if new == "2 3 -1" else IMAGES
    assert old in images
    with pytest.raises(FormatError, match=why) as caught:
        colmap.read(make(tmp_path, images.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


def test_quaternions_slightly_off_are_normalised_and_noted(tmp_path: Path) -> None:
    scene = colmap.read(make(tmp_path, IMAGES.replace(CAM_FROM_WORLD_QUAT_WXYZ, "0.51 0.51 -0.51 0.51")))
    assert_known_camera(scene, scene.frames[0])
    assert "1 quaternions not of unit length" in scene.notes[0]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no cameras\.bin or cameras\.txt"):
        colmap.read(tmp_path)


@pytest.mark.parametrize(
    "camera",
    [
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002)),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002, 0.01)),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002, 0.01, 0.1, 0.2, 0.3)),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "fisheye", (0.1, -0.05, 0.001, 0.002)),
    ],
)
def test_round_trip(tmp_path: Path, scene_of: SceneMaker, camera: Camera) -> None:
    scene = replace(scene_of(), cameras={"phone": camera})
    found = colmap.read(colmap.write(scene, tmp_path / "out"))
    assert_same_scene(found, scene)
    assert [frame.split for frame in found.frames] == ["train", "test", "train"]
    ours, theirs = scene.keep([frame.world_from_cam is not None for frame in scene.frames]).points, found.points
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(theirs.points_world, ours.points_world, atol=1e-12)
    np.testing.assert_array_equal(theirs.rgb, ours.rgb)
    assert _observations(theirs) == _observations(ours)


def _observations(cloud: object) -> set[tuple[int, int, float, float]]:
    rows = zip(cloud.seen_point, cloud.seen_frame, cloud.seen_px, strict=True)  # type: ignore[attr-defined]
    return {(int(point), int(frame), float(pixel[0]), float(pixel[1])) for point, frame, pixel in rows}


def test_pycolmap_reads_what_is_written(tmp_path: Path, scene_of: SceneMaker) -> None:
    scene = scene_of()
    theirs = pycolmap.Reconstruction(str(colmap.write(scene, tmp_path / "out") / "sparse/0"))
    assert theirs.num_reg_images() == 3
    assert scene.points is not None
    for image in theirs.images.values():
        frame = next(frame for frame in scene.frames if frame.name == image.name)
        assert frame.world_from_cam is not None
        np.testing.assert_allclose(image.cam_from_world().matrix(), frame.world_from_cam.inv.matrix[:3], atol=1e-12)
        np.testing.assert_allclose(image.projection_center(), frame.world_from_cam.translation, atol=1e-12)
    for number, point in theirs.points3D.items():
        np.testing.assert_allclose(point.xyz, scene.points.points_world[number - 1], atol=1e-12)
        for element in point.track.elements:  # tracks and keypoints point at each other
            assert theirs.images[element.image_id].points2D[element.point2D_idx].point3D_id == number


def test_blanks_become_underscores_for_colmaps_sake(tmp_path: Path, scene_of: SceneMaker) -> None:
    scene = scene_of(names=("my photo.jpg", "ä.jpg"))
    folder = colmap.write(scene, tmp_path / "out")
    names = {image.name for image in pycolmap.Reconstruction(str(folder / "sparse/0")).images.values()}
    assert names == {"my_photo.jpg", "ä.jpg"}
    assert (folder / "images/my_photo.jpg").read_bytes() == b"rgb of my photo.jpg"
    with pytest.raises(PlacecellError, match="one name without blanks"):
        colmap.write(scene_of(names=("a b.jpg", "a_b.jpg")), tmp_path / "other")


def test_nothing_is_overwritten_unasked(tmp_path: Path, scene_of: SceneMaker) -> None:
    folder = colmap.write(scene_of(), tmp_path / "out")
    with pytest.raises(PlacecellError, match="exists already"):
        colmap.write(scene_of(), folder)
    colmap.write(scene_of(), folder, overwrite=True)
