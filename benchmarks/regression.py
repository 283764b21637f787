"""Pose regression on real frames, into docs/benchmarks.md: `make bench-regression`.

    python benchmarks/regression.py                    what is not measured yet, then the page
    python benchmarks/regression.py --again default    a row anew
    python benchmarks/regression.py speed              pictures a second in training, on idle cores
    python benchmarks/regression.py --page             the page alone, from what is measured

A row takes minutes to half an hour on two cores, so each keeps its figures in benchmarks/measured/regression/ with the
day and the versions they were measured with. Needs the real frames ($PLACECELL_DATA, default ../shared/data) and the
ImageNet weights beside them ($PLACECELL_WEIGHTS).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from core import answers, kitchen
from page import markdown, put
from rows import THREADS, WEIGHTS, build, flags, measured, record, shown
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from placecell import backbones, floors
from placecell.anchor import Anchor
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.estimate import Estimate
from placecell.families.regression.config import PRESETS, Regression
from placecell.families.regression.network import PoseNetwork
from placecell.families.retrieval import Retrieval
from placecell.geometry_torch import matrix_from_9d, rotation_angle_rad
from placecell.images import load_query
from placecell.localizer import Localizer, map_bytes
from placecell.pose import Pose
from placecell.resample import resample
from placecell.scene import Frame

T = TypeVar("T")
WARM, STEPS = 10, 70
TABLE = "regression"
SHOWN = ("5cm/5deg", "25cm/10deg")
HEADER = ("system", "encoder", "cm", "deg", *SHOWN, "parameters", "map MB", "training min", "ms/frame")

# What two cores can train in minutes: the papers' pictures at half their size, 20 times each of the 700.
PAPER: dict[str, Any] = {"short_side": 128, "crop": 112, "epochs": 20, "batch": 32, "validation": 0.0}
TRANSFER: dict[str, Any] = {**PAPER, "backbone": "mobilenet_v2", "weights": str(WEIGHTS)}
SCRATCH: dict[str, Any] = {**PAPER, "weights": "none"}
# Two processes of one thread each train these small layers half as fast again as one process of two threads.
DEFAULT: dict[str, Any] = {"weights": str(WEIGHTS), "validation": 0.0, "devices": 2}
MODERN = replace(
    PRESETS["posenet-2017"], **{**TRANSFER, "optimizer": "adamw", "learning_rate": 1e-3, "schedule": "onecycle"}
)
"""PoseNet's head and the learned weighting on a pretrained encoder, trained as one trains today: what studies vary."""


@dataclass(frozen=True)
class Row:
    """A line of a table: what is trained, and how its map is asked."""

    settings: Regression
    told: str
    inferences: tuple[str, ...] = ("centre",)
    labels: tuple[str, ...] = ("sfm", "kinectfusion")


def systems() -> dict[str, Row]:
    """The papers' systems and ours."""
    dense = ("centre", "dense", "one-pass")
    beta = replace(MODERN, loss="beta", norm="l2", beta=5.0)
    return {
        "posenet-2015": Row(replace(PRESETS["posenet-2015"], **SCRATCH), "PoseNet 2015, as released", dense),
        "posenet-2015-transfer": Row(beta, "PoseNet 2015's loss, beta 5", dense),
        "posenet-2017-learned": Row(MODERN, "PoseNet 2017, learned weighting"),
        "posenet-2017-freed": Row(replace(MODERN, loss_multiplier=50.0), "PoseNet 2017, its weights 50 times as fast"),
        "posenet-2017-reprojection": Row(replace(MODERN, loss="reprojection"), "PoseNet 2017, then reprojection"),
        "bn-inception": Row(replace(PRESETS["bn-inception"], **SCRATCH), "BN-Inception PoseNet 2019"),
        "lstm": Row(replace(MODERN, head="lstm"), "Spatial LSTM (Walch)"),
        "virtual-points": Row(replace(MODERN, loss="virtual-points"), "coupled: virtual points"),
        "homography": Row(replace(MODERN, loss="homography"), "coupled: homography"),
        "hourglass": Row(replace(MODERN, head="hourglass"), "Hourglass (Melekhov)"),
        "rgbd": Row(replace(MODERN, depth=True), "RGB-D, two streams (Li)"),
        "default": Row(Regression(**DEFAULT), "default"),
        "default-no-views": Row(Regression(**DEFAULT, new_views=0), "default, no new views", labels=("sfm",)),
    }


def studies() -> dict[str, Row]:
    """What the papers found, asked again: each varies one thing of `MODERN`."""
    rows = {
        f"beta-{beta:g}": Row(replace(MODERN, loss="beta", norm="l1", beta=beta), f"beta {beta:g}", labels=("sfm",))
        for beta in (1.0, 3.0, 10.0, 30.0, 100.0)
    }
    rows["scratch"] = Row(replace(MODERN, weights="none"), "from scratch", labels=("sfm",))
    for count in (24, 48, 96, 192, 384):
        # As many steps for few pictures as for many: 14,000 pictures seen.
        fewer = replace(MODERN, frames=count, epochs=14_000 / count)
        rows[f"frames-{count}"] = Row(fewer, f"{count} frames", labels=("sfm",))
    return rows


def measure(name: str, row: Row, labels: str) -> None:
    """Train, save, load, ask, judge; one record an inference."""
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    scene = kitchen(labels)
    with TemporaryDirectory() as folder:
        place, made = Path(folder) / "scene", Path(folder) / "pose.map"
        scene.save(place)
        start = time.perf_counter()
        build(place, made, row.settings)
        minutes, size = (time.perf_counter() - start) / 60, map_bytes(made) / 1e6
        for inference in row.inferences:
            asked: Any = load_map(made)
            asked = replace(asked, family=replace(asked.family, inference=inference))
            parameters = sum(value.numel() for value in asked.network.parameters())
            kept = {"minutes": minutes, "map_mb": size, "parameters": parameters, "told": row.told}
            kept |= {"backbone": row.settings.backbone, "flags": flags(row.settings, weights=False)}
            kept |= {"weights": Path(row.settings.weights).name}
            found = answers(asked, scene, depth=row.settings.depth)
            suffix = "" if inference == "centre" else f"-{inference}"
            record(TABLE, name + suffix, labels, scene, found, kept | {"inference": inference})


def measure_floors(labels: str) -> None:
    """What has to be beaten."""
    scene = kitchen(labels)
    asked = scene.split("test").posed
    record(TABLE, "constant", labels, scene, floors.constant(scene, asked), {"told": "constant pose"})
    record(TABLE, "oracle", labels, scene, floors.oracle(scene, asked), {"told": "oracle nearest training pose"})
    start = time.perf_counter()
    nearest: Localizer = Retrieval(descriptor="convnet", weights=str(WEIGHTS)).build(scene, seed=0, log=Terminal())
    minutes = (time.perf_counter() - start) / 60
    with TemporaryDirectory() as folder:
        nearest.save(Path(folder) / "map")
        size = map_bytes(Path(folder) / "map") / 1e6
    kept: dict[str, Any] = {"told": "nearest by convnet features", "backbone": "mobilenet_v2", "weights": WEIGHTS.name}
    record(
        TABLE, "nearest-convnet", labels, scene, answers(nearest, scene), {**kept, "minutes": minutes, "map_mb": size}
    )
    measure_frozen(labels)


def measure_frozen(labels: str) -> None:
    """A small network on features of the ImageNet encoder as it is, pooled to 3x4 cells: what no training of it gives.

    Two layers of 512, 9D rotation, the learned weighting; AdamW at 1e-3, 200 rounds of the 700 pictures as they are.
    """
    scene, start = kitchen(labels), time.perf_counter()
    training = scene.split("train").posed
    anchor = Anchor.of([frame.world_from_cam for frame in training if frame.world_from_cam is not None])
    truth = anchor.labels([frame.world_from_cam for frame in training if frame.world_from_cam is not None])
    encoder = backbones.backbone("mobilenet_v2")
    backbones.load_weights(encoder, "mobilenet_v2", str(WEIGHTS), log=Terminal())
    encoder = backbones.fused(encoder.eval())

    def described(frame: Frame) -> torch.Tensor:
        query = load_query(scene, frame)
        image = resample(query.image, query.camera, query.camera.resized(256, 192))
        with torch.inference_mode():
            *_, last = encoder(backbones.picture_tensor(image[None])).values()
            return adaptive_avg_pool2d(last, (3, 4)).flatten(1)[0]

    features = torch.stack([described(frame) for frame in training]).clone()
    middle, spread = features.mean(0), features.std(0).clamp_min(1e-3)
    centres, rotations = torch.from_numpy(truth.centres), torch.from_numpy(truth.rotations)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(features.shape[1], 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 12)]
        network = nn.Sequential(*layers)
        weights = nn.Parameter(torch.tensor([0.0, -3.0]))
        optimizer = torch.optim.AdamW([*network.parameters(), weights], lr=1e-3)
        for _ in range(200):
            for chosen in torch.randperm(len(features)).split(64):
                numbers = network((features[chosen] - middle) / spread)
                away = (anchor.scale * numbers[:, :3] - centres[chosen]).abs().sum(1).mean()
                angle = rotation_angle_rad(matrix_from_9d(numbers[:, 3:]).mT @ rotations[chosen]).mean()
                loss = away * (-weights[0]).exp() + angle * (-weights[1]).exp() + weights.sum()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
    minutes = (time.perf_counter() - start) / 60
    found = []
    for frame in scene.split("test").posed:
        start = time.perf_counter()
        with torch.inference_mode():
            numbers = network((described(frame) - middle) / spread)[None]
            rotation = matrix_from_9d(numbers[:, 3:])[0]
        matrix = np.column_stack([rotation.double().numpy(), anchor.scale * numbers[0, :3].double().numpy()])
        pose = anchor.world_from_anchor @ Pose.nearest(matrix)
        found.append(Estimate(frame.name, pose, seconds=time.perf_counter() - start))
    parameters = sum(value.numel() for part in (network, encoder) for value in part.parameters())
    kept = {"told": "frozen features, two layers", "backbone": "mobilenet_v2", "weights": WEIGHTS.name}
    record(TABLE, "frozen", labels, scene, found, {**kept, "minutes": minutes, "parameters": parameters})


class Clock(Terminal):
    """Tells how long the steps of a training took, the first ones left out."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items; those of the training timed."""
        for index, item in enumerate(items):
            if what == "training" and index == WARM:
                begun = time.perf_counter()
            yield item
            if what == "training":
                self.seconds = time.perf_counter() - begun if index >= WARM else 0.0


def speed() -> None:
    """Pictures a second of the default's training loop, beside a bare loop over its network and one fixed batch."""
    torch.set_num_threads(THREADS)
    scene, clock = kitchen("sfm"), Clock()
    settings = Regression(**{**DEFAULT, "devices": 1, "epochs": STEPS * 32 / 700, "new_views": 0.5})
    with TemporaryDirectory() as folder:
        settings.build(scene, device="cpu", seed=0, log=clock, work=Path(folder))
    network = PoseNetwork(settings, 1.0, size=(192, 144)).to(memory_format=torch.channels_last)
    network.drop_unused()
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.randn(settings.batch, 3, 144, 192).to(memory_format=torch.channels_last)
    for step in range(STEPS):
        if step == WARM:
            begun = time.perf_counter()
        (answer,) = network(images)
        (answer.centre_B3.square().mean() + answer.rotation_B33.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    pictures = (STEPS - WARM) * settings.batch
    rows = [("training loop", pictures / clock.seconds), ("bare loop", pictures / (time.perf_counter() - begun))]
    share = 100 * rows[0][1] / rows[1][1]
    told = f"The default at 192x144 in fp32, {THREADS} threads, {STEPS - WARM} steps after {WARM}:"
    lines = [told, "", *markdown(("loop", "pictures/s"), [(name, f"{value:.1f}") for name, value in rows])]
    put("regression-speed", [*lines, "", f"The loop reaches {share:.0f} % of the bare one."])


def line(found: dict[str, Any]) -> list[str]:
    """One line of a table."""

    encoder = found.get("backbone") or "–"
    if found.get("weights") == "none":
        encoder += ", scratch"
    how = found.get("inference", "centre")
    return [
        found["told"] + ("" if how == "centre" else f", {how}"),
        encoder,
        f"{found['cm']:.1f}",
        f"{found['deg']:.2f}",
        *(f"{found['recalls'][key]:.1f}" for key in SHOWN),
        shown(found, "parameters", lambda value: f"{value / 1e6:.1f} M"),
        shown(found, "map_mb", lambda value: f"{value:.1f}"),
        shown(found, "minutes", lambda value: f"{value:.1f}"),
        shown(found, "ms", lambda value: f"{value:.1f}"),
    ]


def page() -> None:
    """Write all sections."""
    lines = []
    for labels in ("sfm", "kinectfusion"):
        known = measured(TABLE, labels)
        order = ["constant", "oracle", "nearest-convnet", "frozen"]
        order += [f"{name}{suffix}" for name in systems() for suffix in ("", "-dense", "-one-pass")]
        lines += [f"Red kitchen, {labels} labels, 700 training and 300 test frames:", ""]
        lines += [*markdown(HEADER, [line(known[name]) for name in order if name in known]), ""]
    put("regression", lines)
    known = measured(TABLE, "sfm")
    rows = [line(known[name]) for name in ("posenet-2017-learned", *studies()) if name in known]
    put("regression-studies", ["Red kitchen, sfm labels:", "", *markdown(HEADER, rows)])


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="rows to measure; all of them where none is named")
    parser.add_argument("--labels", choices=("sfm", "kinectfusion"), help="one ground truth only")
    parser.add_argument("--again", action="store_true", help="measure rows that are measured already")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    everything = {**systems(), **studies()}
    if "speed" in asked.rows:
        speed()
    for labels in () if asked.page else ("sfm", "kinectfusion"):
        if asked.labels not in (None, labels):
            continue
        wanted = not asked.rows or "floors" in asked.rows
        if wanted and (asked.again or "frozen" not in measured(TABLE, labels)):
            measure_floors(labels)
        for name, row in everything.items():
            wanted = not asked.rows or name in asked.rows
            if wanted and labels in row.labels and (asked.again or name not in measured(TABLE, labels)):
                measure(name, row, labels)
    page()


if __name__ == "__main__":
    main()
