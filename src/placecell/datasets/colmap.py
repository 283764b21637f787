"""COLMAP models, text and binary: read through pycolmap, written as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from placecell import atomic
from placecell.camera import Camera
from placecell.datasets.pictures import Transfer, clean_name, file_name, hand_on, located
from placecell.datasets.rows import Quaternions, Row, lines, rows
from placecell.errors import FormatError, PlacecellError, SceneError
from placecell.points import PointCloud
from placecell.pose import Pose
from placecell.scene import Frame, Scene

MODELS = ("", "sparse/0", "sparse", "colmap/sparse/0", "model", "dense/sparse")
"""Where a model lies in a folder, in the order tried."""
TEST_LIST = "list_test.txt"
"""Names of the test pictures, one a line, as the models published with hloc have it."""


def read(
    root: Path, *, model: Path | None = None, images: Path | None = None, test: Path | None = None, metric: bool = False
) -> Scene:
    """A model `cameras, images, points3D` (.bin or .txt) with its points and tracks.

    Pictures that were not registered are not in it. Poses are cam_from_world, pixel centres lie at .5 as ours do.

    Args:
        model: its folder; by default `root` or the usual `root/sparse/0`.
        images: the folder picture names are relative to; by default `root/images`, else `root`.
        test: a file of picture names, one a line, that are the test split; by default `list_test.txt` where there.
        metric: whether the model is known to be in metres.
    Raises:
        FormatError: the model is damaged, a camera has a model we cannot hold, or pictures are missing.
    """
    folder = model or model_folder(root)
    if folder is None:
        raise FormatError(f"{root}: no cameras.bin or cameras.txt there or in {', '.join(MODELS[1:])}")
    text = not (folder / "cameras.bin").is_file()
    notes = _check_text(folder / "images.txt") if text else ()
    reconstruction = _load(folder)
    found = sorted((image.image_id, image) for image in reconstruction.images.values() if image.has_pose)
    if not found:
        raise FormatError(f"{folder}: no picture of this model has a pose; reconstruct again")
    # COLMAP's text reader ends a name at its first blank.
    names = _text_names(folder / "images.txt") if text else {number: image.name for number, image in found}
    sources = [names[number] for number, _ in found]
    picture_root = images or root
    paths = located(picture_root, sources, folder / ("images.txt" if text else "images.bin"))
    tests = _test_names(test or folder / TEST_LIST, required=test is not None)
    frames = tuple(
        Frame(
            clean_name(name),
            path,
            str(image.camera_id),
            _pose(image, folder),
            split="test" if name in tests else "train",
        )
        for (_, image), name, path in zip(found, sources, paths, strict=True)
    )
    used = {image.camera_id for _, image in found}
    cameras = {str(key): _camera(camera, folder) for key, camera in reconstruction.cameras.items() if key in used}
    points = _points(reconstruction, [image for _, image in found])
    return Scene(root.name, "sfm", metric, frames, cameras, picture_root, points=points, notes=notes)


def model_folder(root: Path) -> Path | None:
    """The folder of a COLMAP model in `root`, or None."""
    for name in MODELS:
        for ending in (".bin", ".txt"):
            if all((root / name / f"{part}{ending}").is_file() for part in ("cameras", "images", "points3D")):
                return root / name
    return None


def write(scene: Scene, folder: Path, *, images: Transfer = "link", overwrite: bool = False) -> Path:
    """Write the text model `sparse/0/{cameras,images,points3D}.txt` and the pictures in `images/`, whole or not at all.

    Frames without a pose are left out, as COLMAP has no place for them; test frames are named in `list_test.txt`.
    Blanks in names become `_`: COLMAP's text reader ends a name at the first.

    Raises:
        SceneError: no frame has a pose, or a picture is missing.
        PlacecellError: the folder exists, or cannot be written, or two names differ in blanks only.
    """
    kept = [index for index, frame in enumerate(scene.frames) if frame.world_from_cam is not None]
    if not kept:
        raise SceneError(f"scene {scene.name}: no frame has a pose; there is nothing to export")
    names = {index: "_".join(file_name(scene.frames[index]).split()) for index in kept}
    if len(set(names.values())) < len(names):
        raise PlacecellError(f"{folder}: two pictures would have one name without blanks; rename one of them")
    with atomic.new_folder(folder, replace=overwrite) as aside:
        for index, name in names.items():
            hand_on(scene, scene.frames[index], aside / "images" / name, images)
        model = aside / "sparse" / "0"
        model.mkdir(parents=True)
        camera_ids = {key: number for number, key in enumerate(scene.cameras, start=1)}
        tests = [names[index] for index in kept if scene.frames[index].split == "test"]
        content = {
            "cameras.txt": (_camera_line(camera_ids[key], camera) for key, camera in scene.cameras.items()),
            "images.txt": _image_lines(scene, names, camera_ids),
            "points3D.txt": _point_lines(scene, kept),
        }
        if tests:
            content[TEST_LIST] = iter(tests)
        for file, text in content.items():
            (model / file).write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return folder


def _load(folder: Path) -> Any:
    import pycolmap

    try:
        return pycolmap.Reconstruction(str(folder))
    except (ValueError, RuntimeError, IndexError, MemoryError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise FormatError(f"{folder}: COLMAP cannot read this model ({why}); export it again") from error


def _camera(camera: Any, folder: Path) -> Camera:
    from placecell.colmap import from_colmap

    try:
        ours = from_colmap(camera)
    except FormatError as error:
        raise FormatError(f"{folder}: camera {camera.camera_id}: {error}") from error
    rational = len(ours.distortion) == 8 and any(ours.distortion[5:])
    return replace(ours, distortion=ours.distortion[:5]) if len(ours.distortion) == 8 and not rational else ours


def _pose(image: Any, folder: Path) -> Pose:
    rigid = image.cam_from_world()
    rigid = rigid() if callable(rigid) else rigid
    x, y, z, w = rigid.rotation.quat
    try:
        return Pose.from_quat_wxyz([w, x, y, z], rigid.translation).inv
    except ValueError as error:
        raise FormatError(f"{folder}: picture {image.name}: {error}; reconstruct it again") from error


def _image_rows(path: Path) -> Iterator[Row]:
    """The first of each two lines of images.txt; the second, of keypoints, may be blank."""
    wanted = True
    for number, line in enumerate(lines(path), start=1):
        if line.startswith("#") or (wanted and not line.strip()):
            continue
        if wanted:
            yield Row(path, number, tuple(line.split()))
        wanted = not wanted


def _check_text(path: Path) -> tuple[str, ...]:
    """Notes on quaternions; COLMAP's own errors do not name the line."""
    quaternions = Quaternions(path.name)
    for row in _image_rows(path):
        row.text(9, "the picture's name")
        quaternions.pose(row, row.numbers(1, 4, "the quaternion"), row.numbers(5, 3, "the translation"))
    return quaternions.notes


def _text_names(path: Path) -> dict[int, str]:
    return {row.integer(0, "the image id"): " ".join(row.fields[9:]) for row in _image_rows(path)}


def _test_names(path: Path, *, required: bool) -> frozenset[str]:
    if not required and not path.is_file():
        return frozenset()
    return frozenset(" ".join(row.fields) for row in rows(path))


def _points(reconstruction: Any, images: list[Any]) -> PointCloud:
    index_of = {number: index for index, number in enumerate(sorted(reconstruction.points3D))}
    ordered = [reconstruction.points3D[number] for number in index_of]
    points: list[int] = []
    frames: list[int] = []
    pixels: list[Any] = []
    for frame, image in enumerate(images):
        for keypoint in image.points2D:
            if keypoint.has_point3D():
                points.append(index_of[keypoint.point3D_id])
                frames.append(frame)
                pixels.append(keypoint.xy)
    return PointCloud(
        np.array([point.xyz for point in ordered], dtype=np.float64).reshape(-1, 3),
        np.array([point.color for point in ordered], dtype=np.uint8).reshape(-1, 3),
        np.array(points, np.int32),
        np.array(frames, np.int32),
        np.array(pixels, np.float32).reshape(-1, 2),
    )


def _camera_line(number: int, camera: Camera) -> str:
    from placecell.colmap import to_colmap

    theirs = to_colmap(camera, number)
    values = " ".join(repr(float(value)) for value in theirs.params)
    return f"{number} {theirs.model.name} {camera.width} {camera.height} {values}"


def _numbers(values: Any) -> str:
    return " ".join(repr(float(value)) for value in values)


def _image_lines(scene: Scene, names: dict[int, str], camera_ids: dict[str, int]) -> Iterator[str]:
    """Two lines a picture: its pose, and `x y point_id` of every observation, in the order `_point_lines` counts."""
    seen = _seen_by_frame(scene)
    for number, (index, name) in enumerate(names.items(), start=1):
        frame = scene.frames[index]
        if frame.world_from_cam is None:
            continue
        cam_from_world = frame.world_from_cam.inv
        pose = f"{_numbers(cam_from_world.quat_wxyz)} {_numbers(cam_from_world.translation)}"
        yield f"{number} {pose} {camera_ids[frame.camera]} {name}"
        if scene.points is None:
            yield ""
        else:
            cloud = scene.points
            yield " ".join(f"{_numbers(cloud.seen_px[row])} {cloud.seen_point[row] + 1}" for row in seen.get(index, ()))


def _point_lines(scene: Scene, kept: list[int]) -> Iterator[str]:
    """`id x y z r g b error (image_id keypoint_index)*`; the error is not known, so -1 as in COLMAP."""
    if scene.points is None:
        return
    seen = _seen_by_frame(scene)
    tracks: dict[int, list[str]] = {}
    for number, index in enumerate(kept, start=1):
        for keypoint, row in enumerate(seen.get(index, ())):
            tracks.setdefault(int(scene.points.seen_point[row]), []).append(f"{number} {keypoint}")
    for point, (xyz, rgb) in enumerate(zip(scene.points.points_world, scene.points.rgb, strict=True)):
        color = " ".join(str(int(value)) for value in rgb)
        yield f"{point + 1} {_numbers(xyz)} {color} -1 {' '.join(tracks.get(point, []))}".rstrip()


def _seen_by_frame(scene: Scene) -> dict[int, list[int]]:
    """Rows of the observations of each frame."""
    found: dict[int, list[int]] = {}
    if scene.points is not None:
        for row, frame in enumerate(scene.points.seen_frame.tolist()):
            found.setdefault(frame, []).append(row)
    return found
