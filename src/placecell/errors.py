"""What placecell raises on purpose: one line saying what is wrong, where, and what to do.

PlacecellError
├── SceneError      a scene cannot be read, made or used for this
├── MapError        a map cannot be read, built or used for this
├── FormatError     a file does not hold what its format says
├── ImageError      a picture or a video cannot be decoded
├── MissingExtra    an optional package is not installed
└── MissingDevice   the device to compute on is not there

The command line prints the text of these and exits with 1. Anything else is a bug and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class PlacecellError(Exception):
    """An error whose text is meant for the user: what, where, remedy."""


class SceneError(PlacecellError):
    """A scene cannot be read, made, or used for what was asked."""


class MapError(PlacecellError):
    """A map cannot be read, built, or used for what was asked."""


class FormatError(PlacecellError):
    """A file does not hold what its format says."""


class ImageError(PlacecellError):
    """A picture or a video cannot be decoded."""


class MissingExtra(PlacecellError):
    """An optional package is missing; the text names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'placecell[{extra}]'")


_EXTRAS = {
    "torch": "train",
    "lightning_fabric": "train",
    **dict.fromkeys(("onnx", "onnxscript", "openvino", "nncf"), "export"),
    **dict.fromkeys(("onnxruntime", "fastapi", "uvicorn", "python_multipart"), "serve"),
}


@contextmanager
def naming_extras() -> Iterator[None]:
    """Within the block, the lack of a package that comes with an extra names the extra.

    Raises:
        MissingExtra: such a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise MissingExtra(error.name.replace("_", "-"), _EXTRAS[error.name]) from error


class MissingDevice(PlacecellError):
    """What was asked to be computed on a device is not there."""

    def __init__(self, device: str) -> None:
        super().__init__(
            f"--device {device}: this machine has no such device, or this torch no use of it; use --device cpu"
        )
