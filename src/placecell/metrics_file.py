"""metrics.json: an `Evaluation` on disk (docs/formats.md). Infinite figures are the string "inf", as JSON has none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from placecell import atomic
from placecell.errors import FormatError
from placecell.metrics import Curve, Evaluation, Nees, Summary
from placecell.pose import PoseError
from placecell.scene import read_json

FORMAT = 1


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Write metrics.json, whole or not at all."""
    row = {"format": FORMAT, **evaluation_to_json(evaluation)}
    atomic.write_text(path, json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_metrics(path: Path) -> Evaluation:
    """Inverse of `write_metrics`.

    Raises:
        FormatError: the file is missing, damaged, or of another format.
    """
    row = read_json(path)
    if row.get("format") != FORMAT:
        raise FormatError(f"{path}: format {row.get('format')}, this version reads {FORMAT}; evaluate again")
    try:
        return evaluation_from_json(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path}: not an evaluation ({error!r}); evaluate again") from error


def evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON values."""
    row: dict[str, Any] = _finite(asdict(evaluation))
    row["errors"] = {name: _finite(list(error)) for name, error in evaluation.errors.items()}
    return row


def evaluation_from_json(row: Mapping[str, Any]) -> Evaluation:
    """Inverse of `evaluation_to_json`."""
    curves = {
        name: Curve(tuple(map(float, curve["errors"])), tuple(map(float, curve["shares"])))
        for name, curve in row["curves"].items()
    }
    return Evaluation(
        overall=_summary(row["overall"]),
        scene=str(row["scene"]),
        labels=str(row["labels"]),
        unit=str(row["unit"]),
        mean_distance=_number(row["mean_distance"]),
        mean_angle_deg=_number(row["mean_angle_deg"]),
        curves=curves,
        sequences={name: _summary(value) for name, value in row["sequences"].items()},
        seconds_median=_number(row["seconds_median"]),
        seconds_p95=_number(row["seconds_p95"]),
        nees=None if row["nees"] is None else _nees(row["nees"]),
        errors={name: PoseError(float(value[0]), float(value[1])) for name, value in row["errors"].items()},
    )


def _summary(row: Mapping[str, Any]) -> Summary:
    return Summary(
        frames=int(row["frames"]),
        answered=int(row["answered"]),
        median_distance=float(row["median_distance"]),
        median_angle_deg=float(row["median_angle_deg"]),
        recalls={name: float(share) for name, share in row["recalls"].items()},
    )


def _nees(row: Mapping[str, Any]) -> Nees:
    figures = {key: float(row[key]) for key in ("mean", "median", "within_50", "within_95")}
    return Nees(frames=int(row["frames"]), **figures)


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value
