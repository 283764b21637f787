"""placecell export SCENE OUT FORMAT"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell.cli.terminal import finish, parse, unused
from placecell.datasets import WRITERS
from placecell.scene import Scene


def main(words: Sequence[str]) -> None:
    """Write a scene in a format of others."""
    parse("export", export, words)


def export(
    scene: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    format: Annotated[Literal["colmap", "tum", "nerfstudio"], tyro.conf.Positional],
    images: Literal["link", "copy"] = "link",
    overwrite: bool = False,
) -> None:
    """Write a scene as COLMAP (text), TUM RGB-D or nerfstudio keep it.

    Args:
        scene: Scene folder.
        out: Folder to make.
        format: colmap, tum or nerfstudio.
        images: Link the pictures or copy them.
        overwrite: Replace the folder if it exists.
    """
    made = WRITERS[format](Scene.load(scene), out, images=images, overwrite=overwrite)
    finish(f"{made}: {scene} for {format}", ["placecell", "scene", made, unused(Path("again")), "--format", format])
