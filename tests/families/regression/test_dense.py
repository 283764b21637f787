"""Windows of a picture."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.families.regression.dense import central, spread

CAMERA = Camera(341, 256, 290.0, 291.0, 169.0, 130.0)


class TestWindows:
    @pytest.mark.parametrize("count", [1, 2, 5, 16, 128, 500])
    def test_they_spread_evenly_from_border_to_border(self, count: int) -> None:
        found = spread(CAMERA, 224, count)
        assert abs(len(found) - count) <= 0.15 * count
        at = {(window.left, window.top) for window in found}
        assert len(at) == len(found)
        lefts, tops = sorted({left for left, _ in at}), sorted({top for _, top in at})
        assert len(lefts) * len(tops) == len(found)
        for places, free in ((lefts, 341 - 224), (tops, 256 - 224)):
            if len(places) > 1:
                assert (places[0], places[-1]) == (0, free)
                assert np.ptp(np.diff(places)) <= 1
            else:
                assert places == [free // 2]

    def test_there_are_never_more_than_places(self) -> None:
        square = Camera.from_focal(64, 64, 60.0)
        assert len(spread(square, 64, 128)) == 1
        assert len(spread(Camera.from_focal(66, 64, 60.0), 64, 128)) == 3

    def test_a_window_shows_its_part_of_the_picture(self) -> None:
        pictures = np.random.default_rng(0).integers(0, 255, (2, 256, 341, 3), dtype=np.uint8)
        for window in spread(CAMERA, 100, 9):
            shown = window.cut(pictures)
            np.testing.assert_array_equal(shown, pictures[:, window.top : window.top + 100, window.left :][:, :, :100])

    def test_its_camera_sees_the_same_rays(self) -> None:
        for window in spread(CAMERA, 100, 9):
            inside = np.array([[0.5, 0.5], [99.5, 3.5]])
            whole = inside + np.array([window.left, window.top])
            np.testing.assert_allclose(window.camera.rays(inside), CAMERA.rays(whole), atol=1e-12)

    def test_the_central_one_leaves_as_much_on_either_side(self) -> None:
        window = central(CAMERA, 224)
        assert (window.left, window.top, window.camera.width, window.camera.height) == (58, 16, 224, 224)
        assert central(CAMERA, 0).camera == CAMERA
        depth = np.zeros((1, 256, 341), np.float32)
        assert central(CAMERA, 0).cut(depth).shape == depth.shape
