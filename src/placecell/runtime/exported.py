"""The folder of an exported map: map.json, model.onnx, and the few numbers that the model leaves to its reader."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import FormatError, MapError
from placecell.localizer import (
    Localizer,
    MapInfo,
    Tensors,
    config_from_json,
    load_info,
    load_map_tensors,
    save_map,
)
from placecell.runtime.engine import Engine, Engines, Precision, engine_of
from placecell.scene import camera_from_json, field_of

MODEL = "model.onnx"
"""What the network is called in the folder."""
Reading = Literal["align", "pose", "cells"]
"""What a model's numbers are: of cells of an align head, a centre and a rotation, or of cells of scene coordinates."""
C = TypeVar("C")


@dataclass(frozen=True, eq=False)
class Exported:
    """What the folder of an exported map holds."""

    info: MapInfo
    """That of the map it was made of, with `export` in its `extra`."""
    tensors: Tensors
    """What the model's numbers are read with."""
    model: bytes
    """The ONNX file."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What map.json says of the export."""
        told: Mapping[str, Any] = self.info.extra["export"]
        return told

    @property
    def reading(self) -> Reading:
        """What the model's numbers are."""
        reading: Reading = self.told["reads"]
        return reading

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder.

        Raises:
            MapError: not an exported map.
            FormatError: a file is missing or damaged, or is not the one that map.json speaks of.
        """
        info = load_info(folder)
        told = info.extra.get("export")
        if not isinstance(told, dict):
            raise MapError(f"{folder} is not an exported map; make one with: placecell export {folder} OUT")
        path = folder / MODEL
        try:
            model = path.read_bytes()
            if hashlib.sha256(model).hexdigest() != field_of(told, "sha256", str):
                raise ValueError("another file than map.json speaks of")
            for key, known in (("reads", get_args(Reading)), ("precision", get_args(Precision))):
                if told[key] not in known:
                    raise ValueError(f"{key} {told[key]!r} is not one of {', '.join(known)}")
            field_of(told, "features", int)
        except (OSError, KeyError, ValueError) as error:
            raise FormatError(f"{path}: missing or damaged ({error}); export the map again") from error
        return cls(info, load_map_tensors(folder), model)

    def save(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the folder, whole or not at all.

        Raises:
            PlacecellError: it exists, or cannot be written.
        """
        save_map(folder, self.info, self.tensors, files={MODEL: self.model}, overwrite=overwrite)

    def engine(self, kind: Engines | None = None) -> Engine:
        """The model ready to run; see `engine_of`."""
        return engine_of(self.model, MODEL, precision=self.told["precision"], kind=kind)

    def settings(self, kind: type[C]) -> C:
        """The hyper-parameters of the map it was made of."""
        return config_from_json(kind, self.info.config)

    def number(self, key: str) -> float:
        """A number of the map it was made of.

        Raises:
            FormatError: there is none.
        """
        try:
            return float(self.info.extra[key])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"map.json: damaged ({error}); export the map again") from error

    def camera(self, key: str) -> Camera:
        """A camera of the map it was made of.

        Raises:
            FormatError: there is none.
        """
        try:
            return camera_from_json(self.info.extra[key])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"map.json: damaged ({error}); export the map again") from error

    def anchor(self) -> Anchor:
        """The frame that the model answers in.

        Raises:
            FormatError: there is none.
        """
        try:
            return Anchor.from_json(self.info.extra)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"map.json: damaged ({error}); export the map again") from error


def localizer_of(exported: Exported, *, kind: Engines | None = None) -> Localizer:
    """An exported map, ready to answer.

    Args:
        kind: which engine runs it; None takes OpenVINO where it is installed.

    Raises:
        MissingExtra: no engine is installed.
        FormatError: the folder is damaged.
    """
    from placecell.runtime.coordinates import ExportedCoordinates
    from placecell.runtime.regression import ExportedRegression

    if exported.reading == "cells":
        return ExportedCoordinates.of(exported, kind=kind)
    return ExportedRegression.of(exported, kind=kind)


def load_export(folder: Path, *, device: str = "cpu") -> Localizer:
    """The exported map in a folder.

    Raises:
        MapError: not an exported map, or another device than the processor is asked for.
        MissingExtra: no engine is installed.
        FormatError: a file is damaged.
    """
    require_processor(folder, device)
    return localizer_of(Exported.load(folder))


def require_processor(folder: Path, device: str) -> None:
    """Refuse other devices.

    Raises:
        MapError: another device than the processor is asked for.
    """
    if device != "cpu":
        raise MapError(f"{folder} is an exported map, which runs on the processor; use --device cpu")
