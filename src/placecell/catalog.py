"""The families by name, written by hand; nothing is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from placecell.errors import MapError
from placecell.localizer import Family, Localizer, load_info

FAMILIES: dict[str, tuple[str, str, str]] = {
    "structure": ("placecell.families.structure", "Structure", "StructureMap"),
    "retrieval": ("placecell.families.retrieval", "Retrieval", "RetrievalMap"),
}
"""name -> module, family (hyper-parameters), localizer (map)."""


def family(name: str) -> type[Family]:
    """The dataclass of a family's hyper-parameters.

    Raises:
        MapError: no family has this name.
    """
    module, kind, _ = _entry(name)
    return cast("type[Family]", _load(module, kind))


def load_map(folder: Path, *, device: str = "cpu") -> Localizer:
    """The map in a folder, whatever its family.

    Raises:
        MapError: not a map, or of a family this version does not know.
        FormatError: a file of the map is damaged.
    """
    module, _, kind = _entry(load_info(folder).family)
    return cast("type[Localizer]", _load(module, kind)).load(folder, device=device)


def _entry(name: str) -> tuple[str, str, str]:
    if name not in FAMILIES:
        raise MapError(f"no family is called {name!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _load(module: str, kind: str) -> Any:
    return getattr(import_module(module), kind)
