"""Training through RANSAC on real frames, into docs/benchmarks.md: `make bench-coordinates`.

    python benchmarks/dsac.py                      what is not measured yet, then the page
    python benchmarks/dsac.py fcn-rgb --again      a row anew
    python benchmarks/dsac.py head --map kitchen.map    the head of a map that is there already
    python benchmarks/dsac.py --page               the page alone, from what is measured

A row is a training before and after it went end to end, so it takes tens of minutes on two cores; each keeps its
figures in benchmarks/measured/dsac/ and its work in --work, from where it goes on. Needs the real frames
($PLACECELL_DATA, default ../shared/data) and the ImageNet weights beside them ($PLACECELL_WEIGHTS).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from core import answers, judged, kitchen
from page import DATA, ROOT, markdown, put, stamp
from torch import Tensor

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.errors import MapError
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.dsac.config import Dsac
from placecell.families.coordinates.dsac.expected import Ransac, expected_loss
from placecell.families.coordinates.dsac.shots import cell_pixels
from placecell.families.coordinates.dsac.sights import Depths, Pixels, Sight
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.coordinates.tuning import Tuning, tuned
from placecell.images import load_query
from placecell.localizer import Localizer, map_bytes
from placecell.pnp import solve_pnp
from placecell.rigid import solve_rigid
from placecell.scene import Frame, Scene

MEASURED = ROOT / "benchmarks" / "measured" / "dsac"
WEIGHTS = Path(os.environ.get("PLACECELL_WEIGHTS", DATA.parent / "weights")) / "mobilenet_v2_imagenet.safetensors"
THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))
THRESHOLDS = ("1cm/1deg", "2cm/2deg", "5cm/5deg")
HEADER = ("system", "labels", "end to end", "cm", "deg", *THRESHOLDS, "steps", "training min", "map MB", "ms/frame")
COUNTS = (16, 64, 256, 1024)
KINDS = {"rgb": Ransac(), "rgbd": Ransac(max_error=0.1)}

SMALL = Dsac(short_side=120, width=64, epochs=20.0, batch=8, learning_rate=2e-3, end_to_end=1000)
"""Half of the default's picture and width: four minutes a row in place of half an hour."""
FCNS = {
    "fcn-rgb": ("sfm", SMALL),
    "fcn-rgbd": ("kinectfusion", replace(SMALL, rgbd=True)),
    "fcn-rgb-learned": ("sfm", replace(SMALL, scores="learned")),
    "fcn-rgb-reprojection": ("sfm", replace(SMALL, start="reprojection")),
    "fcn-rgb-default": ("sfm", Dsac()),
}
TOLD = {
    "head": "fast map's head",
    "fcn-rgb": "FCN, RGB",
    "fcn-rgbd": "FCN, RGB-D",
    "fcn-rgb-learned": "FCN, RGB, learned scores",
    "fcn-rgb-reprojection": "FCN, RGB, from reprojection alone",
    "fcn-rgb-default": "FCN, RGB, the default's size",
}
TUNED = 300
"""Steps of the head's tuning."""


def validation(scene: Scene) -> Scene:
    """The scene without its test frames: blocks of its training frames are asked instead, to choose settings by."""
    train = [frame.name for frame in scene.split("train").posed]
    held = {name for index, name in enumerate(train) if (index // 50) % 7 == 3}
    frames = tuple(
        replace(frame, split="test" if frame.name in held else "train") for frame in scene.split("train").frames
    )
    return replace(scene.split("train"), frames=frames)


def measure_head(scene: Scene, work: Path, given: Path | None) -> dict[str, Any]:
    """The fast map as it is, and with its head tuned."""
    if given is None:
        given = work / "fast.map"
        if not given.exists():
            Coordinates(weights=str(WEIGHTS)).build(scene, seed=0, log=Terminal(), work=work / "fast").save(given)
    found = load_map(given)
    if not isinstance(found, CoordinatesMap):
        raise MapError(f"{given}: a map of {type(found).__name__}, not of family coordinates; build one")
    before, start = figures(found, scene), time.perf_counter()
    told: dict[str, Any] = {"steps": TUNED, "seed": 0, "log": Terminal(), "work": work / "head"}
    after = tuned(found, scene, scene.split("train").posed, **told)
    minutes = (time.perf_counter() - start) / 60
    return {
        "before": before,
        "after": {**figures(after, scene), "steps": TUNED, "minutes": minutes},
        "tuning": vars(Tuning()),
    }


def measure_fcn(name: str, scene: Scene, work: Path) -> dict[str, Any]:
    """A network of convolutions before and after it went end to end, from the same start."""
    _, config = FCNS[name]
    rows: dict[str, Any] = {}
    for when, steps in (("before", 0), ("after", config.end_to_end)):
        start = time.perf_counter()
        made = replace(config, end_to_end=steps).build(scene, seed=0, log=Terminal(), work=work / name)
        minutes = (time.perf_counter() - start) / 60
        size = made.info.extra["steps"]
        rows[when] = {**figures(made, scene, depth=config.rgbd), "steps": size, "minutes": minutes}
    return rows


def figures(found: Localizer, scene: Scene, *, depth: bool = False) -> dict[str, Any]:
    """How a map answers the test frames."""
    evaluation = judged(scene, answers(found, scene, depth=depth))
    overall = evaluation.overall
    folder = MEASURED / ".size"
    return {
        "answered": overall.answered,
        "frames": overall.frames,
        "cm": 100 * overall.median_distance,
        "deg": overall.median_angle_deg,
        "recalls": {key: 100 * value for key, value in overall.recalls.items()},
        "ms": None if evaluation.seconds_median is None else 1e3 * evaluation.seconds_median,
        "map_mb": size_mb(found, folder),
    }


def size_mb(found: Localizer, folder: Path) -> float:
    """Megabytes of a map on disk."""
    from shutil import rmtree

    rmtree(folder, ignore_errors=True)
    found.save(folder)
    size = map_bytes(folder) / 1e6
    rmtree(folder)
    return size


def example(scene: Scene, side: int) -> tuple[Frame, Tensor, dict[str, Sight], tuple[Tensor, Tensor]]:
    """Coordinates of a real frame by its depth, with noise and wrong ones in patches; what it sees; its pose."""
    frame = next(frame for frame in scene.split("train").posed if frame.sequence == "seq-04")
    query, truth = load_query(scene, frame, depth=True), frame.world_from_cam
    if query.depth_m is None or truth is None:
        raise MapError(f"frame {frame.name} has no depth or no pose; use the kinectfusion labels")
    pixels = cell_pixels(query.camera, side)
    depth = query.depth_m[side // 2 :: side, side // 2 :: side].astype(np.float64)[: pixels.shape[0], : pixels.shape[1]]
    seen = query.camera.rays(pixels) * depth[..., None]
    rng = np.random.default_rng(0)
    patches = cv2.GaussianBlur(rng.normal(size=(*depth.shape, 4)), (0, 0), 2.0)
    patches /= patches.std()
    full = query.camera.rays(pixels) * np.nan_to_num(depth, nan=float(np.nanmedian(depth)))[..., None]
    points = truth.apply(full) + 0.02 * patches[..., :3] + np.where(patches[..., 3:] > 0.5, patches[..., :3], 0.0)
    sights: dict[str, Sight] = {
        "rgb": Pixels.of(pixels.reshape(-1, 2), query.camera),
        "rgbd": Depths.of(seen.reshape(-1, 3)),
    }
    pose = (torch.tensor(truth.rotation), torch.tensor(truth.translation))
    return frame, torch.from_numpy(points.reshape(-1, 3)), sights, pose


def measure_gradient() -> dict[str, Any]:
    """How far the gradient of the whole chain is from central differences, along random directions."""
    frame, points, sights, truth = example(kitchen("kinectfusion"), 32)
    rows: dict[str, Any] = {"frame": frame.name, "cells": len(points)}
    for kind, ransac in KINDS.items():
        for refine in (0, 4):
            chain = replace(ransac, hypotheses=16, refine=refine, alpha=20.0, measure="sum")

            def value(at: Tensor, kind: str = kind, chain: Ransac = chain) -> Tensor:
                generator = torch.Generator().manual_seed(0)
                return expected_loss(at, sights[kind], truth, chain, generator=generator).loss

            rows[f"{kind}, {'refined' if refine else 'not refined'}"] = disagreement(value, points)
    return rows


def disagreement(value: Callable[[Tensor], Tensor], points: Tensor, step: float = 1e-6) -> dict[str, float]:
    """Relative errors of autograd's derivatives along 20 directions against central differences."""
    leaf = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(leaf), leaf)
    errors = []
    with torch.no_grad():
        for seed in range(20):
            direction = torch.randn(points.shape, generator=torch.Generator().manual_seed(seed), dtype=points.dtype)
            direction /= direction.norm()
            expected = float(value(points + step * direction) - value(points - step * direction)) / (2 * step)
            errors.append(abs(float((slope * direction).sum()) - expected) / abs(expected))
    return {"median": float(np.median(errors)), "largest": float(np.max(errors))}


def measure_ransac() -> dict[str, Any]:
    """Milliseconds of a picture's RANSAC in training, forward and back, by its number of hypotheses; and of use."""
    torch.set_num_threads(1)
    _, points, sights, truth = example(kitchen("kinectfusion"), 16)
    camera = kitchen("kinectfusion").cameras[next(iter(kitchen("kinectfusion").cameras))]
    rows: dict[str, Any] = {"cells": len(points)}
    for kind, ransac in KINDS.items():
        for count in COUNTS:
            times = []
            for seed in range(8):
                leaf = points.clone().requires_grad_()
                start = time.perf_counter()
                told = replace(ransac, hypotheses=count)
                generator = torch.Generator().manual_seed(seed)
                expected_loss(leaf, sights[kind], truth, told, generator=generator).loss.backward()
                times.append(1e3 * (time.perf_counter() - start))
            rows[f"{kind} {count}"] = float(np.median(times[1:]))
    pixels, flat = cell_pixels(camera, 16).reshape(-1, 2), points.numpy()
    seen = sights["rgbd"].points_cam.mT.numpy()  # type: ignore[attr-defined]
    known = np.isfinite(seen).all(axis=1)
    for name, solve in {
        "rgb use": lambda: solve_pnp(flat, pixels, camera, max_error_px=10.0),
        "rgbd use": lambda: solve_rigid(flat[known], seen[known], max_error=0.1, noise=0.02),
    }.items():
        times = []
        for _ in range(8):
            start = time.perf_counter()
            solve()
            times.append(1e3 * (time.perf_counter() - start))
        rows[name] = float(np.median(times))
    return rows


def measured() -> dict[str, dict[str, Any]]:
    """What is known so far."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(MEASURED.glob("*.json"))}


def lines_of(found: dict[str, Any]) -> list[list[str]]:
    """Two lines of the table: before and after."""
    lines = []
    for when in ("before", "after"):
        row = found[when]
        lines.append(
            [
                found["told"],
                found["labels"],
                when,
                f"{row['cm']:.2f}",
                f"{row['deg']:.3f}",
                *(f"{row['recalls'][key]:.1f}" for key in THRESHOLDS),
                str(row.get("steps", "–")),
                f"{row['minutes']:.1f}" if "minutes" in row else "–",
                f"{row['map_mb']:.1f}",
                f"{row['ms']:.0f}" if row["ms"] is not None else "–",
            ]
        )
    return lines


def page() -> None:
    """Write the section."""
    known = measured()
    lines = ["Red kitchen, 700 training and 300 test frames; before and after end-to-end training:", ""]
    lines += markdown(HEADER, [line for name in TOLD if name in known for line in lines_of(known[name])])
    if (found := known.get("gradient")) is not None:
        rows = [(key, f"{row['median']:.1e}", f"{row['largest']:.1e}") for key, row in found.items() if "," in key]
        lines += [
            "",
            f"Gradient of the whole chain against central differences, {found['cells']} cells of a frame:",
            "",
        ]
        lines += markdown(("chain", "median relative error", "largest"), rows)
    if (found := known.get("ransac")) is not None:
        rows = [
            (kind, *(f"{found[f'{kind} {count}']:.0f}" for count in COUNTS), f"{found[f'{kind} use']:.0f}")
            for kind in KINDS
        ]
        lines += [
            "",
            f"Milliseconds of RANSAC and its gradient for a picture of {found['cells']} cells, one thread:",
            "",
        ]
        lines += markdown(("query", *(f"{count} hypotheses" for count in COUNTS), "in use"), rows)
    put("dsac", lines)


def measure(name: str, work: Path, given: Path | None) -> dict[str, Any]:
    """The figures of a row."""
    if name == "gradient":
        return measure_gradient()
    if name == "ransac":
        return measure_ransac()
    labels = "sfm" if name == "head" else FCNS[name][0]
    scene = kitchen(labels)
    rows = measure_head(scene, work, given) if name == "head" else measure_fcn(name, scene, work)
    return {"labels": labels, "told": TOLD[name], **rows}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, then write the page."""
    everything = ("gradient", "ransac", "head", *FCNS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(everything)}; all where none is named")
    parser.add_argument(
        "--map", type=Path, help="a map of family coordinates whose head is tuned, in place of a new one"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "dsac", help="where trainings go on from")
    parser.add_argument("--again", action="store_true", help="measure rows that are measured already")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    asked = parser.parse_args(words)
    if unknown := sorted(set(asked.rows) - set(everything)):
        parser.error(f"no row is called {unknown[0]}; known are {', '.join(everything)}")
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    for name in () if asked.page else asked.rows or everything:
        path = MEASURED / f"{name}.json"
        if path.is_file() and not asked.again:
            continue
        found = {"row": name, **measure(name, asked.work, asked.map), "threads": THREADS, "stamp": stamp()}
        write_text(path, json.dumps(found, indent=1) + "\n")
        print(f"{name}: {json.dumps(found)[:400]}", flush=True)
    page()


if __name__ == "__main__":
    main()
