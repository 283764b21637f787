"""Where a training keeps what it works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from placecell.errors import MapError


@contextmanager
def working_folder(work: Path | None) -> Iterator[Path]:
    """The work folder, made when needed; without one a folder that is gone after the block.

    Raises:
        MapError: it cannot be made.
    """
    if work is not None:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MapError(f"{work} cannot be made ({error.strerror}); choose a folder you own") from error
        yield work
        return
    with TemporaryDirectory(prefix="placecell-") as folder:
        yield Path(folder)
