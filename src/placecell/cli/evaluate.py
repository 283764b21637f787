"""placecell evaluate RUN SCENE"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from placecell.cli.terminal import finish, parse
from placecell.metrics import table
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
    print(f"{place.name}, {place.labels} labels, {len(found.evaluation.errors)} frames, lengths in {place.unit}")
    print(table({found.run.map["family"]: found.evaluation, **found.floors}))
    _published(place, len(found.evaluation.errors))
    finish(f"{run / 'metrics.json'}: the figures", f"placecell report {run} {scene} report.html")


def _published(scene: Scene, frames: int) -> None:
    rows = rows_for(scene.name, scene.labels)
    if not rows:
        return
    full = TEST_FRAMES.get(scene.name, frames)
    print(f"published on {scene.name}, {scene.labels} labels" + (f", {full} frames" if full != frames else ""))
    for row in rows:
        print(f"  {row}")
