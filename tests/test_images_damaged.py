"""The decoder meets damaged files: a picture or one line, soon, and nothing is kept."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damaging import damaged_files, resident_mb, whole_files
from placecell import images
from placecell.errors import ImageError
from placecell.images import decode_image, exif_of


@pytest.fixture(autouse=True, scope="module")
def small_pictures_only() -> None:
    """Damaged headers promise sizes at random; what is decoded shall stay small."""
    patch = pytest.MonkeyPatch()
    patch.setattr(images, "MAX_PIXELS", 1_000_000)
    yield  # type: ignore[misc]
    patch.undo()


def decoded_or_told(content: bytes, shrink: int) -> None:
    began = time.monotonic()
    for read in (lambda: decode_image(content, "x", shrink=shrink), lambda: exif_of(content, "x")):
        try:
            found = read()
        except ImageError as error:
            assert str(error).startswith("x: ") and "\n" not in str(error)
            continue
        if isinstance(found, np.ndarray):
            assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
            assert found.flags.c_contiguous and 0 < found.size <= 3_000_000
        else:
            assert 0 < found.width * found.height <= 1_000_000
    assert time.monotonic() - began < 5


shrinks = st.sampled_from([1, 2, 8])


@given(damaged_files(), shrinks)
@settings(max_examples=250)
def test_damaged_files_are_decoded_or_told(content: bytes, shrink: int) -> None:
    decoded_or_told(content, shrink)


@given(st.binary(max_size=300), st.sampled_from([content[:8] for content in whole_files()]), shrinks)
def test_noise_behind_a_true_beginning_is_told(noise: bytes, beginning: bytes, shrink: int) -> None:
    decoded_or_told(beginning + noise, shrink)


@pytest.mark.slow
def test_many_damaged_files_and_nothing_is_kept() -> None:
    @given(damaged_files(), shrinks)
    @settings(max_examples=1_500)
    def many(content: bytes, shrink: int) -> None:
        decoded_or_told(content, shrink)

    for content in whole_files() * 20:
        decode_image(content, "x")
    many()
    before = resident_mb()
    many()
    assert resident_mb() - before < 20
