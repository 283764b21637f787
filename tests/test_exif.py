"""Tags as cameras write them, and as they should not."""

from __future__ import annotations

import math
import warnings
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from placecell.exif import Exif, camera_guess
from placecell.images import read_exif

B, G = ExifTags.Base, ExifTags.GPS


def picture(
    folder: Path,
    *,
    base: dict[int, Any] | None = None,
    details: dict[int, Any] | None = None,
    gps: dict[int, Any] | None = None,
    size: tuple[int, int] = (400, 300),
) -> Exif:
    tags = Image.Exif()
    tags.update(base or {})
    if details:
        tags.get_ifd(ExifTags.IFD.Exif).update(details)
    if gps:
        tags.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    path = folder / "photo.jpg"
    Image.new("RGB", size, "grey").save(path, exif=tags)
    return read_exif(path)


def test_a_picture_without_tags(tmp_path: Path) -> None:
    assert picture(tmp_path) == Exif(400, 300)


def test_focal_from_35mm_equivalent(tmp_path: Path) -> None:
    # The diagonal of the picture stands for the 43.27 mm of full frame, upright or not.
    exif = picture(tmp_path, details={B.FocalLengthIn35mmFilm: 26})
    assert exif.focal_px == pytest.approx(26 / 43.267 * 500, rel=1e-6)
    for orientation in range(1, 9):
        turned = picture(tmp_path, base={B.Orientation: orientation}, details={B.FocalLengthIn35mmFilm: 26})
        assert (turned.width, turned.height) == ((300, 400) if orientation >= 5 else (400, 300))
        assert (turned.orientation, turned.focal_px) == (orientation, exif.focal_px)


@pytest.mark.parametrize(("unit", "per_unit"), [(2, 25.4 * 100), (3, 10 * 100), (4, 100.0)])
def test_focal_from_the_focal_plane_survives_a_resize(tmp_path: Path, unit: int, per_unit: float) -> None:
    # 100 px a mm on the sensor, 5 mm lens: 500 px at 800x600, so 250 px at the stored 400x300.
    tags = {
        B.FocalLength: 5.0,
        B.FocalPlaneXResolution: per_unit,
        B.FocalPlaneResolutionUnit: unit,
        B.ExifImageWidth: 800,
        B.ExifImageHeight: 600,
    }
    assert picture(tmp_path, details=tags).focal_px == pytest.approx(250)
    assert picture(tmp_path, details=tags, size=(300, 400)).focal_px == pytest.approx(250)


@pytest.mark.parametrize("value", [0, 3, 9000])
def test_an_implausible_focal_counts_as_unknown(tmp_path: Path, value: int) -> None:
    exif = picture(tmp_path, details={B.FocalLengthIn35mmFilm: value})
    assert exif.focal_px is None
    camera, known = camera_guess(exif)
    assert not known
    assert (camera.fx, camera.cx, camera.cy) == (480.0, 200.0, 150.0)


def test_camera_guess_keeps_a_known_focal() -> None:
    camera, known = camera_guess(Exif(300, 400, focal_px=333.0))
    assert known
    assert (camera.width, camera.height, camera.fx, camera.fy, camera.cx) == (300, 400, 333.0, 333.0, 150.0)


def test_gps_south_and_west_are_negative(tmp_path: Path) -> None:
    south_west = {
        G.GPSLatitudeRef: "S",
        G.GPSLatitude: (33.0, 30.0, 36.0),
        G.GPSLongitudeRef: "W",
        G.GPSLongitude: (70.0, 15.0, 0.0),
        G.GPSAltitudeRef: b"\x00",
        G.GPSAltitude: 520.5,
    }
    gps = picture(tmp_path, gps=south_west).gps
    assert gps is not None
    assert gps.latitude_deg == pytest.approx(-33.51)
    assert gps.longitude_deg == pytest.approx(-70.25)
    assert gps.altitude_m == pytest.approx(520.5)
    north_east = south_west | {G.GPSLatitudeRef: "N", G.GPSLongitudeRef: "E", G.GPSAltitudeRef: b"\x01"}
    gps = picture(tmp_path, gps=north_east).gps
    assert gps is not None
    assert (gps.latitude_deg, gps.longitude_deg) == (pytest.approx(33.51), pytest.approx(70.25))
    assert gps.altitude_m == pytest.approx(-520.5)


def test_gps_zeros_and_zero_over_zero_are_no_fix(tmp_path: Path) -> None:
    zeros = {G.GPSLatitudeRef: "N", G.GPSLatitude: (0.0,) * 3, G.GPSLongitudeRef: "E", G.GPSLongitude: (0.0,) * 3}
    assert picture(tmp_path, gps=zeros).gps is None
    nothing = TiffImagePlugin.IFDRational(0, 0)
    assert math.isnan(float(nothing))
    assert picture(tmp_path, gps=zeros | {G.GPSLatitude: (nothing,) * 3}).gps is None


def test_time_with_and_without_zone(tmp_path: Path) -> None:
    tags = {B.DateTimeOriginal: "2024:05:01 12:00:00", B.SubsecTimeOriginal: "250"}
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()
    assert picture(tmp_path, details=tags).time_s == noon + 0.25
    assert picture(tmp_path, details=tags | {B.OffsetTimeOriginal: "+02:00"}).time_s == noon + 0.25 - 7200
    assert picture(tmp_path, details={B.DateTimeOriginal: "0000:00:00 00:00:00"}).time_s is None


def test_device_name(tmp_path: Path) -> None:
    assert picture(tmp_path, base={B.Make: "Acme\0", B.Model: " Phone 3"}).device == "Acme Phone 3"


def test_damaged_tags_count_as_absent(tmp_path: Path) -> None:
    buffer = BytesIO()
    tags = Image.Exif()
    tags[B.Orientation] = 6
    tags.get_ifd(ExifTags.IFD.Exif)[B.FocalLengthIn35mmFilm] = 26
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=tags)
    content = bytearray(buffer.getvalue())
    start = content.index(b"Exif\0\0") + 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on some of the damage
        for offset in range(0, 60, 3):
            damaged = bytearray(content)
            damaged[start + offset : start + offset + 3] = b"\xff\xf3\x7f"
            path = tmp_path / "damaged.jpg"
            path.write_bytes(damaged)
            exif = read_exif(path)
            assert {exif.width, exif.height} == {40, 30}
            assert 1 <= exif.orientation <= 8
