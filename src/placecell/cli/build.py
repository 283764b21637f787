"""placecell build SCENE MAP FAMILY [--flags]"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from placecell import atomic, catalog
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.errors import PlacecellError
from placecell.localizer import Localizer, map_bytes
from placecell.scene import Scene


def main(words: Sequence[str]) -> None:
    """Build a map from the training frames of a scene."""
    name = _family(words)
    if name is None:
        asked = bool({"-h", "--help"} & set(words))
        print(_usage(), file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    kind = catalog.family(name)

    def build(
        scene: Annotated[Path, tyro.conf.Positional],
        map: Annotated[Path, tyro.conf.Positional],
        family: Annotated[str, tyro.conf.Positional],
        settings: Any,
        seed: int = 0,
        device: Literal["cpu", "cuda"] = "cpu",
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
        if seed < 0:
            raise PlacecellError(f"--seed {seed}: seeds count from 0")
        atomic.require_new(map, replace=overwrite)
        place = Scene.load(scene)
        start = time.perf_counter()
        built = settings.build(place, device=device, seed=seed, log=Terminal())
        _save(built, map, overwrite)
        size = map_bytes(map) / 1e6
        made = f"{map}: {family} map, {size:.1f} MB, built in {time.perf_counter() - start:.0f} s"
        finish(made, ["placecell", "localize", map, scene, unused(Path("run")), *_split(place)])

    build.__annotations__["settings"] = Annotated[kind, tyro.conf.OmitArgPrefixes]
    parse("build", build, words)


def _save(built: Localizer, map: Path, overwrite: bool) -> None:
    """Saved below the hidden folder that takes the name, so that a kill leaves nothing which the next run keeps."""
    with atomic.new_folder(map, replace=overwrite) as aside:
        shell = aside / ".map"
        built.save(shell)
        for path in shell.iterdir():
            path.rename(aside / path.name)
        shell.rmdir()


def _family(words: Sequence[str]) -> str | None:
    """The third word; where flags come before it, the last word that is the name of a family."""
    if len(words) > 2 and not any(word.startswith("-") for word in words[:3]):
        return words[2]
    return next((word for word in reversed(words) if word in catalog.FAMILIES), None)


def _split(scene: Scene) -> list[str]:
    """The flag that makes the next command work on a scene without test frames."""
    return [] if scene.split("test").frames else ["--split", "train"]


def _usage() -> str:
    families = [f"  {name:12}{_first_line(catalog.family(name))}" for name in catalog.FAMILIES]
    head, tail = "usage: placecell build SCENE MAP FAMILY [--flags]", "tells the flags of a family."
    return "\n".join([head, "", "families:", *families, "", f"`placecell build SCENE MAP FAMILY --help` {tail}"])


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
