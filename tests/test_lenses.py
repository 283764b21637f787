"""Which pictures share a camera, and where its focal length comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from placecell.camera import Camera
from placecell.lenses import Picture, lenses_of


def photo(path: Path, size: tuple[int, int] = (64, 48), *, device: str = "", f35: int | None = None) -> Path:
    tags = Image.Exif()
    if device:
        tags[ExifTags.Base.Model] = device
    if f35 is not None:
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = f35
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path, exif=tags)
    return path


def test_photos_share_a_camera_only_where_exif_says_so(tmp_path: Path) -> None:
    photos = [
        photo(tmp_path / "a.jpg", device="one", f35=28),
        photo(tmp_path / "b.jpg", device="one", f35=28),
        photo(tmp_path / "c.jpg", device="one", f35=50),  # zoomed
        photo(tmp_path / "d.jpg", (48, 64), device="one", f35=28),  # turned
        photo(tmp_path / "e.jpg", device="two", f35=28),
        photo(tmp_path / "f.jpg"),  # nothing is known
        photo(tmp_path / "g.jpg"),
    ]
    lenses = lenses_of([Picture(path.name, path) for path in photos])
    assert lenses.of_picture == [0, 0, 1, 2, 3, 4, 5]
    assert [camera.has_prior_focal_length for camera in lenses.cameras] == [True, True, True, True, False, False]
    assert lenses.cameras[0].params[0] == pytest.approx(28 / 43.267 * 80)
    assert lenses.cameras[4].params[0] == pytest.approx(1.2 * 64)
    assert lenses.sizes_px == [64] * 7
    assert [camera.camera_id for camera in lenses.cameras] == [1, 2, 3, 4, 5, 6]


def test_frames_of_one_video_share_a_camera_of_unknown_focal_length(tmp_path: Path) -> None:
    paths = [photo(tmp_path / f"{i}.jpg") for i in range(4)]
    lenses = lenses_of([Picture(path.name, path, lens="ab"[i // 2]) for i, path in enumerate(paths)])
    assert lenses.of_picture == [0, 0, 1, 1]
    assert not lenses.cameras[0].has_prior_focal_length


def test_a_given_camera_is_resized_to_its_picture(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", (128, 96))
    warped = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, 0.0, 0.0, 0.0))
    (camera,) = lenses_of([Picture("a", path, camera=warped)]).cameras
    assert (camera.width, camera.height, camera.model.name) == (128, 96, "OPENCV")
    assert camera.params.tolist() == [100.0, 102.0, 62.0, 50.0, 0.1, 0.0, 0.0, 0.0]
    assert camera.has_prior_focal_length
    (simple,) = lenses_of([Picture("a", path, camera=Camera.from_focal(64, 48, 50.0))]).cameras
    assert simple.model.name == "SIMPLE_RADIAL"
    assert simple.params.tolist() == [100.0, 64.0, 48.0, 0.0]
