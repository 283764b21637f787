"""placecell build SCENE MAP FAMILY [--flags]"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from placecell import atomic, catalog
from placecell.cli.terminal import Terminal, finish, parse
from placecell.localizer import map_bytes
from placecell.scene import Scene


def main(words: Sequence[str]) -> None:
    """Build a map from the training frames of a scene."""
    name = next((word for word in words[2:3] if not word.startswith("-")), None)
    if name is None:
        print("usage: placecell build SCENE MAP FAMILY [--flags]\n\nfamilies:")
        for known in catalog.FAMILIES:
            print(f"  {known:12}{_first_line(catalog.family(known))}")
        print("\n`placecell build SCENE MAP FAMILY --help` tells the flags of a family.")
        raise SystemExit(0 if {"-h", "--help"} & set(words) else 2)
    kind = catalog.family(name)

    def build(
        scene: Annotated[Path, tyro.conf.Positional],
        map: Annotated[Path, tyro.conf.Positional],
        family: Annotated[str, tyro.conf.Positional],
        settings: Any,
        seed: int = 0,
        device: str = "cpu",
        overwrite: bool = False,
    ) -> None:
        """Build a map from the training frames of a scene.

        Args:
            scene: Scene folder.
            map: Map folder to make.
            family: Family of methods.
            settings: Settings of the family.
            seed: Seed of every random choice.
            device: cpu, or cuda for families with networks.
            overwrite: Replace the map folder if it exists.
        """
        atomic.require_new(map, replace=overwrite)
        log, start = Terminal(), time.perf_counter()
        built = settings.build(Scene.load(scene), device=device, seed=seed, log=log)
        with atomic.new_folder(map, replace=overwrite) as aside:
            built.save(aside)
        size = map_bytes(map) / 1e6
        finish(
            f"{map}: {family} map, {size:.1f} MB, built in {time.perf_counter() - start:.0f} s",
            f"placecell localize {map} {scene} run/ --split test",
        )

    build.__annotations__["settings"] = Annotated[kind, tyro.conf.OmitArgPrefixes]
    parse("build", build, words)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
