"""Every bad picture, through HTTP: answered as well as it can be, refused with a reason, or told what is wrong."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from placecell.estimate import estimate_from_json
from placecell.images import read_image
from placecell.pose import pose_error
from placecell.scene import Scene
from placecell.serve.limits import Limits
from placecell.serve.served import Served
from serve.conftest import Echo, jpeg, post, problem


def png(image: Image.Image, **told: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **told)
    return buffer.getvalue()


def drawn(width: int = 96, height: int = 72) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def sixteen_bits() -> bytes:
    """A grey PNG whose high bytes are those of the drawn picture's first channel."""
    values = drawn()[:, :, 0].astype(np.uint16) * 256 + 17
    return png(Image.fromarray(values))


KINDS: dict[str, Callable[[], bytes]] = {
    "grey": lambda: png(Image.fromarray(drawn()[:, :, 0])),
    "16 bits": sixteen_bits,
    "palette": lambda: png(Image.fromarray(drawn()).quantize(64)),
    "black and white": lambda: png(Image.fromarray(drawn()).convert("1")),
    "transparent": lambda: png(Image.fromarray(drawn()).convert("RGBA")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_other_kinds_are_answered(kind: str, echoing: dict[str, Served], echo: Echo) -> None:
    row = post(echoing, KINDS[kind]()).json()
    assert row["t"][1] == 96 and echo.sizes[-1] == (96, 72)
    if kind == "16 bits":  # the high byte is what is seen
        assert row["t"][2] == pytest.approx(drawn()[:, :, 0].mean(), abs=0.01)


def test_cmyk_is_answered(echoing: dict[str, Served]) -> None:
    buffer = BytesIO()
    Image.fromarray(drawn()).convert("CMYK").save(buffer, "JPEG")
    assert post(echoing, buffer.getvalue()).json()["t"][1] == 96


@pytest.mark.parametrize("orientation, turns", [(6, 1), (8, 3), (3, 2)])
def test_a_turned_photo_is_placed_as_the_upright_one(
    orientation: int, turns: int, room_served: Served, room_scene: Scene
) -> None:
    frame = room_scene.split("test").frames[0]
    stored = np.ascontiguousarray(np.rot90(read_image(room_scene.image_path(frame)), turns))
    tags = Image.Exif()
    tags[0x0112] = orientation
    buffer = BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95, exif=tags)
    row = post({"room": room_served}, buffer.getvalue()).json()
    found = estimate_from_json(row)
    assert found.world_from_cam is not None and frame.world_from_cam is not None
    assert pose_error(found.world_from_cam, frame.world_from_cam).distance < 0.03
    assert (row["camera"]["width"], row["camera"]["height"]) == (480, 360)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_without_features_is_refused_with_a_reason(value: int, room_served: Served) -> None:
    reply = post({"room": room_served}, png(Image.new("RGB", (480, 360), (value,) * 3)))
    assert reply.status_code == 200 and reply.json()["t"] is None and "blank" in reply.json()["reason"]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (6000, 2), (31, 400), (2000, 40)])
def test_pictures_of_strange_sizes_are_answered_or_refused(size: tuple[int, int], room_served: Served) -> None:
    reply = post({"room": room_served}, jpeg(*size))
    assert reply.status_code == 200 and reply.json()["reason"]


def test_a_picture_of_another_size_than_its_intrinsics_is_told(echoing: dict[str, Served]) -> None:
    """Those of 1920x1080 px for a picture of 480x360."""
    assert problem(post(echoing, jpeg(), "/v1/localize?fx=1400&cx=960&cy=540")) == (422, "bad-intrinsics")


@pytest.mark.parametrize("kept", [3, 20, 300, -1])
def test_every_truncation_is_told(kept: int, echoing: dict[str, Served], echo: Echo) -> None:
    for content in (jpeg(), png(Image.fromarray(drawn()))):
        reply = post(echoing, content[:kept])
        if kept == -1 and reply.status_code == 200:
            continue  # the last byte is of the end marker, behind all pixels
        assert problem(reply) == (422, "bad-picture")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(megabytes: int) -> bytes:
    """That many zeros in a thousandth of the bytes, never held unpacked."""
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(megabytes)), packer.flush()])


def text_bomb() -> bytes:
    """A small PNG with a text of 200 MB."""
    whole = png(Image.fromarray(drawn()))
    text = b"Comment\0\0" + packed(200)
    return whole[:33] + _chunk(b"zTXt", text) + whole[33:]


def profile_bomb() -> bytes:
    """A small PNG with a colour profile of 200 MB."""
    whole = png(Image.fromarray(drawn()))
    return whole[:33] + _chunk(b"iCCP", b"p\0\0" + packed(200)) + whole[33:]


def jpeg_header_bomb() -> bytes:
    """A JPEG that says it has 65500x65500 pixels."""
    content = bytearray(jpeg(64, 48))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(content)


def tiff_bomb() -> bytes:
    """A deflated TIFF of 9000x9000 white pixels."""
    buffer = BytesIO()
    Image.new("1", (9_000, 9_000), 1).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


BOMBS = {"text": text_bomb, "profile": profile_bomb, "jpeg": jpeg_header_bomb, "tiff": tiff_bomb}


@contextmanager
def taking(most_mb: int, most_s: float) -> Iterator[None]:
    """The block takes no more memory at its worst moment, nor time, than that."""
    status, began = Path("/proc/self/status"), time.monotonic()
    watched = status.is_file() and os.access("/proc/self/clear_refs", os.W_OK)

    def kilobytes(what: str) -> int:
        return int(status.read_text().partition(f"{what}:")[2].split()[0]) if watched else 0

    if watched:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the worst moment so far
    before = kilobytes("VmRSS")
    yield
    assert kilobytes("VmHWM") - before < 1000 * most_mb
    assert time.monotonic() - began < most_s


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_of_other_kinds_do_no_harm(kind: str, echoing: dict[str, Served], echo: Echo) -> None:
    content = BOMBS[kind]()
    post(echoing, jpeg(64, 48))
    with taking(most_mb=60, most_s=10):
        reply = post(echoing, content)
    assert reply.status_code == 200 or problem(reply) in ((413, "too-many-pixels"), (422, "bad-picture"))
    assert all(width * height <= Limits().pixels for width, height in echo.sizes)


def app1(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def many_segments() -> bytes:
    """A JPEG with 200 EXIF segments of 64 kB each, 13 MB before the first pixel."""
    whole = jpeg()
    return whole[:2] + app1(b"Exif\0\0" + b"II*\0" + b"\xff" * 65_000) * 200 + whole[2:]


def many_tags() -> bytes:
    """A JPEG whose EXIF has 5 000 tags, each of which says that its value is 4 GB long and lies elsewhere."""
    tags = b"".join(struct.pack("<HHII", 0x9000 + k, 7, 0xFFFFFFFF, 0x10) for k in range(5_000))
    body = b"II*\0" + struct.pack("<IH", 8, 5_000) + tags + struct.pack("<I", 8)  # the next directory is this one
    return jpeg()[:2] + app1(b"Exif\0\0" + body) + jpeg()[2:]


def png_exif() -> bytes:
    whole = png(Image.fromarray(drawn()))
    return whole[:33] + _chunk(b"eXIf", b"II*\0" + b"\xff" * 10_000_000) + whole[33:]


def png_raw_profile() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 9999999\n" + "zz" * 100_000)
    return png(Image.fromarray(drawn()), pnginfo=text)


@pytest.mark.parametrize("made", [many_segments, many_tags, png_exif, png_raw_profile])
def test_a_huge_or_lying_exif_does_no_harm(made: Callable[[], bytes], echoing: dict[str, Served]) -> None:
    content = made()
    with taking(most_mb=150, most_s=10):
        reply = post(echoing, content)
    assert reply.status_code == 200 or problem(reply) == (422, "bad-picture")
