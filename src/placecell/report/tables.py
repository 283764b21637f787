"""The parts of the report that are words and figures: tiles, comparison, sequences, refusals, how it was made."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from placecell.metrics import THRESHOLDS, Evaluation, percent
from placecell.published import PAPER, RECALLED, RECOMPUTED, REPOSITORY, TEST_FRAMES, Published, rows_for
from placecell.report.judged import Judged, refusals
from placecell.report.wording import angle, duration, html_table, length, size, text, threshold
from placecell.scene import Scene

_LABELS = {
    "sfm": "structure from motion (sfm)",
    "kinectfusion": "KinectFusion, the original labels (kinectfusion)",
    "synthetic": "exact, by construction (synthetic)",
}


_SOURCES = {RECOMPUTED: "recomputed", REPOSITORY: "repository", PAPER: "paper", RECALLED: "recalled"}


def ground_truth(labels: str) -> str:
    """The labels of a scene in words."""
    return _LABELS.get(labels, labels)


def tiles(evaluation: Evaluation, run_info: Mapping[str, Any]) -> str:
    """The figures that matter, large."""
    overall = evaluation.overall
    error = f"{length(overall.median_distance, evaluation.unit)}<small>{angle(overall.median_angle_deg)}</small>"
    found = [("median error", error)]
    found += [
        (f"within {threshold(name)}", f"{percent(overall.recalls[name])}<small>%</small>")
        for name in ("1cm/1deg", "2cm/2deg", "5cm/5deg")
        if name in overall.recalls
    ]
    found.append(("answered", f"{overall.answered}<small>of {overall.frames}</small>"))
    if evaluation.seconds_median is not None and evaluation.seconds_p95 is not None:
        slow = f"per picture, 95 % within {duration(evaluation.seconds_p95)}"
        found.append((slow, duration(evaluation.seconds_median)))
    if "map_bytes" in run_info:
        found.append((f"{text(run_info.get('family', 'the'))} map", size(float(run_info["map_bytes"]))))
    return "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in found)


def comparison(evaluation: Evaluation, floors: Mapping[str, Evaluation], ours: str) -> str:
    """Ours, the floors, and the published rows of the same scene and ground truth."""
    published = rows_for(evaluation.scene, evaluation.labels)
    names = [limit.name for limit in THRESHOLDS if limit.name in evaluation.overall.recalls]
    rows = [_own_row(ours, evaluation, names)]
    rows += [_own_row(name, floor, names) for name, floor in floors.items()]
    rows += [_published_row(row, names) for row in published]
    marks = ["ours", *["floor"] * len(floors), *["published"] * len(published)]
    heads = ["", "median", "angle", *(f"{threshold(name)}" for name in names)]
    return html_table(heads, rows, marks=marks, kind="comparison") + _comparison_remarks(evaluation, published)


def sequence_rows(evaluation: Evaluation) -> str:
    """A row a sequence; empty without sequences."""
    names = [name for name in ("1cm/1deg", "2cm/2deg", "5cm/5deg") if name in evaluation.overall.recalls]
    rows = [
        [
            text(sequence or "(no name)"),
            str(row.frames),
            str(row.answered),
            length(row.median_distance, evaluation.unit),
            angle(row.median_angle_deg),
            *(percent(row.recalls[name]) for name in names),
        ]
        for sequence, row in evaluation.sequences.items()
    ]
    heads = ["sequence", "frames", "answered", "median", "angle", *(threshold(name) + " %" for name in names)]
    return _section("sequences", "Sequences", html_table(heads, rows)) if rows else ""


def refused(judged: Sequence[Judged]) -> str:
    """Reasons of the refused frames, most frequent first, each with its frames; empty when none was refused."""
    groups = refusals(judged)
    if not groups:
        return ""
    parts = [
        f"<details><summary><span>{text(reason)}</span><b>{len(names)}</b></summary><p class='names'>"
        f"{', '.join(text(name) for name in names)}</p></details>"
        for reason, names in groups
    ]
    total = sum(len(names) for _, names in groups)
    return _section("refused", f"Refused frames ({total})", "".join(parts))


def calibration(evaluation: Evaluation) -> str:
    """Whether the covariances are honest; empty without covariances."""
    found = evaluation.nees
    if found is None:
        return ""
    rows = [
        ["mean of eᵀΣ⁻¹e", f"{found.mean:.2f}", "6"],
        ["median of eᵀΣ⁻¹e", f"{found.median:.2f}", "5.35"],
        ["inside the 50 % ellipsoid", f"{percent(found.within_50)} %", "50 %"],
        ["inside the 95 % ellipsoid", f"{percent(found.within_95)} %", "95 %"],
    ]
    note = f"<p class='remark'>Over the {found.frames} answers with a covariance. Larger means: overconfident.</p>"
    table = html_table(["", "here", "when honest"], rows)
    return _section("calibration", "Is the stated uncertainty honest?", table + note)


def about(scene: Scene, evaluation: Evaluation, run_info: Mapping[str, Any]) -> str:
    """How the figures came about: scene, ground truth, and everything the run says of itself."""
    facts: list[tuple[str, str]] = [
        ("scene", f"{text(scene.name)}, {len(scene.frames)} frames, fingerprint {scene.fingerprint}"),
        ("ground truth", text(ground_truth(scene.labels))),
        ("unit", "metres" if scene.metric else "arbitrary: this scene has no metric scale"),
    ]
    if evaluation.mean_distance is not None and evaluation.mean_angle_deg is not None:
        mean = f"{length(evaluation.mean_distance, evaluation.unit)}, {angle(evaluation.mean_angle_deg)}"
        facts.append(("mean error of the answered alone", mean))
    facts += [(text(key.replace("_", " ")), _fact(key, value)) for key, value in run_info.items()]
    if "python" not in run_info.get("versions", {}):
        facts.append(("report made with", f"Python {platform.python_version()}"))
    return "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts)


def _own_row(name: str, row: Evaluation, names: Sequence[str]) -> list[str]:
    overall = row.overall
    return [
        text(name),
        length(overall.median_distance, row.unit),
        angle(overall.median_angle_deg),
        *(percent(overall.recalls[name]) for name in names),
    ]


def _published_row(row: Published, names: Sequence[str]) -> list[str]:
    distance, _, turn = row.printed.partition("/")
    hint = "; ".join(filter(None, (_SOURCES[row.source], row.remark)))
    return [
        f"{text(row.system)}<small>{text(hint)}</small>",
        f"{_leading_zero(distance)} {row.printed_unit}" if distance else "",
        f"{_leading_zero(turn)}°" if turn else "",
        *(text(row.recalls.get(name, "")) for name in names),
    ]


def _leading_zero(printed: str) -> str:
    return f"0{printed}" if printed.startswith(".") else printed


def _comparison_remarks(evaluation: Evaluation, published: Sequence[Published]) -> str:
    remarks = ["Medians are over all frames; a refused frame counts as infinitely far. Columns on the right: per cent."]
    if evaluation.unit != "m":
        remarks.append("This scene has no metric scale, so shares within metres cannot be given.")
    official = next((n for key, n in TEST_FRAMES.items() if key.casefold() == evaluation.scene.casefold()), None)
    if published:
        remarks.append(
            f"Published rows are against the same ground truth, {text(ground_truth(evaluation.labels))}: "
            f"recomputed here means {RECOMPUTED}; repository and paper mean as printed there."
        )
    if published and official is not None and official != evaluation.overall.frames:
        remarks.append(
            f"<strong>They are about the official {official} test frames, the rows above about "
            f"{evaluation.overall.frames}: near, but not the same test.</strong>"
        )
    return "".join(f"<p class='remark'>{remark}</p>" for remark in remarks)


def _fact(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return size(float(value))
    if isinstance(value, Mapping):
        return ", ".join(f"{text(name)} {text(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return text(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)


def _section(key: str, title: str, body: str) -> str:
    return f'<section id="{key}"><h2>{text(title)}</h2>{body}</section>'
