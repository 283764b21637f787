"""A map made of maps on disk: its own map.json, and the whole folder of each member inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from placecell import atomic, catalog
from placecell.errors import FormatError, MapError
from placecell.localizer import Localizer, MapInfo, load_info, map_fingerprint, save_map, seen_by_any

_MEMBER = "member-{}"


def info_of(kind: str, config: dict[str, Any], folders: Sequence[Path]) -> MapInfo:
    """The description of a map of `kind` made of the maps in folders.

    Raises:
        MapError: no map, or maps of different places, ground truths or units.
    """
    if not folders:
        raise MapError(f"{kind} of no maps; name at least one map folder")
    infos = [load_info(folder) for folder in folders]
    first = infos[0]
    for folder, info in zip(folders, infos, strict=True):
        if (info.scene, info.labels, info.metric) != (first.scene, first.labels, first.metric):
            raise MapError(
                f"{folder} is of scene {info.scene} ({info.labels} labels), {folders[0]} of {first.scene} "
                f"({first.labels} labels): their answers are in different worlds; combine maps of one scene"
            )
    told = {"camera": first.extra.get("camera"), "seen": seen_by_any(infos)}
    extra = {key: value for key, value in told.items() if value is not None}
    return MapInfo(
        family=kind,
        config=config,
        scene=first.scene,
        scene_fingerprint="+".join(sorted({info.scene_fingerprint for info in infos})),
        labels=first.labels,
        metric=first.metric,
        seed=first.seed,
        extra={**extra, "members": len(folders), "made_of": [map_fingerprint(folder) for folder in folders]},
        versions=first.versions,
    )


def save_within(folder: Path, save: Callable[[Path], None]) -> None:
    """What `save` writes as a folder of its own, put into a folder that is being filled."""
    shell = folder / ".map"
    save(shell)
    for path in shell.iterdir():
        path.rename(folder / path.name)
    shell.rmdir()


def save_members(folder: Path, info: MapInfo, members: Sequence[Localizer], *, overwrite: bool = False) -> None:
    """Write the folder, whole or not at all."""
    with atomic.new_folder(folder, replace=overwrite) as aside:
        save_within(aside, lambda shell: save_map(shell, info, {}))
        for index, member in enumerate(members):
            member.save(aside / _MEMBER.format(index))


def load_members(folder: Path, *, device: str) -> tuple[MapInfo, list[Localizer]]:
    """The description and the members of a map made of maps.

    Raises:
        FormatError: a member is missing.
    """
    info = load_info(folder)
    found = []
    for index in range(int(info.extra.get("members", 0))):
        path = folder / _MEMBER.format(index)
        if not (path / "map.json").is_file():
            told = f"member {index + 1} of {info.extra['members']}"
            raise FormatError(f"{path}: {told} is missing; combine the maps again")
        found.append(catalog.load_map(path, device=device))
    if not found:
        raise FormatError(f"{folder / 'map.json'}: says of no members; combine the maps again")
    return info, found
