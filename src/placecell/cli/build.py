"""placecell build SCENE MAP FAMILY [--preset NAME] [--flags]"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from placecell import atomic, catalog
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.errors import PlacecellError
from placecell.localizer import Localizer, Resumable, map_bytes
from placecell.scene import Scene

_LARGEST_SEED = 2**31 - 1
"""That all the libraries which take seeds can hold."""
_STOPPED = 130
"""Exit status after Ctrl-C, as in a shell."""


def main(words: Sequence[str]) -> None:
    """Build a map from the training frames of a scene."""
    name = _family(words)
    if name is None:
        asked = bool({"-h", "--help"} & set(words))
        print(_usage(), file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    kind = catalog.family(name)
    default, flags = _beginning(name, kind, words)

    def build(
        scene: Annotated[Path, tyro.conf.Positional],
        map: Annotated[Path, tyro.conf.Positional],
        family: Annotated[str, tyro.conf.Positional],
        settings: Any = default,
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
        if not 0 <= seed <= _LARGEST_SEED:
            raise PlacecellError(f"--seed {seed}: seeds count from 0 to {_LARGEST_SEED}")
        atomic.require_new(map, replace=overwrite)
        place = Scene.load(scene)
        start, work = time.perf_counter(), map.with_name(f"{map.name}.work")
        built = settings.build(place, device=device, seed=seed, log=Terminal(), work=work)
        _save(built, map, overwrite)
        size = map_bytes(map) / 1e6
        made = f"{map}: {family} map, {size:.1f} MB, built in {time.perf_counter() - start:.0f} s"
        unfinished = built.unfinished if isinstance(built, Resumable) else None
        if unfinished is not None:
            again = ["placecell", "build", *words, *(() if overwrite else ("--overwrite",))]
            finish(f"{made}; {unfinished}, the same command with --overwrite goes on from there", again)
            raise SystemExit(_STOPPED)
        if isinstance(built, Resumable):  # of other families it would be somebody else's
            shutil.rmtree(work, ignore_errors=True)
        finish(made, ["placecell", "localize", map, scene, unused(Path("run")), *_split(place)])

    build.__annotations__["settings"] = Annotated[kind, tyro.conf.OmitArgPrefixes]
    if presets := _presets(kind):
        build.__doc__ = f"{build.__doc__}".replace("\n", f" --preset NAME begins with: {', '.join(presets)}.\n", 1)
    parse("build", build, flags)


def _presets(kind: type) -> Mapping[str, Any]:
    """The settings that a family has a name for."""
    presets: Mapping[str, Any] = getattr(kind, "presets", {})
    return presets


def _beginning(family: str, kind: type, words: Sequence[str]) -> tuple[Any, list[str]]:
    """The settings that the flags change, those of `--preset` or the family's own, and the words without it."""
    flags, wanted = [], None
    rest = iter(words)
    for word in rest:
        if word == "--preset":
            wanted = next(rest, "")
        elif word.startswith("--preset="):
            wanted = word.removeprefix("--preset=")
        else:
            flags.append(word)
    if wanted is None:
        return kind(), flags
    presets = _presets(kind)
    if wanted not in presets:
        known = f"known are {', '.join(presets)}" if presets else f"family {family} has none"
        raise PlacecellError(f"no preset is called {wanted!r}; {known}")
    return presets[wanted], flags


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
