"""How long answers take, on two quiet cores, into docs/benchmarks.md: `make bench-speed`.

    python benchmarks/speed.py                           what is not measured yet, then the page
    python benchmarks/speed.py --again default           the rows of a map anew; `service`, `install` likewise
    python benchmarks/speed.py --round                   the times of all rows once more
    python benchmarks/speed.py --round structure         of those whose names begin like that
    python benchmarks/speed.py --map posenet=FOLDER      another folder for a map
    python benchmarks/speed.py --page                    the page alone, from what is measured

Every time is the median of at least 200 runs with the 95th percentile beside it; of several rounds the median of each,
as shared machines are faster at one time than at another. Beside every row stands how well that very export places the
300 test frames. Maps are looked for in bench/ (see MAPS); one that is not there is left out. Their exports are made
once, calibrated on training frames, and kept beside them in bench/speed/. Needs the real frames ($PLACECELL_DATA,
default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from core import answers, judged, kitchen
from page import ROOT, markdown, put, stamp
from rows import MEASURED, THREADS, WEIGHTS, build
from speed_service import service_figures, service_lines

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.errors import PlacecellError
from placecell.estimate import Estimate
from placecell.export.exporting import export_map
from placecell.export.graphs import Graph, example, graph_of
from placecell.families.regression.config import PRESETS, Regression
from placecell.images import jpeg_of
from placecell.localizer import Localizer, camera_of_map, load_info, map_bytes
from placecell.runtime.engine import Engines
from placecell.runtime.exported import Exported, localizer_of
from placecell.scene import Scene
from placecell.serve.limits import Limits
from placecell.serve.pictures import Sent, query_of

RUNS, WARM, WARM_SECONDS = 220, 20, 2.0
"""Two threads that begin on one core take a second to find the other."""
TABLE = "speed"
BENCH = ROOT / "bench"
EXPORTS = BENCH / "speed"
MAPS = {
    "default": BENCH / "speed" / "default.map",
    "posenet": BENCH / "speed" / "posenet.map",
    "coordinates": BENCH / "coordinates" / "default-sfm.map",
    "structure": BENCH / "coordinates" / "structure-sfm.map",
}
"""Maps of the red kitchen with sfm labels: those of `BUILT` are built here, the others by `make bench-coordinates`."""
BUILT: dict[str, Regression] = {
    "default": Regression(weights=str(WEIGHTS), devices=2, epochs=70.0),
    # At the paper's size, from scratch: what it takes and what int8 costs are asked here, not how well it can learn.
    "posenet": replace(
        PRESETS["posenet-2017"],
        backbone="googlenet_plain",
        optimizer="adamw",
        learning_rate=3e-4,
        schedule="onecycle",
        epochs=10.0,
        batch=32,
        validation=0.0,
    ),
}
SERVED = "default-bf16.map"
FLOOR_GOPS = {"int8": 750.0}
"""What two cores of the machine that this is measured on can do at best, in products and sums a second, 1e9."""


def timed(call: Callable[[], Any], runs: int = RUNS) -> dict[str, float]:
    """Milliseconds of a call."""
    begun, calls = time.perf_counter(), 0
    while calls < min(WARM, runs) or time.perf_counter() - begun < WARM_SECONDS:
        call()
        calls += 1
    spent = np.empty(runs)
    for index in range(runs):
        start = time.perf_counter()
        call()
        spent[index] = 1e3 * (time.perf_counter() - start)
    return {"ms": float(np.median(spent)), "ms_p95": float(np.percentile(spent, 95))}


def photos(scene: Scene) -> dict[str, Sent]:
    """A test frame as it is stored, and as a picture of 1920x1080 of a camera that sees as much across."""
    frame = scene.split("test").frames[0]
    path = scene.image_path(frame)
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    large = cv2.resize(image[60:420], (1920, 1080), interpolation=cv2.INTER_CUBIC)
    focal = {"focal_px": 3 * scene.camera_of(frame).fx}
    return {
        "bytes": Sent("photo", path.read_bytes(), {}),
        "1080p": Sent("photo", jpeg_of(np.asarray(large, np.uint8), 90), focal),
    }


def placing(localizer: Localizer, folder: Path, picture: Sent) -> Callable[[], Estimate]:
    """From the content of a JPEG to a pose, by the way that the service goes."""
    camera, limits = camera_of_map(load_info(folder)), Limits()

    def place() -> Estimate:
        query, _ = query_of(picture, camera, localizer, limits)
        return localizer.localize([query])[0]

    return place


def from_bytes(
    localizer: Localizer, folder: Path, pictures: dict[str, Sent], runs: int = RUNS
) -> dict[str, dict[str, float]]:
    """How long that takes with each picture, all of which are placed."""
    calls = {key: placing(localizer, folder, picture) for key, picture in pictures.items()}
    if unplaced := [key for key, call in calls.items() if call().world_from_cam is None]:
        raise PlacecellError(f"{folder} does not place {', '.join(unplaced)}, so its time says nothing")
    return {key: timed(call, runs) for key, call in calls.items()}


def accuracy(localizer: Localizer, scene: Scene) -> dict[str, Any]:
    """Medians over the test frames."""
    overall = judged(scene, answers(localizer, scene)).overall
    return {"cm": 100 * overall.median_distance, "deg": overall.median_angle_deg, "answered": overall.answered}


def gmac(network: torch.nn.Module, picture: torch.Tensor) -> float:
    """Thousand million products of the convolutions and matrices of a network, for one picture."""
    total, hooks = 0, []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * (output.numel() if output.ndim != 4 else output[0].numel())

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            hooks.append(layer.register_forward_hook(count))
    with torch.inference_mode():
        network(picture)
    for hook in hooks:
        hook.remove()
    return total / 1e9


def keep(name: str, figures: dict[str, Any]) -> None:
    """The figures of a row as a file."""
    told = {"row": name, **figures, "threads": THREADS, "stamp": stamp()}
    write_text(MEASURED / TABLE / f"{name}.json", json.dumps(told, indent=1) + "\n")
    print(f"{name}: {json.dumps(figures)}", flush=True)


def known(name: str) -> dict[str, Any] | None:
    """The figures of a row, where it is measured."""
    path = MEASURED / TABLE / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


Rounds = tuple[str, ...] | None
"""What the names of rows begin with that are timed once more; of none all, None times none."""


def due(name: str, rounds: Rounds) -> bool:
    """Whether there is something to do for a row."""
    return known(name) is None or (rounds is not None and name.startswith(rounds or ""))


def row(name: str, fixed: Callable[[], dict[str, Any]], times: Callable[[], dict[str, Any]]) -> None:
    """A row that is not there yet; or another round of its times."""
    found = known(name)
    if found is None:
        keep(name, {**times(), **fixed()})
    else:
        keep(name, {**found, **{key: with_round(found[key], time) for key, time in times().items()}})


def with_round(found: dict[str, Any], time: dict[str, float]) -> dict[str, Any]:
    """Times with those of another round: the median of the rounds, and each."""
    rounds = [*found.get("rounds", [{key: found[key] for key in time}]), time]
    return {**{key: float(np.median([each[key] for each in rounds])) for key in time}, "rounds": rounds}


@dataclass(frozen=True, eq=False)
class Network:
    """A map of a network, looked at as far as it is needed."""

    folder: Path

    @cached_property
    def localizer(self) -> Localizer:
        """The map."""
        return load_map(self.folder)

    @cached_property
    def graph(self) -> Graph:
        """What is exported of it."""
        return graph_of(self.localizer)

    @cached_property
    def picture(self) -> torch.Tensor:
        """One that it can look at."""
        return example(self.graph, 1)

    @cached_property
    def work(self) -> float:
        """Thousand million products for it."""
        return gmac(self.graph.network, self.picture)

    def timed(self, network: Callable[[torch.Tensor], Any]) -> dict[str, float]:
        """In torch."""
        with torch.inference_mode():
            return timed(lambda: network(self.picture))


def network_rows(name: str, folder: Path, scene: Scene, rounds: Rounds) -> None:
    """A map of a network in every engine and precision."""
    own = Network(folder)
    if due(f"{name}-torch-eager", rounds):
        told = {"engine": "torch eager", "precision": "fp32", "gmac": own.work, "mb": map_bytes(folder) / 1e6}
        row(
            f"{name}-torch-eager",
            lambda: {**told, **accuracy(own.localizer, scene)},
            lambda: {"model": own.timed(own.graph.network), **from_bytes(own.localizer, folder, photos(scene))},
        )
    if due(f"{name}-torch-compile", rounds):
        row(
            f"{name}-torch-compile",
            lambda: {"engine": "torch.compile", "precision": "fp32", "gmac": own.work},
            lambda: {"model": own.timed(torch.compile(own.graph.network))},
        )
    for precision in ("fp32", "bf16", "int8"):
        out = EXPORTS / f"{name}-{precision}.map"
        if not out.is_dir():
            EXPORTS.mkdir(parents=True, exist_ok=True)
            export_map(folder, out, scene=scene, precision=precision, force=True, log=Terminal())
        for kind in ("openvino", "onnxruntime"):
            key = f"{name}-{kind}-{precision}"
            if (kind, precision) != ("onnxruntime", "bf16") and due(key, rounds):
                export_row(key, out, kind, own, scene)


def export_row(name: str, out: Path, kind: Engines, made_of: Network, scene: Scene) -> None:
    """An export in one engine."""
    exported = Exported.load(out)
    found: Any = localizer_of(exported, kind=kind)
    told = {"engine": kind, "precision": exported.told["precision"], "gmac": made_of.work, "mb": map_bytes(out) / 1e6}
    images = made_of.picture.numpy()
    row(
        name,
        lambda: {**told, "parity": exported.told["parity"], **accuracy(found, scene)},
        lambda: {"model": timed(partial(found.engine.run, images)), **from_bytes(found, out, photos(scene))},
    )


def dense_rows(name: str, folder: Path, scene: Scene, rounds: Rounds) -> None:
    """A map that looks through windows: its 128 windows one by one, and with the encoder run once."""
    for inference in ("dense", "one-pass"):
        if not due(f"{name}-{inference}", rounds):
            continue
        found: Any = load_map(folder)
        found = replace(found, family=replace(found.family, inference=inference))
        told = "128 windows" if inference == "dense" else "128 windows, one pass"
        fixed = {"engine": f"torch eager, {told}", "precision": "fp32", "mb": map_bytes(folder) / 1e6}
        runs = 20 if inference == "dense" else RUNS  # seconds each
        row(
            f"{name}-{inference}",
            lambda fixed=fixed, runs=runs: {**fixed, "runs": runs},
            lambda found=found, runs=runs: from_bytes(found, folder, {"bytes": photos(scene)["bytes"]}, runs),
        )


def built(name: str, folder: Path, scene: Scene) -> None:
    """Build a map that is not there."""
    print(f"building {name}", flush=True)
    with TemporaryDirectory() as place:
        scene.save(Path(place) / "kitchen")
        build(Path(place) / "kitchen", folder, BUILT[name])


def structure_row(folder: Path, scene: Scene, rounds: Rounds) -> None:
    """The structure map, which runs without torch as it is."""
    if not due("structure", rounds):
        return
    localizer = load_map(folder)
    row(
        "structure",
        lambda: {"engine": "as it is", "precision": "", "mb": map_bytes(folder) / 1e6, **accuracy(localizer, scene)},
        lambda: from_bytes(localizer, folder, photos(scene)),
    )


def install_row() -> None:
    """What `pip install 'placecell[serve]'` takes."""
    with TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        command = [str(venv / "bin" / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*command, f"{ROOT}[serve]"], check=True)
        seconds = time.perf_counter() - start
        (site,) = (venv / "lib").glob("python*/site-packages")
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and not path.is_symlink())
        if (site / "torch").exists():
            raise PlacecellError("the extra serve brought torch")
    keep("install", {"seconds": seconds, "mb": size / 1e6})


def cell(found: dict[str, Any], key: str) -> str:
    """Median and 95th percentile of a time; a dash where it was not taken."""
    value = found.get(key)
    return "–" if value is None else f"{value['ms']:.1f} ({value['ms_p95']:.1f})"


def line(name: str, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    model, work = found.get("model"), found.get("gmac")
    share = "–"
    if model is not None and work is not None and found["precision"] in FLOOR_GOPS:
        share = f"{100 * 2 * work / (model['ms'] / 1e3) / FLOOR_GOPS[found['precision']]:.0f} %"
    placed = [f"{found['cm']:.2f}", f"{found['deg']:.3f}"] if "cm" in found else ["–", "–"]
    size = f"{found['mb']:.1f}" if "mb" in found else "–"
    told = f"{name}, {found['engine']} {found['precision']}".strip()
    return [told, cell(found, "model"), share, cell(found, "bytes"), cell(found, "1080p"), *placed, size]


def page() -> None:
    """Write the section."""
    rows = []
    for path in sorted((MEASURED / TABLE).glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if "engine" in found:
            rows.append(line(path.stem.split("-")[0], found))
    lines = [f"Red kitchen, sfm labels; {THREADS} threads, one picture at a time, ms as median (95th percentile):", ""]
    header = ("map, engine", "model", "of the floor", "from JPEG 640x480", "from JPEG 1920x1080", "cm", "deg", "MB")
    lines += markdown(header, rows)
    if (found := known("service")) is not None:
        lines += ["", *service_lines(found)]
    if (found := known("install")) is not None:
        lines += ["", f"`pip install 'placecell[serve]'`: {found['seconds']:.0f} s, {found['mb']:.0f} MB, no torch."]
    put("speed", lines)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--again", nargs="*", default=[], help="rows whose names begin like that are measured anew")
    parser.add_argument("--map", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--requests", type=int, default=400, help="of each number of clients")
    parser.add_argument("--soak", type=int, default=20_000)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--round", nargs="*", metavar="NAME", help="times of these rows, or of all, once more")
    given = parser.parse_args()
    maps = {**MAPS, **{name: Path(folder) for name, _, folder in (word.partition("=") for word in given.map)}}
    for name in given.again:
        for path in (MEASURED / TABLE).glob(f"{name}*.json"):
            path.unlink()
        for path in EXPORTS.glob(f"{name}-*.map"):
            shutil.rmtree(path)
    if not given.page:
        measure(maps, given.requests, given.soak, None if given.round is None else tuple(given.round))
    page()


def measure(maps: dict[str, Path], requests: int, soak: int, rounds: Rounds) -> None:
    """All rows that are not there yet, and the times of those that are asked once more."""
    cv2.setNumThreads(THREADS)
    torch.set_num_threads(THREADS)
    scene = kitchen("sfm")
    for name, folder in maps.items():
        if not (folder / "map.json").is_file() and name in BUILT:
            built(name, folder, scene)
        if not (folder / "map.json").is_file():
            print(f"{folder} is not there, so its rows are left out", file=sys.stderr)
        elif name == "structure":
            structure_row(folder, scene, rounds)
        else:
            network_rows(name, folder, scene, rounds)
        if name == "posenet" and (folder / "map.json").is_file():
            dense_rows(name, folder, scene, rounds)
    served = EXPORTS / SERVED
    if known("service") is None and served.is_dir():
        picture = photos(scene)["bytes"]
        bare = placing(load_map(served), served, picture)
        keep("service", {"map": served.name, **service_figures(served, picture.content, bare, requests, soak)})
    if known("install") is None:
        install_row()


if __name__ == "__main__":
    main()
