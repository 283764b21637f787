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


COMBINED = {"ensemble": "placecell.combine.ensemble:Ensemble", "cascade": "placecell.combine.cascade:Cascade"}
"""Maps that are made of maps, not built: name -> localizer."""


def family(name: str) -> type[Family]:
    """The dataclass of a family's hyper-parameters.

    Raises:
        MapError: no family has this name.
    """
    return cast("type[Family]", _load(_entry(name)[0]))


_CALIBRATED = "placecell.combine.calibrated:Calibrated"


def load_map(folder: Path, *, device: str = "cpu", calibrated: bool = True) -> Localizer:
    """The map in a folder, whatever its family; with its calibration, where there is one and it is wanted.

    Raises:
        MapError: not a map, or of a family this version does not know.
        FormatError: a file of the map is damaged.
        MissingExtra: the map needs a package that is not installed.
    """
    info = load_info(folder)
    if calibrated and (folder / "calibration.json").is_file():
        return cast("type[Localizer]", _load(_CALIBRATED)).load(folder, device=device)
    if "export" in info.extra:
        return cast(Localizer, _load("placecell.runtime.exported:load_export")(folder, device=device))
    address = COMBINED[info.family] if info.family in COMBINED else _entry(info.family)[1]
    return cast("type[Localizer]", _load(address)).load(folder, device=device)


def _entry(name: str) -> tuple[str, str]:
    if name not in FAMILIES:
        raise MapError(f"no family is called {name!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _load(address: str) -> Any:
    module, _, kind = address.partition(":")
    with naming_extras():
        return getattr(import_module(module), kind)
