"""placecell fetch NAME OUT"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import tyro

from placecell import datasets
from placecell import fetch as fetching
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.errors import SceneError


def main(words: Sequence[str]) -> None:
    """Fetch a public data set."""
    parse("fetch", fetch, words)


def fetch(
    name: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    scenes: tuple[str, ...] = (),
    accept_licence: bool = False,
    mirror: str | None = None,
) -> None:
    """Download a public data set, with resume; its licence is shown first.

    Args:
        name: 7scenes, 12scenes or cambridge.
        out: Folder to put it in.
        scenes: Only these scenes of it.
        accept_licence: Accept the licence without being asked.
        mirror: Another server, holding NAME/FILE.
    """
    ask = _ask if sys.stdin.isatty() else None
    made = fetching.fetch(
        name, out, scenes=scenes, accept_licence=accept_licence, mirror=mirror, ask=ask, log=Terminal()
    )
    out_scene = unused(Path("scene"))
    finish("\n".join(f"{path}: fetched" for path in made), ["placecell", "scene", _data_set(made[0]), out_scene])


def _data_set(folder: Path) -> Path:
    """The folder, or the first below it, that holds a data set: archives of 12-Scenes hold several rooms."""
    for path in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        with suppress(SceneError):
            datasets.detect(path)
            return path
    return folder


def _ask(question: str) -> bool:
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
