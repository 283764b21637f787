"""placecell fetch NAME OUT"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from placecell import fetch as fetching
from placecell.cli.terminal import Terminal, finish, parse


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
    finish("\n".join(f"{path}: fetched" for path in made), f"placecell scene {made[0]} scene/")


def _ask(question: str) -> bool:
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
