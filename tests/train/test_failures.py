from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from placecell.errors import ImageError, PlacecellError
from placecell.train.failures import Diverged, naming, plain_memory_errors, require_finite


def named(step: int) -> Sequence[str]:
    return [f"{step}/{letter}" for letter in "abcde"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(value: float) -> None:
    require_finite({"loss": 1.0}, 3, named, "")
    with pytest.raises(Diverged) as caught:
        require_finite({"loss": 1.0, "centre": value}, 131, named, "the weights of step 100 are kept in m.work")
    assert str(caught.value) == (
        f"centre is {value} at step 132 (frames 131/a, 131/b, 131/c and 2 more); "
        "the weights of step 100 are kept in m.work; lower --learning-rate"
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_runs_out(error: Exception) -> None:
    with pytest.raises(PlacecellError) as caught, plain_memory_errors("at step 5", "--batch"):
        raise error
    assert str(caught.value) == "out of memory at step 5; lower --batch"


def test_other_errors_pass() -> None:
    for error in (RuntimeError("shapes differ"), PlacecellError("the disk is out of memory"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, plain_memory_errors("at step 5", "--batch"):
            raise error
        assert caught.value is error


def test_an_error_in_a_batch_names_its_frames() -> None:
    with pytest.raises(ZeroDivisionError) as caught, naming(7, named):
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["while making the batch of step 8 (frames 7/a, 7/b, 7/c and 2 more)"]
    with pytest.raises(ImageError) as plain, naming(7, named):
        raise ImageError("7/a: not a picture")
    assert not hasattr(plain.value, "__notes__")
