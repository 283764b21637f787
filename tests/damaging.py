"""Damaged picture files, drawn by hypothesis: bits flipped, ends cut off, figures made extreme, files spliced."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import numpy as np
from hypothesis import strategies as st
from PIL import Image

_FIGURES = [b"\0", b"\xff", b"\0\0", b"\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\xff\xd9"]


@cache
def whole_files() -> tuple[bytes, ...]:
    """Small files of every kind that is read, some with EXIF, one progressive, one interlaced grey of 16 bits."""
    drawn = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    picture, tags = Image.fromarray(drawn), Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "maker"
    tags.get_ifd(0x8769)[0xA405] = 30
    grey = Image.fromarray(drawn[:, :, 0].astype(np.uint16) * 200)
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (picture, "JPEG", {"exif": tags}),
        (picture, "JPEG", {"progressive": True, "quality": 60}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture, "PNG", {"exif": tags}),
        (grey, "PNG", {}),
        (picture.quantize(16), "PNG", {"transparency": 3}),
        (picture, "WEBP", {"exif": tags}),
        (picture, "TIFF", {"compression": "tiff_lzw"}),
        (grey, "TIFF", {}),
        (picture, "BMP", {}),
        (picture, "PPM", {}),
    ]
    found = []
    for image, kind, told in kinds:
        buffer = BytesIO()
        image.save(buffer, kind, **told)
        found.append(buffer.getvalue())
    return tuple(found)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A file with one to six damages."""
    content = bytearray(draw(st.sampled_from(whole_files())))
    for _ in range(draw(st.integers(1, 6))):
        # mostly in the headers, where damage is more than a wrong pixel
        reach = len(content) if draw(st.booleans()) else min(len(content), 200)
        at = draw(st.integers(0, max(0, reach - 1)))
        how = draw(st.sampled_from(["flip", "cut", "figure", "splice", "twice", "drop"]))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del content[at:]
        elif how == "figure":
            figure = draw(st.sampled_from(_FIGURES))
            content[at : at + len(figure)] = figure
        elif how == "splice":
            other = draw(st.sampled_from(whole_files()))
            content[at:] = other[draw(st.integers(0, len(other) - 1)) :]
        elif how == "twice":
            content[at:at] = content[at : at + draw(st.integers(1, 80))]
        else:
            del content[at : at + draw(st.integers(1, 20))]
    return bytes(content)


def resident_mb() -> float:
    """Memory that the process holds; 0 where that cannot be told."""
    import os
    from pathlib import Path

    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages.is_file() else 0.0
