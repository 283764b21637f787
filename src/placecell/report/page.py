"""The report: one HTML file with its own style, script, pictures and points, that asks nothing of any host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from placecell import atomic
from placecell.estimate import Estimate
from placecell.localizer import Localizer
from placecell.log import Log, Silent
from placecell.metrics import Evaluation, Threshold
from placecell.report import charts, tables
from placecell.report.errormap import error_map
from placecell.report.explained import features_section, saliency_section
from placecell.report.judged import Judged, judge, worst
from placecell.report.pictures import worst_cards
from placecell.report.ramp import Ramp, css_gradient
from placecell.report.trust import trust_section
from placecell.report.view3d import script_json, view_data
from placecell.report.wording import angle, length, round_length, text
from placecell.scene import Scene

_SILENT = Silent()


def write_report(
    path: Path,
    scene: Scene,
    estimates: Sequence[Estimate],
    evaluation: Evaluation,
    *,
    floors: Mapping[str, Evaluation] | None = None,
    run_info: Mapping[str, Any] | None = None,
    localizer: Localizer | None = None,
    threshold: Threshold | None = None,
    log: Log = _SILENT,
) -> None:
    """Write the report of a run to `path`, whole or not at all.

    Args:
        scene: the whole scene, training frames too: the view and the nearest training pictures need them.
        floors: evaluations to stand beside, by name: constant, oracle, retrieval.
        run_info: what the page says of the run, in its order. `family`, `map_bytes`, `date`, `seed` and `versions`
            (a mapping) have their places; other keys are listed as they are.
        localizer: the map itself, to show what it sees in pictures, if it can tell.
        threshold: what the confidences of the answers are about.

    Raises:
        SceneError: the evaluation, a floor or an answer belongs to another scene or ground truth.
        PlacecellError: the file cannot be written.
    """
    others, about = dict(floors or {}), dict(run_info or {})
    ours = str(about.get("family", "this map"))
    judged = judge(scene, estimates, evaluation)
    for floor in others.values():
        judge(scene, [], floor)
    parts = {
        **_shell(),
        **_header(scene, evaluation, about),
        **_pictures(scene, judged, log),
        **_figures(scene, judged, ours, evaluation, others),
        **_explained(scene, judged, localizer, log),
        "comparison": tables.comparison(evaluation, others, ours),
        "sequences": tables.sequence_rows(evaluation),
        "refused": tables.refused(judged),
        "calibration": tables.calibration(evaluation) + trust_section(scene, judged, threshold, log),
        "about": tables.about(scene, evaluation, about),
    }
    atomic.write_text(path, Template(_resource("report.html")).substitute(parts))


def _shell() -> dict[str, str]:
    scripts = "\n".join(_resource(name) for name in ("renderers.js", "orbit.js", "report.js"))
    return {"style": _resource("report.css"), "script": scripts, "gradient": css_gradient()}


def _header(scene: Scene, evaluation: Evaluation, run_info: Mapping[str, Any]) -> dict[str, str]:
    line = [
        f"{evaluation.overall.frames} frames asked",
        f"ground truth: {text(tables.ground_truth(scene.labels))}",
        *(f"{key} {text(run_info[key])}" for key in ("family", "seed") if key in run_info),
        *(text(run_info[key]) for key in ("date",) if key in run_info),
    ]
    notes = "".join(f"<li>{text(note)}</li>" for note in scene.notes)
    return {
        "title": text(scene.name),
        "subtitle": " · ".join(line),
        "tiles": tables.tiles(evaluation, run_info),
        "notes": f'<aside class="notes"><h2>About this scene</h2><ul>{notes}</ul></aside>' if notes else "",
    }


def _pictures(scene: Scene, judged: Sequence[Judged], log: Log) -> dict[str, str]:
    chosen = worst(judged)
    if not chosen:
        return {"worst": "<p class='remark'>No frame was answered.</p>"}
    return {"worst": f'<div class="cards">{worst_cards(scene, chosen, judged, log)}</div>'}


def _figures(
    scene: Scene, judged: Sequence[Judged], ours: str, evaluation: Evaluation, floors: Mapping[str, Evaluation]
) -> dict[str, str]:
    distances = [item.error.distance for item in judged]
    angles_deg = [item.error.angle_deg for item in judged if item.answer is not None]
    near, turn = Ramp.of(distances), Ramp.of(angles_deg)

    def shown(value: float) -> str:
        return length(value, scene.unit)

    def ticks(value: float) -> str:
        return round_length(value, scene.unit)

    rows = {ours: evaluation, **floors}
    curves = _curves(rows, "distance", "Position", ticks) + _curves(rows, "angle_deg", "Rotation", _round_angle)
    if "joint" in evaluation.curves:
        curves += _curves(rows, "joint", "Both: cm and degrees", lambda value: f"{value:g}", (1, 2, 5))
    return {
        "curves": curves,
        "key": "".join(f'<li class="k{min(i, 4)}">{text(name)}</li>' for i, name in enumerate(rows)),
        "histograms": charts.histogram(distances, "Position error", shown, ticks, near)
        + charts.histogram(angles_deg, "Rotation error of the answered", angle, _round_angle, turn),
        "map": error_map(scene, judged, near),
        "strip": charts.strip(judged, near, scene.unit),
        "low": text(shown(near.low)),
        "high": text(shown(near.high)),
        "low_deg": text(angle(turn.low)),
        "high_deg": text(angle(turn.high)),
        "data": script_json(view_data(scene, judged, near, turn)),
    }


def _explained(scene: Scene, judged: Sequence[Judged], localizer: Localizer | None, log: Log) -> dict[str, str]:
    if localizer is None:
        return {"saliency": "", "features": ""}
    near = Ramp.of([item.error.distance for item in judged])
    return {
        "saliency": saliency_section(scene, judged, localizer, log),
        "features": features_section(scene, judged, localizer, near, log),
    }


def _curves(
    rows: Mapping[str, Evaluation], kind: str, title: str, shown: charts.Shown, marks: Sequence[float] = ()
) -> str:
    curves = {name: row.curves[kind] for name, row in rows.items() if kind in row.curves}
    return charts.cumulative(curves, title, shown, marks)


def _round_angle(value_deg: float) -> str:
    return f"{value_deg:g}°"


def _resource(name: str) -> str:
    return (files("placecell") / "web" / name).read_text(encoding="utf-8")
