"""The families by name, written by hand; nothing is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from placecell.errors import MapError, naming_extras
from placecell.localizer import Family, Localizer, load_info

FAMILIES: dict[str, tuple[str, str]] = {
    "structure": ("placecell.families.structure:Structure", "placecell.families.structure:StructureMap"),
    "retrieval": ("placecell.families.retrieval:Retrieval", "placecell.families.retrieval:RetrievalMap"),
    "coordinates": (
        "placecell.families.coordinates.config:Coordinates",
        "placecell.families.coordinates.localizer:CoordinatesMap",
    ),
    "forest": (
        "placecell.families.coordinates.forest.config:Forest",
        "placecell.families.coordinates.forest.localizer:ForestMap",
    ),
    "dsac": (
        "placecell.families.coordinates.dsac.config:Dsac",
        "placecell.families.coordinates.dsac.localizer:DsacMap",
    ),
    "regression": (
        "placecell.families.regression.config:Regression",
        "placecell.families.regression.localizer:RegressionMap",
    ),
}
"""name -> family (hyper-parameters) and localizer (map), each as module:class; only maps of networks need torch."""


def family(name: str) -> type[Family]:
    """The dataclass of a family's hyper-parameters.

    Raises:
        MapError: no family has this name.
    """
    return cast("type[Family]", _load(_entry(name)[0]))


def load_map(folder: Path, *, device: str = "cpu") -> Localizer:
    """The map in a folder, whatever its family.

    Raises:
        MapError: not a map, or of a family this version does not know.
        FormatError: a file of the map is damaged.
        MissingExtra: the map needs a package that is not installed.
    """
    info = load_info(folder)
    if "export" in info.extra:
        return cast(Localizer, _load("placecell.runtime.exported:load_export")(folder, device=device))
    return cast("type[Localizer]", _load(_entry(info.family)[1])).load(folder, device=device)


def _entry(name: str) -> tuple[str, str]:
    if name not in FAMILIES:
        raise MapError(f"no family is called {name!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _load(address: str) -> Any:
    module, _, kind = address.partition(":")
    with naming_extras():
        return getattr(import_module(module), kind)
