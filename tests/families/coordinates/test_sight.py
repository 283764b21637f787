"""How any camera's picture comes to the encoder, and where its cells are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from placecell.backbones import picture_tensor
from placecell.camera import Camera
from placecell.families.coordinates.encoder import STRIDE, Encoder
from placecell.families.coordinates.sight import camera_seen, cell_pixels, described

USUAL = Camera(160, 120, 130.0, 132.0, 78.0, 61.0)


class TestCells:
    def test_are_whole_and_row_by_row(self) -> None:
        expected = [[1, 1], [9, 1], [1, 9], [9, 9]]
        assert cell_pixels(Camera.from_focal(23, 17, 20.0)).tolist() == expected

    @pytest.mark.usefixtures("patches")
    def test_are_described_in_that_order(self) -> None:
        """A spot in one cell changes, of the maps of strides 4 and 8, that cell's row and no other."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = Encoder("patches").settle()
        image = np.full((48, 64, 3), 90, np.uint8)
        spotted = image.copy()
        spotted[19, 42] = 255  # row 2, column 5
        before, after = described(encoder, image, "fp32"), described(encoder, spotted, "fp32")
        assert before.shape == (48, encoder.channels) and before.dtype == np.float32
        own = before.shape[1] - encoder.backbone.taps[encoder.taps[-1]].channels
        changed = np.flatnonzero((before != after)[:, :own].any(axis=1))
        assert changed.tolist() == [2 * 8 + 5]
        np.testing.assert_allclose(cell_pixels(Camera.from_focal(64, 48, 50.0))[changed[0]], (41, 17))

    @pytest.mark.usefixtures("patches")
    def test_are_what_the_encoder_says_of_the_picture(self) -> None:
        encoder = Encoder("averages").settle()
        encoder.register_parameter("where", torch.nn.Parameter(torch.zeros(1)))
        image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        found = described(encoder, image, "fp32")[:, 12:15]
        mean = picture_tensor(image[None, 8:16, 24:32]).mean(dim=(0, 2, 3)).numpy()
        np.testing.assert_allclose(found[1 * 4 + 3], mean, atol=1e-5)


class TestCameraSeen:
    def test_of_the_usual_camera_is_itself(self) -> None:
        assert camera_seen(USUAL, USUAL) == USUAL

    @pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
    def test_has_as_many_pixels_a_radian(self, factor: float) -> None:
        """The same view stored larger or smaller is seen alike."""
        stored = USUAL.resized(round(160 * factor), round(120 * factor))
        seen = camera_seen(stored, USUAL)
        np.testing.assert_allclose(seen.matrix, USUAL.matrix, rtol=1e-9)
        assert (seen.width, seen.height) == (160, 120)

    def test_of_another_focal_length_is_larger_or_smaller(self) -> None:
        narrow = camera_seen(replace(USUAL, fx=260.0, fy=264.0), USUAL)
        wide = camera_seen(replace(USUAL, fx=100.0, fy=101.5), USUAL)
        assert (narrow.width, narrow.height) == (80, 56)  # 60 rows are 7 cells and a half
        assert (wide.width, wide.height) == (208, 152)
        for seen in (narrow, wide):
            assert (seen.fx, seen.fy) == pytest.approx((130.0, 132.0), rel=0.01)

    def test_of_a_very_wide_one_is_its_middle(self) -> None:
        """As many pixels a radian as ever, and of them those about the middle."""
        wide = Camera(4000, 3000, 100.0, 100.0, 1990.0, 1510.0)
        seen = camera_seen(wide, USUAL)
        assert seen.width * seen.height <= 4 * 160 * 120 and seen.fx == pytest.approx(130.0, rel=1e-3)
        middle = wide.project(seen.rays((seen.width / 2, seen.height / 2)))
        np.testing.assert_allclose(middle, (2000, 1500), atol=1.0)

    def test_of_a_lens_has_none(self) -> None:
        lens = replace(USUAL, model="opencv", distortion=(0.1, 0.0, 0.0, 0.0))
        assert camera_seen(lens, USUAL) == USUAL

    @given(
        st.integers(32, 5000),
        st.integers(32, 5000),
        st.floats(20, 20000),
        st.floats(0.9, 1.1),
        st.floats(0.3, 0.7),
    )
    def test_shows_whole_cells_of_what_the_picture_shows(
        self, width: int, height: int, focal_px: float, aspect: float, centre: float
    ) -> None:
        camera = Camera(width, height, focal_px, focal_px * aspect, centre * width, centre * height)
        seen = camera_seen(camera, USUAL)
        assert seen.width % STRIDE == seen.height % STRIDE == 0 and min(seen.width, seen.height) >= STRIDE
        assert seen.width * seen.height <= 4 * USUAL.width * USUAL.height
        pixels = camera.project(seen.rays(cell_pixels(seen)))
        assert camera.contains(pixels).all()
