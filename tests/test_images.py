"""Pictures of every kind come out as the same upright RGB, or as one line that says why not."""

from __future__ import annotations

import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from placecell import images
from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.images import (
    decode_image,
    load_query,
    picture_files,
    read_depth,
    read_exif,
    read_image,
    register_depth,
    resize_image,
    write_depth,
    write_jpeg,
)
from placecell.pose import Pose
from placecell.scene import DepthSensor, Frame, Scene


def ramp(width: int = 60, height: int = 40) -> NDArray[np.uint8]:
    """Smooth, and different under every flip and turn and exchange of channels."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([200 * x + 20, 150 * y + 60, 120 * x * y + 10], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def one_line(error: pytest.ExceptionInfo[ImageError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_kinds_are_exact(kind: str) -> None:
    image = decode_image(encoded(Image.fromarray(ramp()), kind), "x")
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, ramp())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 40}])
def test_jpeg_decodes_as_opencv_does(options: dict[str, object]) -> None:
    content = encoded(Image.fromarray(ramp(61, 43)), "JPEG", **options)
    oracle = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_image(content, "x").astype(int) - oracle).max() <= 1


def test_webp_is_close() -> None:
    image = decode_image(encoded(Image.fromarray(ramp()), "WEBP", quality=95), "x")
    assert np.abs(image.astype(int) - ramp()).mean() < 4


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really.a.png.jpg"
    path.write_bytes(encoded(Image.fromarray(ramp()), "PNG"))
    np.testing.assert_array_equal(read_image(path), ramp())


def test_path_with_spaces_and_other_letters(tmp_path: Path) -> None:
    path = tmp_path / "Küche und 廊下" / "mon été 1.JPG"
    write_jpeg(path, ramp())
    assert read_image(path).shape == (40, 60, 3)
    assert picture_files(tmp_path) == [path]
    assert read_exif(path).width == 60


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "dot.jpg", np.full((1, 1, 3), 200, np.uint8))
    assert read_image(tmp_path / "dot.jpg").shape == (1, 1, 3)


def test_grey_becomes_three_equal_channels() -> None:
    grey = ramp()[..., 0]
    for kind in ("PNG", "TIFF", "JPEG"):
        image = decode_image(encoded(Image.fromarray(grey), kind), "x")
        np.testing.assert_array_equal(image[..., 0], image[..., 1])
        np.testing.assert_array_equal(image[..., 0], image[..., 2])
        assert np.abs(image[..., 0].astype(int) - grey).max() <= (3 if kind == "JPEG" else 0)


def test_one_bit_black_and_white() -> None:
    image = decode_image(encoded(Image.fromarray(ramp()[..., 0] > 100), "PNG"), "x")
    assert set(np.unique(image)) == {0, 255}


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_grey_of_16_bits_keeps_its_high_byte(suffix: str) -> None:
    grey = (np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16)
    image = decode_image(cv2.imencode(suffix, grey)[1].tobytes(), "x")
    np.testing.assert_array_equal(image[..., 1], grey >> 8)


def test_colour_of_16_bits_keeps_its_high_byte() -> None:
    deep = (ramp().astype(np.uint16) << 8) + 130
    image = decode_image(cv2.imencode(".png", deep[..., ::-1])[1].tobytes(), "x")
    np.testing.assert_array_equal(image, ramp())


def test_floating_point_is_refused() -> None:
    content = encoded(Image.fromarray(ramp()[..., 0].astype(np.float32)), "TIFF")
    with pytest.raises(ImageError) as error:
        decode_image(content, "x.tif")
    one_line(error, "x.tif", "floating-point", "export")


def test_transparency_lies_over_white() -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 30:] = 255
    alpha[:, 20:30] = 128
    image = decode_image(encoded(Image.fromarray(np.dstack([ramp(), alpha])), "PNG"), "x")
    np.testing.assert_array_equal(image[:, 30:], ramp()[:, 30:])
    assert (image[:, :20] == 255).all()
    half = (ramp()[:, 20:30].astype(int) * 128 + 255 * 127) / 255
    assert np.abs(image[:, 20:30] - half).max() <= 1


def test_palette_with_and_without_transparency() -> None:
    flat = Image.fromarray(ramp()).quantize(8)
    np.testing.assert_array_equal(decode_image(encoded(flat, "PNG"), "x"), np.asarray(flat.convert("RGB")))
    index = int(np.asarray(flat)[0, 0])
    image = decode_image(encoded(flat, "PNG", transparency=index), "x")
    assert (image[np.asarray(flat) == index] == 255).all()


def test_cmyk_jpeg() -> None:
    image = decode_image(encoded(Image.fromarray(ramp()).convert("CMYK"), "JPEG", quality=95), "x")
    assert np.abs(image.astype(int) - ramp()).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind: str, orientation: int, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    content = encoded(Image.fromarray(ramp()), kind, exif=tags)
    oracle = ImageOps.exif_transpose(Image.open(BytesIO(content)))
    assert oracle is not None
    image = decode_image(content, "x")
    np.testing.assert_array_equal(image, np.asarray(oracle.convert("RGB")))
    assert image.flags.c_contiguous
    path = tmp_path / "turned"
    path.write_bytes(content)
    exif = read_exif(path)
    assert (exif.height, exif.width, exif.orientation) == (*image.shape[:2], orientation)


def test_orientation_6_puts_the_left_edge_on_top() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    image = decode_image(encoded(Image.fromarray(ramp()), "PNG", exif=tags), "x")
    np.testing.assert_array_equal(image, np.rot90(ramp(), -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM"])
@pytest.mark.parametrize("part", [0.03, 0.5, 0.97])
def test_a_truncated_picture_is_an_error(kind: str, part: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    content = encoded(Image.fromarray(noise), kind, **options)
    path = tmp_path / "half.jpg"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ImageError) as error:
        read_image(path)
    one_line(error, "half.jpg", "again")


def test_a_progressive_jpeg_cut_in_half_is_an_error() -> None:
    content = encoded(Image.fromarray(ramp(200, 200)), "JPEG", progressive=True)
    with pytest.raises(ImageError):
        decode_image(content[: len(content) // 2], "x")


def test_what_is_not_a_picture(tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("this is not a picture\n" * 20)
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    phone = tmp_path / "phone.heic"
    phone.write_bytes(b"\0\0\0\x20ftypheic" + bytes(100))
    for path, parts in (
        (text, ("not a picture", "this is ")),
        (empty, ("0 bytes",)),
        (phone, ("HEIC", "JPEG")),
        (tmp_path / "missing.jpg", ("No such file",)),
        (tmp_path, ("folder",)),
    ):
        for read in (read_image, read_exif):
            with pytest.raises(ImageError) as error:
                read(path)
            one_line(error, str(path), *parts)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    # A header that promises 300 megapixels and no pixels behind it.
    content = bytearray(encoded(Image.fromarray(ramp()), "BMP"))
    content[18:26] = (20000).to_bytes(4, "little") + (15000).to_bytes(4, "little")
    with pytest.raises(ImageError) as error:
        decode_image(bytes(content), "big.bmp")
    one_line(error, "big.bmp", "20000x15000", "200 megapixels")
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40)
    assert decode_image(encoded(Image.fromarray(ramp()), "PNG"), "x").shape == (40, 60, 3)


def test_a_hundred_megapixels_pass_without_a_warning(tmp_path: Path) -> None:
    # Pillow's own limit, a warning from 89 megapixels, is below what phones take.
    path = tmp_path / "phone.png"
    path.write_bytes(encoded(Image.new("1", (12000, 9000)), "PNG"))
    exif = read_exif(path)
    assert exif.width * exif.height == 108_000_000


DEPTH_CAMERA = Camera.from_focal(64, 48, 60.0)


def test_depth_in_metres_with_gaps(tmp_path: Path) -> None:
    values = np.full((48, 64), 1500, np.uint16)
    values[0, 0], values[1, 2] = 0, 65535
    path = tmp_path / "depth.png"
    Image.fromarray(values).save(path)
    depth_m = read_depth(path, DepthSensor(DEPTH_CAMERA, Pose.identity(), unit_m=0.0002))
    assert depth_m.dtype == np.float32
    assert np.isnan(depth_m[0, 0])
    assert np.isnan(depth_m[1, 2])
    np.testing.assert_allclose(depth_m[5], 0.3, rtol=1e-6)


def test_depth_round_trip(tmp_path: Path) -> None:
    depth_m = np.random.default_rng(0).uniform(0.2, 9, (48, 64)).astype(np.float32)
    depth_m[3, 4], depth_m[5, 6], depth_m[7, 8] = np.nan, 70.0, -1.0
    write_depth(tmp_path / "d.png", depth_m)
    back = read_depth(tmp_path / "d.png", DepthSensor(DEPTH_CAMERA, Pose.identity()))
    gaps = np.isnan(back)
    assert gaps.sum() == 3
    assert gaps[[3, 5, 7], [4, 6, 8]].all()
    assert np.abs(back - depth_m)[~gaps].max() <= 0.000501


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_depth_of_8_bits_is_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    Image.new(mode, (64, 48)).save(path)
    with pytest.raises(ImageError) as error:
        read_depth(path, DepthSensor(DEPTH_CAMERA, Pose.identity()))
    one_line(error, "depth.png", "16 bits")


def test_depth_truncated_or_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(np.random.default_rng(0).integers(1, 9000, (48, 64)).astype(np.uint16)).save(path)
    with pytest.raises(ImageError) as error:
        read_depth(path, DepthSensor(Camera.from_focal(32, 24, 30.0), Pose.identity()))
    one_line(error, "64x48", "32x24")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError) as error:
        read_depth(path, DepthSensor(DEPTH_CAMERA, Pose.identity()))
    one_line(error, "depth.png", "cut short")


def test_registered_depth_is_where_the_points_are() -> None:
    # A wall at 2 m: seen by a camera 0.1 m to the right of and 0.5 m behind the depth camera, it lies at 2.5 m.
    cam_from_depth = Pose(np.eye(3), np.array([-0.1, 0.0, 0.5]))
    sensor = DepthSensor(DEPTH_CAMERA, cam_from_depth)
    depth_m = np.full((48, 64), 2.0, np.float32)
    depth_m[:, 40:] = np.nan
    seen = register_depth(depth_m, sensor, Camera.from_focal(64, 48, 60.0))
    np.testing.assert_allclose(seen[np.isfinite(seen)], 2.5, atol=1e-6)
    columns = np.nonzero(np.isfinite(seen).any(axis=0))[0]
    # Depth pixel u maps to (u - 32) * 2 / 2.5 - 60 * 0.1 / 2.5 + 32: 0.5 to 4.4, and 39.5 to 35.6.
    assert (columns.min(), columns.max()) == (4, 35)


def test_registered_depth_keeps_the_nearest() -> None:
    depth_m = np.full((48, 64), 2.0, np.float32)
    depth_m[20:30, 20:30] = 1.0
    small = DEPTH_CAMERA.resized(16, 12)
    seen = register_depth(depth_m, DepthSensor(DEPTH_CAMERA, Pose.identity()), small)
    assert (seen[5:7, 5:7] == 1.0).all()
    assert seen[0, 0] == 2.0


def test_registered_depth_lands_on_pixel_centres() -> None:
    # Three times as fine: the centre of depth pixel c lies in the middle one of its three colour pixels.
    depth_m = np.full((48, 64), 2.0, np.float32)
    seen = register_depth(depth_m, DepthSensor(DEPTH_CAMERA, Pose.identity()), DEPTH_CAMERA.resized(192, 144))
    rows, columns = np.nonzero(np.isfinite(seen))
    assert len(rows) == 48 * 64
    assert set(rows % 3) == set(columns % 3) == {1}


def test_resize_keeps_pictures_and_cameras_together() -> None:
    image = ramp(600, 400)
    camera = Camera(600, 400, 500.0, 510.0, 310.0, 190.0, "opencv", (0.1, 0.0, 0.0, 0.0))
    for options, size in (({"short_side_px": 100}, (150, 100)), ({"max_side_px": 100}, (100, 67))):
        small, small_camera = resize_image(image, camera, **options)
        assert small.shape == (size[1], size[0], 3)
        assert (small_camera.width, small_camera.height) == size
        # Colours are linear in the pixel, so a resized picture shows where each of its pixels came from.
        x_part = (np.arange(size[0]) + 0.5) / size[0]
        assert np.abs(small[:, :, 0] - (200 * x_part + 20)).max() < 1.5
        assert small_camera.project([[0.3, -0.2, 1.0]])[0] == pytest.approx(
            camera.project([[0.3, -0.2, 1.0]])[0] * [size[0] / 600, size[1] / 400]
        )


def test_resize_never_enlarges_to_a_longest_side() -> None:
    image, camera = ramp(), Camera.from_focal(60, 40, 50.0)
    same, same_camera = resize_image(image, camera, max_side_px=100)
    assert same is image
    assert same_camera is camera
    larger, larger_camera = resize_image(image, camera, short_side_px=80)
    assert larger.shape == (80, 120, 3)
    assert larger_camera.fx == 100.0


def test_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    small, _ = resize_image(stripes, Camera.from_focal(64, 64, 50.0), short_side_px=16)
    assert np.abs(small.astype(int) - 100).max() <= 1


def test_resize_wants_one_size_and_a_fitting_camera() -> None:
    with pytest.raises(ValueError, match="either"):
        resize_image(ramp(), Camera.from_focal(60, 40, 50.0))
    with pytest.raises(ValueError, match="60x40"):
        resize_image(ramp(), Camera.from_focal(61, 40, 50.0), max_side_px=10)


def scene_with(folder: Path, image: NDArray[np.uint8], camera: Camera) -> tuple[Scene, Frame]:
    write_jpeg(folder / "rgb" / "1.jpg", image)
    frame = Frame("1.jpg", "rgb/1.jpg", "c", Pose.identity(), time_s=2.5)
    return Scene("s", "test", True, (frame,), {"c": camera}, folder), frame


def test_load_query(tmp_path: Path) -> None:
    scene, frame = scene_with(tmp_path, ramp(120, 80), Camera.from_focal(120, 80, 100.0))
    query = load_query(scene, frame)
    assert (query.name, query.time_s, query.depth_m, query.defect) == ("1.jpg", 2.5, None, None)
    assert query.camera is scene.cameras["c"]


def test_load_query_resizes_the_camera_to_the_picture(tmp_path: Path) -> None:
    camera = Camera.from_focal(1296, 968, 1170.0)
    scene, frame = scene_with(tmp_path, ramp(640, 478), camera)
    query = load_query(scene, frame)
    assert (query.camera.width, query.camera.height) == (640, 478)
    assert query.camera.fx == pytest.approx(1170 * 640 / 1296)
    assert query.defect is None


@pytest.mark.parametrize("size", [(40, 60), (60, 30), (50, 40)])
def test_load_query_refuses_a_turned_or_cropped_picture(size: tuple[int, int], tmp_path: Path) -> None:
    scene, frame = scene_with(tmp_path, ramp(*size), Camera.from_focal(60, 40, 50.0))
    with pytest.raises(ImageError) as error:
        load_query(scene, frame)
    one_line(error, "1.jpg", f"{size[0]}x{size[1]}", "60x40")


def test_load_query_with_depth(tmp_path: Path) -> None:
    camera = DEPTH_CAMERA
    scene, frame = scene_with(tmp_path, ramp(64, 48), camera)
    frame = replace(frame, depth="d.png")
    write_depth(tmp_path / "d.png", np.full((48, 64), 2.0, np.float32))
    aligned = replace(scene, frames=(frame,), depth_sensor=DepthSensor(camera, Pose.identity()))
    assert load_query(aligned, frame).depth_m is None
    depth_m = load_query(aligned, frame, depth=True).depth_m
    assert depth_m is not None
    assert (depth_m == 2.0).all()
    behind = DepthSensor(camera, Pose(np.eye(3), np.array([0.0, 0.0, 0.5])))
    depth_m = load_query(replace(aligned, depth_sensor=behind), frame, depth=True).depth_m
    assert depth_m is not None
    assert np.nanmin(depth_m) == np.nanmax(depth_m) == 2.5


def test_picture_files_in_natural_order(tmp_path: Path) -> None:
    names = ["a 10/2.jpg", "a 9/10.PNG", "a 9/9.jpeg", "B/1.tif", "b.jpg", "10.webp", "9.bmp"]
    for name in [*names, "notes.txt", ".hidden/1.jpg", "a 9/._9.jpeg", "folder.jpg/inside.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in picture_files(tmp_path)]
    assert found == ["9.bmp", "10.webp", "a 9/9.jpeg", "a 9/10.PNG", "a 10/2.jpg", "B/1.tif", "b.jpg"]
    with pytest.raises(ImageError, match="not a folder"):
        picture_files(tmp_path / "none")


def test_write_jpeg_leaves_nothing_behind(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "x.jpg", ramp(), quality=95)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jpg"]
    assert np.abs(read_image(tmp_path / "x.jpg").astype(int) - ramp()).mean() < 2


@pytest.mark.data
def test_real_frames_read_fast_and_as_opencv_reads_them(data_root: Path) -> None:
    path = sorted((data_root / "redkitchen" / "seq-01").glob("*.color.*"))[0]
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path))[..., ::-1])
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        read_image(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02


@pytest.mark.parametrize("part", [2, 4, 8])
def test_a_jpeg_is_decoded_at_part_of_its_size(part: int) -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    content = encoded(Image.fromarray(smooth), "JPEG", quality=95, subsampling=0)
    small = images.decode_image(content, "a", shrink=part)
    assert small.shape == (240 // part, 320 // part, 3)
    whole = images.decode_image(content, "a")
    means = cv2.resize(whole, (320 // part, 240 // part), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(float) - means).mean() < 1.0  # and no shift by a part of a pixel


@pytest.mark.parametrize("part", [1, 2, 8])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}], ids=str)
def test_a_jpeg_has_the_pixels_that_pillow_makes_of_it(part: int, options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG", **options)
    picture = Image.open(BytesIO(content))
    picture.draft("RGB", (64 // part, 48 // part))
    np.testing.assert_array_equal(decode_image(content, "a", shrink=part), np.asarray(picture))


def test_pillow_has_the_last_word_on_a_jpeg_with_something_wrong_about_it() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG")
    odd = content[:1000] + content[1500:]  # bytes lost on the way, of which a strict decoder warns
    with pytest.raises(ValueError):
        simplejpeg.decode_jpeg(odd)
    np.testing.assert_array_equal(decode_image(odd, "a"), np.asarray(Image.open(BytesIO(odd))))


def test_a_turned_jpeg_is_turned_at_part_of_its_size_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(ramp(64, 48)), "JPEG", exif=exif)
    assert images.decode_image(content, "a", shrink=2).shape == (32, 24, 3)


@pytest.mark.parametrize("kind, size", [("PNG", (64, 48)), ("JPEG", (62, 47))])
def test_others_keep_their_size(kind: str, size: tuple[int, int]) -> None:
    content = encoded(Image.fromarray(ramp(*size)), kind)
    np.testing.assert_array_equal(images.decode_image(content, "a", shrink=2), images.decode_image(content, "a"))


def test_what_the_bytes_say_is_what_the_file_says(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(ramp(50, 30)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    assert images.exif_of(content, "a") == images.read_exif(tmp_path / "a.jpg")
