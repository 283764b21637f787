"""What the core can do, measured on real frames into docs/benchmarks.md: `make bench-core`.

Run it alone on two idle cores, it takes about 20 minutes; `python benchmarks/core.py structure floors` measures only
those sections. Needs the real frames ($PLACECELL_DATA, default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from page import DATA, markdown, put

from placecell import floors
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.datasets import seven_scenes
from placecell.estimate import Estimate
from placecell.families.retrieval import Retrieval
from placecell.families.structure import Structure
from placecell.localizer import Localizer, map_bytes
from placecell.metrics import Evaluation, evaluate
from placecell.run import asked_of, localize_all
from placecell.scene import Scene

THRESHOLDS = ("1cm/1deg", "2cm/2deg", "5cm/5deg", "10cm/5deg", "25cm/2deg")
HEADER = ("method", "answered", "cm", "deg", *THRESHOLDS, "NEES median", "ms median", "ms p95", "map MB", "build s")


def judged(scene: Scene, estimates: Sequence[Estimate]) -> Evaluation:
    """Figures over the test frames."""
    frames = scene.split("test").posed
    truths = {frame.name: frame.world_from_cam for frame in frames if frame.world_from_cam is not None}
    return evaluate(
        estimates, truths, {frame.name: frame.sequence for frame in frames}, scene=scene.name, labels=scene.labels
    )


def row(name: str, found: Evaluation, *, size: float | None = None, build_s: float | None = None) -> list[str]:
    """One line of the table."""
    overall = found.overall
    seconds = ["–", "–"]
    if found.seconds_median is not None and found.seconds_p95 is not None:
        seconds = [f"{1e3 * found.seconds_median:.1f}", f"{1e3 * found.seconds_p95:.1f}"]
    return [
        name,
        f"{overall.answered}/{overall.frames}",
        f"{100 * overall.median_distance:.2f}",
        f"{overall.median_angle_deg:.3f}",
        *(f"{100 * overall.recalls[key]:.1f}" for key in THRESHOLDS),
        "–" if found.nees is None else f"{found.nees.median:.1f}",
        *seconds,
        "–" if size is None else f"{size:.1f}",
        "–" if build_s is None else f"{build_s:.0f}",
    ]


def answers(localizer: Localizer, scene: Scene, *, depth: bool = False) -> list[Estimate]:
    """Answers to the test frames, one at a time, so that each is timed alone."""
    asked = asked_of(scene, scene.split("test").posed, depth=depth)
    list(localize_all(localizer, asked[:5], at_once=1))  # the first ones warm caches
    return list(localize_all(localizer, asked, at_once=1))


def kitchen(labels: str) -> Scene:
    """The red kitchen with one of its ground truths."""
    return seven_scenes.read((DATA / "redkitchen").resolve(), labels=labels)


def structure() -> None:
    """The structure map against both ground truths."""
    lines = []
    for labels in ("sfm", "kinectfusion"):
        scene = kitchen(labels)
        found, size, seconds = _built(Structure(), scene)
        lines += [f"Red kitchen, {labels} labels, 700 training and 300 test frames:", ""]
        lines += markdown(HEADER, [row("structure", found, size=size, build_s=seconds)])
        by_sequence = [
            (
                name,
                part.frames,
                f"{100 * part.median_distance:.2f}",
                f"{part.median_angle_deg:.3f}",
                *(f"{100 * part.recalls[key]:.1f}" for key in THRESHOLDS),
            )
            for name, part in found.sequences.items()
        ]
        lines += ["", *markdown(("sequence", "frames", "cm", "deg", *THRESHOLDS), by_sequence), ""]
    put("structure", lines)


def floors_and_retrieval() -> None:
    """What has to be beaten, against both ground truths."""
    lines = []
    for labels in ("sfm", "kinectfusion"):
        scene = kitchen(labels)
        asked = scene.split("test").posed
        rows = [
            row("constant", judged(scene, floors.constant(scene, asked))),
            row("oracle", judged(scene, floors.oracle(scene, asked))),
        ]
        for top in (1, 5):
            found, size, seconds = _built(Retrieval(top=top), scene)
            rows.append(row(f"retrieval, top {top}", found, size=size, build_s=seconds))
        lines += [f"Red kitchen, {labels} labels, 300 test frames:", "", *markdown(HEADER, rows), ""]
    put("floors", lines)


def evaluator() -> None:
    """The published figures from the published answers."""
    import bench_evaluator

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        bench_evaluator.main()
    put("evaluator", text.getvalue().splitlines())


def labels() -> None:
    """Automatic labels of a video."""
    import bench_labels

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        bench_labels.main()
    put("labels", text.getvalue().splitlines())


def starts() -> None:
    """How long the command line and an installation take."""
    placecell = Path(sys.executable).with_name("placecell")
    helps = [_seconds([str(placecell), "--help"]) for _ in range(20)]
    rows = [("`placecell --help`", f"{np.median(helps):.3f}", f"{min(helps):.3f} to {max(helps):.3f}, 20 runs")]
    root = Path(__file__).parents[1]
    with TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        made = _seconds([sys.executable, "-m", "venv", str(venv)])
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "-c", str(root / "constraints.txt"), str(root)]
        installed = _seconds(pip)
        rows.append(
            ("core install in a fresh environment", f"{made + installed:.0f}", "one run, package cache as it was")
        )
        out = Path(folder) / "demo"
        rows.append(("`placecell demo`", f"{_seconds([str(placecell), 'demo', str(out)]):.0f}", "one run"))
    put("starts", markdown(("what", "seconds", "spread"), rows))


def _built(family: Structure | Retrieval, scene: Scene) -> tuple[Evaluation, float, float]:
    """Build, save, load as a user would, and answer the test frames."""
    start = time.perf_counter()
    built = family.build(scene, seed=0, log=Terminal())
    seconds = time.perf_counter() - start
    with TemporaryDirectory() as folder:
        path = Path(folder) / "map"
        built.save(path)
        return judged(scene, answers(load_map(path), scene)), map_bytes(path) / 1e6, seconds


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


SECTIONS: dict[str, Callable[[], None]] = {
    "evaluator": evaluator,
    "structure": structure,
    "floors": floors_and_retrieval,
    "labels": labels,
    "starts": starts,
}

if __name__ == "__main__":
    cv2.setNumThreads(2)
    for wanted in sys.argv[1:] or SECTIONS:
        print(f"measuring {wanted}", file=sys.stderr)
        SECTIONS[wanted]()
