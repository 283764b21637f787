"""calibration.json in a map folder (docs/formats.md), and the vectors of training pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from placecell.calibration.confidence import Confidence
from placecell.calibration.conformal import Conformal, LeftOut, Range
from placecell.calibration.evidence import KINDS, Scale
from placecell.calibration.familiarity import Familiarity
from placecell.calibration.features import Neighbourhood
from placecell.calibration.fit import Calibration
from placecell.calibration.scaling import Scaling
from placecell.calibration.widening import Widening
from placecell.errors import FormatError
from placecell.localizer import map_fingerprint
from placecell.metrics import Threshold
from placecell.scene import read_json

FORMAT = 2
NAME = "calibration.json"
VECTORS = "calibration.safetensors"
_AGAIN = "calibrate the map again"


def files_of(calibration: Calibration, known: Neighbourhood | None, map_folder: Path) -> dict[str, bytes]:
    """The files of a calibration by name, of the map in a folder."""
    row: dict[str, Any] = {"format": FORMAT, "map": map_fingerprint(map_folder), **asdict(calibration)}
    row["threshold"] = calibration.threshold._asdict()
    if known is not None:
        row["usual_distance"] = known.usual
    files = {NAME: (json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()}
    if known is not None:
        files = {VECTORS: save({"pictures": known.vectors}), **files}  # the json last: it is what calibrates a map
    return files


def read_calibration(folder: Path) -> tuple[Calibration, Neighbourhood | None]:
    """Of the map in a folder.

    Raises:
        FormatError: a file is missing or damaged, or it is the calibration of another map.
    """
    path = folder / NAME
    row = read_json(path)
    if row.get("format") != FORMAT:
        raise FormatError(f"{path}: format {row.get('format')}, this version reads {FORMAT}; {_AGAIN}")
    if row.get("map") != map_fingerprint(folder):
        raise FormatError(f"{path}: made for another map than lies here, {row.get('map')}; {_AGAIN} or delete it")
    try:
        calibration = _from_json(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path}: not a calibration ({error!r}); {_AGAIN}") from error
    if "usual_distance" not in row:
        return calibration, None
    try:
        return calibration, Neighbourhood(load_file(folder / VECTORS)["pictures"], float(row["usual_distance"]))
    except (OSError, KeyError, SafetensorError) as error:
        raise FormatError(f"{folder / VECTORS}: missing or damaged ({error}); {_AGAIN}") from error


def _from_json(row: Mapping[str, Any]) -> Calibration:
    scaling, scale, confidence, known = (row[key] for key in ("scaling", "scale", "confidence", "familiarity"))
    typical, widening = row["typical"], row["widening"]
    found = Calibration(
        threshold=Threshold(
            str(row["threshold"]["name"]), float(row["threshold"]["distance_m"]), float(row["threshold"]["angle_deg"])
        ),
        typical=None if typical is None else _numbers(typical, 6),
        widening=Widening(
            _scale(widening["scale"]),
            _numbers(widening["usual"], 2),
            _numbers(widening["power"], 2),
            tuple(_numbers(weights) for weights in widening["weights"]),
        ),
        scaling=Scaling(_numbers(scaling["factors"], 6)),
        conformal=Conformal(**{key: float(row["conformal"][key]) for key in ("coverage", "distance", "angle")}),
        scale=_scale(scale),
        confidence=Confidence(_numbers(confidence["weights"]), *_numbers([confidence["offset"], confidence["most"]])),
        familiarity=Familiarity(_numbers(known["strangeness"]), int(known["answers"])),
        left_out=None if row["left_out"] is None else _left_out(row["left_out"]),
        accept_at=float(row["accept_at"]),
        **{key: int(row[key]) for key in ("frames", "answered", "damaged", "elsewhere")},
    )
    for which, weights in ((found.scale, [found.confidence.weights]), (found.widening.scale, found.widening.weights)):
        if {len(values) for values in weights} != {len(which.kinds)}:
            raise ValueError(f"kinds {which.kinds} with weights {weights}")
    if not found.familiarity.strangeness:
        raise ValueError("no strangeness")
    return found


def _left_out(row: Mapping[str, Any]) -> LeftOut:
    ranges = [Range(*_numbers([row[key]["least"], row[key]["most"]])) for key in ("distance", "angle")]
    return LeftOut(int(row["sequences"]), *ranges)


def _scale(row: Mapping[str, Any]) -> Scale:
    kinds = tuple(row["kinds"])
    if not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds {kinds}")
    return Scale(kinds, _numbers(row["middle"], len(kinds)), _numbers(row["spread"], len(kinds)))


def _numbers(values: Any, count: int | None = None) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if not np.isfinite(numbers).all() or count not in (None, len(numbers)):
        raise ValueError(f"{len(numbers)} numbers, some perhaps not finite")
    return numbers
