"""How long answers take, on two quiet cores, into docs/benchmarks.md: `make bench-speed`.

    python benchmarks/speed.py                           what is not measured yet, then the page
    python benchmarks/speed.py --again default           the rows of a map anew; `service`, `install` likewise
    python benchmarks/speed.py --map posenet=FOLDER      another folder for a map
    python benchmarks/speed.py --page                    the page alone, from what is measured

Every time is the median of at least 200 runs with the 95th percentile beside it, and beside every row stands how well
that very export places the 300 test frames. Maps are looked for in bench/ (see MAPS); one that is not there is left
out. Their exports are made once, calibrated on training frames, and kept beside them in bench/speed/. Needs the real
frames ($PLACECELL_DATA, default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from core import answers, judged, kitchen
from page import ROOT, markdown, put, stamp
from rows import MEASURED, THREADS

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.errors import PlacecellError
from placecell.export.exporting import export_map
from placecell.export.graphs import example, graph_of
from placecell.images import jpeg_of
from placecell.localizer import Localizer, camera_of_map, load_info, map_bytes
from placecell.runtime.exported import Exported, localizer_of
from placecell.scene import Scene
from placecell.serve.limits import Limits
from placecell.serve.pictures import Sent, query_of

RUNS, WARM = 220, 20
TABLE = "speed"
BENCH = ROOT / "bench"
EXPORTS = BENCH / "speed"
MAPS = {
    "default": BENCH / "regression" / "default-sfm.map",
    "posenet": BENCH / "regression" / "posenet-2015-sfm.map",
    "coordinates": BENCH / "coordinates" / "default-sfm.map",
    "structure": BENCH / "coordinates" / "structure-sfm.map",
}
"""Maps of the red kitchen with sfm labels, as `placecell build` made them with the settings of that name."""
FLOOR_GOPS = {"int8": 750.0, "bf16": 420.0, "fp32": 201.0}
"""What two cores of the machine that this is measured on can do at best, in products and sums a second."""
CLIENTS = (1, 4, 16, 64)
PLACECELL = Path(sys.executable).with_name("placecell")


def timed(call: Callable[[], Any], runs: int = RUNS) -> dict[str, float]:
    """Milliseconds of a call."""
    for _ in range(WARM):
        call()
    spent = np.empty(runs)
    for index in range(runs):
        start = time.perf_counter()
        call()
        spent[index] = 1e3 * (time.perf_counter() - start)
    return {"ms": float(np.median(spent)), "ms_p95": float(np.percentile(spent, 95))}


def photos(scene: Scene) -> dict[str, bytes]:
    """A test frame as it is stored, and as a picture of 1920x1080 of a camera that sees as much across."""
    path = scene.image_path(scene.split("test").frames[0])
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    large = cv2.resize(image[60:420], (1920, 1080), interpolation=cv2.INTER_CUBIC)
    return {"bytes": path.read_bytes(), "1080p": jpeg_of(np.asarray(large, np.uint8), 90)}


def from_bytes(localizer: Localizer, folder: Path, scene: Scene) -> dict[str, dict[str, float]]:
    """From the content of a JPEG to a pose, by the way that the service goes."""
    camera, limits = camera_of_map(load_info(folder)), Limits()

    def place(content: bytes) -> None:
        query, _ = query_of(Sent("photo", content, {}), camera, localizer, limits)
        localizer.localize([query])

    return {key: timed(lambda content=content: place(content)) for key, content in photos(scene).items()}


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


def network_rows(name: str, folder: Path, scene: Scene) -> None:
    """A map of a network in every engine and precision."""
    localizer = load_map(folder)
    graph = graph_of(localizer)
    picture = example(graph, 1)
    work = gmac(graph.network, picture)
    if known(f"{name}-torch-eager") is None:
        with torch.inference_mode():
            model = timed(lambda: graph.network(picture))
        row = {"engine": "torch eager", "precision": "fp32", "gmac": work, "mb": map_bytes(folder) / 1e6}
        keep(
            f"{name}-torch-eager",
            {**row, "model": model, **from_bytes(localizer, folder, scene), **accuracy(localizer, scene)},
        )
    if known(f"{name}-torch-compile") is None:
        compiled = torch.compile(graph.network)
        with torch.inference_mode():
            model = timed(lambda: compiled(picture))
        keep(f"{name}-torch-compile", {"engine": "torch.compile", "precision": "fp32", "gmac": work, "model": model})
    for precision in ("fp32", "bf16", "int8"):
        out = EXPORTS / f"{name}-{precision}.map"
        if not out.is_dir():
            EXPORTS.mkdir(parents=True, exist_ok=True)
            export_map(folder, out, scene=scene, precision=precision, force=True, log=Terminal())
        for kind in ("openvino", "onnxruntime"):
            row_name = f"{name}-{kind}-{precision}"
            if known(row_name) is not None or (kind, precision) == ("onnxruntime", "bf16"):
                continue
            exported = Exported.load(out)
            found = localizer_of(exported, kind=kind)
            images = picture.numpy()
            row = {"engine": kind, "precision": precision, "gmac": work, "mb": map_bytes(out) / 1e6}
            row |= {"model": timed(partial(found.engine.run, images)), "parity": exported.told["parity"]}
            keep(row_name, {**row, **from_bytes(found, out, scene), **accuracy(found, scene)})


def structure_row(folder: Path, scene: Scene) -> None:
    """The structure map, which runs without torch as it is."""
    if known("structure") is None:
        localizer = load_map(folder)
        row = {"engine": "as it is", "precision": "", "mb": map_bytes(folder) / 1e6}
        keep("structure", {**row, **from_bytes(localizer, folder, scene), **accuracy(localizer, scene)})


class Running:
    """`placecell serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        start = time.perf_counter()
        command = [str(PLACECELL), "serve", str(folder), "--port", "0", "--threads", str(THREADS)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout is None:
            raise PlacecellError("the service has no output")
        self.address = self.process.stdout.readline().split("//")[1].split(": ")[0]
        while self.ask("GET", "/ready")[0] != 200:
            time.sleep(0.005)
        self.ready_s = time.perf_counter() - start

    def connection(self) -> http.client.HTTPConnection:
        """A connection that stays."""
        return http.client.HTTPConnection(self.address, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request on its own connection; status 0 where nobody listens yet."""
        try:
            connection = self.connection()
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except OSError:
            return 0, b""

    @property
    def resident_mb(self) -> float:
        """Memory that the process has in use."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.process.terminate()
        self.process.wait(40)


def load(service: Running, content: bytes, clients: int, requests: int) -> dict[str, float]:
    """So many requests by so many clients, each with a connection that stays."""
    spent: list[float] = []
    failed: list[int] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def client() -> None:
        connection = service.connection()
        while True:
            with lock:
                if next(left, None) is None:
                    return
            start = time.perf_counter()
            connection.request("POST", "/v1/localize", content)
            reply = connection.getresponse()
            reply.read()
            taken = time.perf_counter() - start
            with lock:
                spent.append(1e3 * taken)
                if reply.status != 200:
                    failed.append(reply.status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    p50, p99 = np.percentile(spent, (50, 99))
    return {"per_s": requests / seconds, "p50": float(p50), "p99": float(p99), "failed": len(failed)}


def service_rows(folder: Path, scene: Scene, requests: int, soak: int) -> None:
    """The service on loopback, asked by this process."""
    content = photos(scene)["bytes"]
    service = Running(folder)
    try:
        found: dict[str, Any] = {"ready_s": service.ready_s, "resident_mb": [service.resident_mb]}
        for clients in CLIENTS:
            found[f"clients-{clients}"] = load(service, content, clients, requests)
            found["resident_mb"].append(service.resident_mb)
        found["soak"] = {"requests": soak, **load(service, content, 16, soak)}
        found["resident_mb"].append(service.resident_mb)
    finally:
        service.stop()
    bare = from_bytes(load_map(folder), folder, scene)["bytes"]
    keep("service", {"map": folder.name, **found, "bare": bare})


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
    if model is not None and work is not None:
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


def service_lines(found: dict[str, Any]) -> list[str]:
    """What is said of the service."""
    rows = []
    for clients in CLIENTS:
        at = found[f"clients-{clients}"]
        rows.append((clients, f"{at['per_s']:.0f}", f"{at['p50']:.1f}", f"{at['p99']:.1f}", at["failed"]))
    soak, memory, bare = found["soak"], found["resident_mb"], found["bare"]
    over = found["clients-1"]["p50"] - bare["ms"]
    return [
        f"The service with `{found['map']}`, asked by a second process:",
        "",
        *markdown(("clients", "requests/s", "p50 ms", "p99 ms", "failed"), rows),
        "",
        f"Ready after {found['ready_s']:.1f} s. At one client {over:.1f} ms more than the map takes by itself. "
        f"{soak['requests']} requests of 16 clients: {soak['failed']} failed, memory {memory[-2]:.0f} MB before and "
        f"{memory[-1]:.0f} MB after.",
    ]


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--again", nargs="*", default=[], help="rows whose names begin like that are measured anew")
    parser.add_argument("--map", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--requests", type=int, default=400, help="of each number of clients")
    parser.add_argument("--soak", type=int, default=20_000)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    maps = {**MAPS, **{name: Path(folder) for name, _, folder in (word.partition("=") for word in given.map)}}
    for name in given.again:
        for path in (MEASURED / TABLE).glob(f"{name}*.json"):
            path.unlink()
        for path in EXPORTS.glob(f"{name}-*.map"):
            shutil.rmtree(path)
    if not given.page:
        measure(maps, given.requests, given.soak)
    page()


def measure(maps: dict[str, Path], requests: int, soak: int) -> None:
    """All rows that are not there yet."""
    cv2.setNumThreads(THREADS)
    torch.set_num_threads(THREADS)
    scene = kitchen("sfm")
    for name, folder in maps.items():
        if not (folder / "map.json").is_file():
            print(f"{folder} is not there, so its rows are left out", file=sys.stderr)
        elif name == "structure":
            structure_row(folder, scene)
        else:
            network_rows(name, folder, scene)
    served = next((EXPORTS / f"{name}-int8.map" for name in maps if (EXPORTS / f"{name}-int8.map").is_dir()), None)
    if known("service") is None and served is not None:
        service_rows(served, scene, requests, soak)
    if known("install") is None:
        install_row()


if __name__ == "__main__":
    main()
