"""Files and folders that are complete or absent: written aside, then renamed."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from placecell.errors import PlacecellError


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill; it takes the name `path` only when the block ends without an error.

    What a killed run left beside `path` is cleared away first, and a folder it was about to replace is put back.

    Raises:
        PlacecellError: `path` exists and `replace` is false, its parent cannot be written, or the disk is full.
    """
    path, aside = _place(path, replace)
    try:
        with _plain_errors(path):
            yield aside
            _take_name(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def require_new(path: Path, *, replace: bool = False) -> None:
    """Find out before long work whether `new_folder(path)` would work.

    Raises:
        PlacecellError: as `new_folder`.
    """
    path, aside = _place(path, replace)
    with _plain_errors(path):
        aside.rmdir()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or leave `path` as it was.

    Raises:
        PlacecellError: the folder cannot be written or the disk is full.
    """
    aside = _aside(path, "partial")
    with _plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text with Unix line ends."""
    write_bytes(path, content.encode("utf-8"))


def _place(path: Path, replace: bool) -> tuple[Path, Path]:
    """The real path to make, free to take, and a new folder beside it to fill first."""
    with _plain_errors(path):
        path = Path(os.path.realpath(path))  # what a link points at is replaced, not the link
        if Path.cwd().is_relative_to(path):
            raise PlacecellError(f"{path} is in use as the current folder; name a new folder")
        _clear_leftovers(path)
        if path.exists() and not replace and (not path.is_dir() or any(path.iterdir())):
            raise PlacecellError(f"{path} exists already; name another folder or pass --overwrite")
        aside = _aside(path, "partial")
        aside.mkdir(parents=True)
    return path, aside


def _take_name(aside: Path, path: Path) -> None:
    if not path.exists():
        aside.rename(path)
        return
    old = _aside(path, "old")
    path.rename(old)
    try:
        aside.rename(path)
    except OSError:
        old.rename(path)
        raise
    _remove(old)


def _aside(path: Path, ending: str) -> Path:
    """A hidden name beside `path` that tells which process of which machine holds it."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{uuid4().hex[:8]}.{ending}")


def _clear_leftovers(path: Path) -> None:
    """Remove what killed processes left of `path`; where a kill fell between the two renames, put the old one back."""
    prefix = f".{path.name}.{platform.node()}."
    if not path.parent.is_dir():
        return
    for leftover in sorted(path.parent.iterdir()):
        pid, _, rest = leftover.name.removeprefix(prefix).partition(".")
        if not (leftover.name.startswith(prefix) and rest.endswith((".partial", ".old")) and _is_gone(pid)):
            continue
        if rest.endswith(".old") and not path.exists():
            leftover.rename(path)
        else:
            _remove(leftover)


def _is_gone(pid: str) -> bool:
    """Whether no process has this number; never said where it cannot be known, as signal 0 kills on Windows."""
    if os.name != "posix" or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The block may also have failed to read: name the file unless it is one of ours, which the user never sees.
        culprit = error.filename
        where = "" if not isinstance(culprit, str) or f".{path.name}." in culprit else f" at {culprit}"
        raise PlacecellError(
            f"{path} could not be written: {error.strerror or error}{where}; free some space or choose a folder you own"
        ) from error
