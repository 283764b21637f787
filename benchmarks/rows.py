"""Rows of a table that take minutes each: their figures are kept as files until the page is written from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from core import judged
from page import DATA, ROOT, stamp

from placecell.atomic import write_text
from placecell.estimate import Estimate
from placecell.scene import Scene

MEASURED = ROOT / "benchmarks" / "measured"
WEIGHTS = Path(os.environ.get("PLACECELL_WEIGHTS", DATA.parent / "weights")) / "mobilenet_v2_imagenet.safetensors"
PLACECELL = Path(sys.executable).with_name("placecell")
THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))


def build(scene: Path, made: Path, settings: Any, seed: int = 0) -> None:
    """What `placecell build` makes of a scene folder with these settings."""
    words = [scene, made, settings.name, *flags(settings), "--seed", str(seed)]
    subprocess.run([PLACECELL, "build", *words], check=True)


def record(table: str, name: str, labels: str, scene: Scene, estimates: Sequence[Estimate], kept: Any) -> None:
    """Keep the figures of a row, and whatever else is worth keeping."""
    found = judged(scene, estimates)
    overall = found.overall
    figures = {
        "answered": overall.answered,
        "cm": 100 * overall.median_distance,
        "deg": overall.median_angle_deg,
        "recalls": {key: 100 * value for key, value in overall.recalls.items()},
        "ms": None if found.seconds_median is None else 1e3 * found.seconds_median,
        "ms_p95": None if found.seconds_p95 is None else 1e3 * found.seconds_p95,
    }
    told = {"row": name, "labels": labels, **figures, **kept, "threads": THREADS, "stamp": stamp()}
    write_text(MEASURED / table / labels / f"{name}.json", json.dumps(told, indent=1) + "\n")
    minutes = kept.get("minutes") or 0.0
    print(f"{labels} {name}: {figures['cm']:.2f} cm {figures['deg']:.3f} deg, {minutes:.1f} min", flush=True)


def measured(table: str, labels: str) -> dict[str, dict[str, Any]]:
    """The rows that are known so far."""
    files = sorted((MEASURED / table / labels).glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def shown(found: dict[str, Any], key: str, text: Callable[[Any], str]) -> str:
    """A figure as a cell of the table; a dash where there is none."""
    return "–" if found.get(key) is None else text(found[key])


def flags(settings: Any, *, weights: bool = True) -> list[str]:
    """What `placecell build` is told to use these settings: those that differ from the default's."""
    words: list[str] = []
    standard = type(settings)()
    for item in fields(settings):
        value = getattr(settings, item.name)
        if value == getattr(standard, item.name) or (item.name == "weights" and not weights):
            continue
        name = item.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            parts = np.atleast_1d(value).tolist()
            words += ["--" + name, *(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)]
    return words
