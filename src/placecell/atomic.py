"""Files and folders that are complete or absent: written aside, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from placecell.errors import PlacecellError


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill; it takes the name `path` only when the block ends without an error.

    Raises:
        PlacecellError: `path` exists and `replace` is false, its parent cannot be written, or the disk is full.
    """
    if path.exists() and not replace and (not path.is_dir() or any(path.iterdir())):
        raise PlacecellError(f"{path} exists already; name another folder or pass --overwrite")
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    with _plain_errors(path):
        aside.mkdir(parents=True)
    try:
        with _plain_errors(path):
            yield aside
            if path.exists():
                old = path.with_name(f".{path.name}.{uuid4().hex[:8]}.old")
                path.rename(old)
                aside.rename(path)
                shutil.rmtree(old)
            else:
                aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or leave `path` as it was.

    Raises:
        PlacecellError: the folder cannot be written or the disk is full.
    """
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    with _plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(path)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text with Unix line ends."""
    write_bytes(path, content.encode("utf-8"))


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PlacecellError(
            f"{path} could not be written: {error.strerror or error}; free some space or choose a folder you own"
        ) from error
