"""placecell evaluate RUN SCENE"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from placecell.cli.terminal import Terminal, columns, finish, parse, unused
from placecell.metrics import Evaluation, percent, table
from placecell.metrics_file import write_metrics
from placecell.published import TEST_FRAMES, rows_for
from placecell.scene import Scene
from placecell.verdict import verdict


def main(words: Sequence[str]) -> None:
    """Judge a run."""
    parse("evaluate", evaluate, words)


def evaluate(run: Annotated[Path, tyro.conf.Positional], scene: Annotated[Path, tyro.conf.Positional]) -> None:
    """Judge the answers of a run: errors over all asked frames, recalls, and the floors to beat.

    Args:
        run: Run folder; metrics.json is written into it.
        scene: The scene folder the map was built from.
    """
    place = Scene.load(scene)
    found = verdict(run, place)
    write_metrics(found.evaluation, run / "metrics.json")
    if found.trained:
        Terminal().warn(
            f"{found.trained} of {len(found.evaluation.errors)} frames are training frames, which the map knows: "
            "the figures flatter it"
        )
    print(table({found.run.map["family"]: found.evaluation, **found.floors}))
    for lines in (_sequences(found.evaluation), _remarks(found.evaluation), _published(found.evaluation)):
        print("".join(f"{line}\n" for line in lines), end="")
    finish(f"{run / 'metrics.json'}: the figures", ["placecell", "report", run, scene, unused(Path("report.html"))])


def _sequences(evaluation: Evaluation) -> list[str]:
    """A line a sequence, where there are several."""
    if len(evaluation.sequences) < 2:
        return []
    factor, unit = (100.0, "cm") if evaluation.metric else (1.0, evaluation.unit)
    limits = [limit for limit in ("5cm/5deg",) if evaluation.metric]
    lines = [["sequence", "frames", "answered", f"median {unit}", "median deg", *limits]]
    for name, row in evaluation.sequences.items():
        figures = (f"{factor * row.median_distance:.2f}", f"{row.median_angle_deg:.2f}")
        recalls = (percent(row.recalls[limit]) for limit in limits)
        lines.append([name or "(no name)", str(row.frames), str(row.answered), *figures, *recalls])
    return columns(lines)


def _remarks(evaluation: Evaluation) -> list[str]:
    """Time, and whether the stated uncertainty is honest."""
    remarks = []
    if evaluation.seconds_median is not None and evaluation.seconds_p95 is not None:
        median_ms, slow_ms = 1e3 * evaluation.seconds_median, 1e3 * evaluation.seconds_p95
        remarks.append(f"time: median {median_ms:.0f} ms a picture, 95 % within {slow_ms:.0f} ms")
    if evaluation.nees is not None:
        inside = " and ".join(percent(share) for share in (evaluation.nees.within_50, evaluation.nees.within_95))
        remarks.append(f"covariance: {inside} % of the errors inside its 50 and 95 % ellipsoids")
    return remarks


def _published(evaluation: Evaluation) -> list[str]:
    """The published rows of the scene against the same ground truth, where it is a known one."""
    rows = rows_for(evaluation.scene, evaluation.labels)
    if not rows:
        return []
    frames = next((n for name, n in TEST_FRAMES.items() if name.casefold() == evaluation.scene.casefold()), None)
    whole = f", over its {frames} test frames" if frames not in (None, len(evaluation.errors)) else ""
    heads = [f"median {rows[0].printed_unit}/deg", "5cm/5deg", "source", "remark"]
    lines = [[row.system, row.printed, row.recalls.get("5cm/5deg", ""), row.source, row.remark] for row in rows]
    title = f"published on {evaluation.scene}, ground truth {evaluation.labels}{whole}"
    return [title, *columns([["", *heads], *lines])]
