"""The maps whose uncertainty is measured: how they are built, what is made of them, and their calibration.

They stay in bench/uncertainty/, so that a stopped benchmark goes on. A test sequence is 100 frames that are missing
between two that are there, and so is what regression and coordinates hold out: 100 frames from the middle of two
training sequences that follow each other, with fifty on either side, twice. Structure, which holds out none, is
calibrated by three maps without a third of the sequences each.
"""

from __future__ import annotations

import shutil
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from core import kitchen
from numpy.typing import NDArray
from page import ROOT
from rows import WEIGHTS, build

from placecell.calibration.file import read_calibration
from placecell.catalog import load_map
from placecell.cli.terminal import Terminal
from placecell.combine.calibrated import Calibrated, write_calibration
from placecell.combine.calibrating import Candidate, built_without, calibrated, default_threshold, folds
from placecell.combine.ensemble import Ensemble
from placecell.estimate import Estimate, Query
from placecell.families.coordinates.config import Coordinates
from placecell.families.regression.config import Regression
from placecell.families.regression.localizer import RegressionMap
from placecell.families.structure import Structure
from placecell.localizer import Localizer, load_info, map_fingerprint
from placecell.scene import Scene

KEPT = ROOT / "bench" / "uncertainty"
LABELS = "sfm"
FOLDS = 3
PIECES = {"before": 250, "first gap": 350, "between": 450, "second gap": 550, "after": 700}
"""The training frames up to each number as sequences, of which `HELD` holds out the gaps."""
HELD = 0.3
SEEDS = (0, 1, 2)
COMMON: dict[str, Any] = {"weights": str(WEIGHTS), "devices": 2, "validation": HELD, "epochs": 70.0}
"""Half of the default's rounds, as four maps are trained so."""


@dataclass(frozen=True)
class Built:
    """A map that `placecell build` makes."""

    settings: Any
    seed: int = 0


BUILT: dict[str, Built] = {
    "structure": Built(Structure()),
    "coordinates": Built(Coordinates(weights=str(WEIGHTS), validation=HELD)),
    **{f"aleatoric-{seed}": Built(Regression(**COMMON), seed) for seed in SEEDS},
    "dropout-0": Built(Regression(**COMMON, dropout=0.2, passes=40)),
}
COMBINED: dict[str, tuple[str, ...]] = {
    "ensemble": tuple(f"aleatoric-{seed}" for seed in SEEDS),
    "all": ("dropout-0", *(f"aleatoric-{seed}" for seed in SEEDS)),
}


@dataclass(frozen=True)
class System:
    """A line of the tables: which map is asked, and what of it is taken for its error."""

    map: str
    told: str
    sigma: Literal["stated", "passes"] = "stated"
    """stated: the covariance of its answers; passes: how far those with dropout differ, and nothing else."""


SYSTEMS: dict[str, System] = {
    "structure": System("structure", "structure"),
    "coordinates": System("coordinates", "coordinates"),
    "aleatoric": System("aleatoric-0", "regression, aleatoric"),
    "dropout": System("dropout-0", "regression, dropout", "passes"),
    "ensemble": System("ensemble", "regression, ensemble of 3"),
    "all": System("all", "regression, all: that and one with dropout"),
}


@dataclass(frozen=True, eq=False)
class PassesAlone:
    """A regression map that takes the disagreement of its passes for its error, as Bayesian PoseNet does."""

    map: RegressionMap

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """The map's answers with the covariance of the passes."""
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Estimate:
        answer = self.map.localize([query])[0]
        if answer.world_from_cam is None:
            return answer
        return replace(answer, covariance=self.map.spread(query).weights)

    def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """Those of the map."""
        return self.map.pose_features(queries)

    def save(self, folder: Path) -> None:
        """Write the map."""
        self.map.save(folder)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> PassesAlone:
        """Read a regression map."""
        return cls(RegressionMap.load(folder, device=device))


def place() -> Scene:
    """The red kitchen with the labels that all of them are built from, its training frames cut into `PIECES`."""
    scene = kitchen(LABELS)
    ends, names = list(PIECES.values()), list(PIECES)
    cut = {frame.name: names[bisect_right(ends, at)] for at, frame in enumerate(scene.split("train").posed)}
    frames = [replace(frame, sequence=cut.get(frame.name, frame.sequence)) for frame in scene.frames]
    return replace(scene, frames=tuple(frames))


def folder_of(name: str) -> Path:
    """Where a map is kept, built or combined now when it is not there."""
    folder = KEPT / f"{name}.map"
    if (folder / "map.json").is_file():
        return folder
    if name in COMBINED:
        Ensemble.of([folder_of(member) for member in COMBINED[name]]).save(folder)
        return folder
    scene, built = KEPT / "kitchen", BUILT[name]
    if not (scene / "scene.json").is_file():
        shutil.rmtree(scene, ignore_errors=True)
        place().save(scene)
    print(f"building {name}", flush=True)
    build(scene, folder, built.settings, built.seed)
    return folder


def localizer_of(system: System) -> Localizer:
    """The map of a system without a calibration."""
    folder = folder_of(system.map)
    return PassesAlone.load(folder) if system.sigma == "passes" else load_map(folder, calibrated=False)


def scene_of(folder: Path) -> Scene:
    """The red kitchen as a map calls it."""
    return replace(place(), name=load_info(folder).scene)


def ready(name: str, *, again: bool) -> Calibrated:
    """A system with its calibration, which is made now or was made of the same map before."""
    system = SYSTEMS[name]
    folder, found = folder_of(system.map), localizer_of(system)
    kept = KEPT / f"{name}.calibrated"
    if again or not _is_of(kept, folder):
        scene, log = scene_of(folder), Terminal()
        made = calibrated(found, scene, _candidates(name, found, scene), threshold=default_threshold(scene), log=log)
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for file in ("map.json", "weights.safetensors"):
            shutil.copy(folder / file, kept / file)
        write_calibration(kept, made.calibration, made.known)
    calibration, known = read_calibration(kept)
    return Calibrated(found, calibration, known)


def _is_of(kept: Path, folder: Path) -> bool:
    return (kept / "calibration.json").is_file() and map_fingerprint(kept) == map_fingerprint(folder)


def _candidates(name: str, found: Localizer, scene: Scene) -> list[Candidate]:
    folder = folder_of(SYSTEMS[name].map)
    info = load_info(folder)
    if unseen := tuple(frame for frame in info.unseen(scene) if frame.split == "train"):
        return [Candidate(found, scene, unseen)]
    parts = folds(replace(kitchen(LABELS), name=scene.name), FOLDS)
    return list(built_without(info, parts, work=KEPT / f"{name}.folds", device="cpu", log=Terminal()))
