"""Small jobs of OpenCV on several threads."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.parallel import in_parallel


def blurred(index: int) -> NDArray[np.uint8]:
    image = np.random.default_rng(index).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.0), dtype=np.uint8)


class TestInParallel:
    def test_results_come_in_order(self) -> None:
        assert list(in_parallel(lambda index: 2 * index, range(50), threads=4)) == list(range(0, 100, 2))

    def test_threads_change_nothing(self) -> None:
        for one, other in zip(map(blurred, range(6)), in_parallel(blurred, range(6), threads=2), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_opencv_gets_its_threads_back_even_after_an_error(self) -> None:
        def fail(index: int) -> int:
            raise RuntimeError("this one")

        before = cv2.getNumThreads()
        list(in_parallel(blurred, range(3), threads=2))
        assert cv2.getNumThreads() == before
        with pytest.raises(RuntimeError, match="this one"):
            list(in_parallel(fail, range(3), threads=2))
        assert cv2.getNumThreads() == before
