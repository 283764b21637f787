"""How sure maps are, and whether they may be, into docs/benchmarks.md and docs/uncertainty.svg.

    python benchmarks/uncertainty.py                      what is not measured yet, then the page
    python benchmarks/uncertainty.py structure all        of these maps alone (uncertainty_maps.py lists them)
    python benchmarks/uncertainty.py structure --again    calibrated and measured anew; maps are kept
    python benchmarks/uncertainty.py --page               the page alone, from what is measured

The maps are built first, which takes two hours on two cores; a stopped benchmark goes on. Parts of the figures are
kept apart in benchmarks/measured/uncertainty/MAP-PART.json. Needs the real frames and photographs ($PLACECELL_DATA,
default ../shared/data) and the ImageNet weights ($PLACECELL_WEIGHTS).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from core import judged
from page import DATA, stamp
from rows import THREADS
from uncertainty_maps import BUILT, COMBINED, SYSTEMS, folder_of, ready, scene_of
from uncertainty_page import MEASURED, known, page

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.cli.localize import photos_at
from placecell.combine.calibrated import Calibrated, localized
from placecell.combine.calibrating import Candidate, answers
from placecell.damage import LEVELS, Kind, damaged
from placecell.errors import PlacecellError
from placecell.estimate import Estimate
from placecell.images import load_query
from placecell.localizer import camera_of_map, load_info, map_fingerprint
from placecell.log import Silent
from placecell.pose import pose_error
from placecell.reliability import auroc, is_hit, reliability
from placecell.run import Asked, asked_of, localize_all
from placecell.scene import Scene
from placecell.synthetic import make_scene

HURT: tuple[Kind, ...] = ("blur", "occluded", "dusk")
"""Damage that the predicted error is watched under."""
OTHER_SEED = 1
"""Of the damage that accepting is judged under: not that of the calibration."""
EVERY = 6
"""One of so many test frames is asked at each level of damage."""
PLACES = ("photos_lund", "photos_sacre_coeur")


@dataclass(frozen=True)
class Exam:
    """A calibrated map and the place it is asked about."""

    name: str
    found: Calibrated
    folder: Path

    @cached_property
    def scene(self) -> Scene:
        """With the name that the map knows it by."""
        return scene_of(self.folder)

    @cached_property
    def taken(self) -> tuple[list[Estimate], list[Estimate]]:
        """Answers to the test frames as taken: what the map itself says, and with its calibration."""
        stated, calibrated = [], []
        for frame in self.scene.split("test").posed:
            query = load_query(self.scene, frame, depth=self.found.wants_depth)
            answer, near = localized(self.found.localizer, self.found.known, [query])
            stated += answer
            calibrated += self.found.calibration.apply(answer, near)
        return stated, calibrated


def figures(exam: Exam) -> dict[str, Any]:
    """What the map says of its errors, before and after calibration, on test frames."""
    before, after = exam.taken
    own, frames = exam.found.calibration, exam.scene.split("test").posed
    truths = {frame.name: frame.world_from_cam for frame in frames if frame.world_from_cam is not None}
    overall = judged(exam.scene, before).overall
    pairs = [
        (*pose_error(estimate.world_from_cam, truths[estimate.name]), *sigma)
        for estimate in after
        if (sigma := estimate.sigma) is not None
    ]
    sequences = {frame.name: frame.sequence for frame in frames}
    return {
        "cm": 100 * overall.median_distance,
        "deg": overall.median_angle_deg,
        "recalls": {key: 100 * value for key, value in overall.recalls.items()},
        "before": asdict(reliability(before, truths)),
        "after": asdict(reliability(after, truths, own.threshold)),
        "sequences": {
            sequence: asdict(reliability([e for e in after if sequences[e.name] == sequence], truths))
            for sequence in dict.fromkeys(sequences.values())
        },
        "calibrated_on": {"frames": own.frames, "answered": own.answered, "damaged": own.damaged},
        "factors": own.scaling.factors,
        "coverage": own.conformal.coverage,
        "accept_at": own.accept_at,
        "pairs": [[float(f"{value:.4g}") for value in pair] for pair in pairs],
    }


def places(exam: Exam) -> dict[str, Any]:
    """How well test frames are told from pictures of elsewhere."""
    found, (_, here) = exam.found, exam.taken
    usual, known_at = camera_of_map(load_info(exam.folder)), found.calibration.familiarity.known_at
    told_apart: dict[str, Any] = {}

    def against(name: str, pictures: Sequence[Asked]) -> None:
        away = list(localize_all(found, pictures))
        told_apart[name] = {
            "pictures": len(away),
            "answered": sum(estimate.world_from_cam is not None for estimate in away),
            "claimed": sum((e.familiarity or 0.0) >= known_at for e in away),
            "auroc_familiarity": auroc([e.familiarity or 0.0 for e in here], [e.familiarity or 0.0 for e in away]),
            "auroc_confidence": auroc([e.confidence or 0.0 for e in here], [e.confidence or 0.0 for e in away]),
        }

    for name in PLACES:
        against(name, photos_at(DATA / name, usual, None, []))
    with TemporaryDirectory() as folder:
        room = make_scene(Path(folder) / "room", train=60, test=0, size=(640, 480), seed=0)
        against("rendered room", asked_of(room, room.frames, depth=found.wants_depth))
    return {"frames": len(here), "known": sum((e.familiarity or 0.0) >= known_at for e in here), "against": told_apart}


def damage(exam: Exam) -> dict[str, Any]:
    """Predicted and true error of test frames, ever more damaged; a refusal is infinitely unsure, and wrong."""
    frames = exam.scene.split("test").posed
    truths = {frame.name: frame.world_from_cam for frame in frames if frame.world_from_cam is not None}
    rows = []
    for kind in HURT:
        for level in (0.0, *LEVELS[kind]):
            estimates = list(localize_all(exam.found, _hurt(exam, kind, level)))
            sigma = [np.inf if e.sigma is None else e.sigma.distance for e in estimates]
            true = [pose_error(e.world_from_cam, truths[e.name]).distance for e in estimates]
            rows.append(
                {
                    "kind": kind,
                    "level": level,
                    "frames": len(estimates),
                    "answered": sum(e.world_from_cam is not None for e in estimates),
                    "sigma_cm": _middle_cm(sigma),
                    "cm": _middle_cm(true),
                    "confidence": float(np.mean([e.confidence or 0.0 for e in estimates])),
                }
            )
            print(exam.name, rows[-1], flush=True)
    return {"every": EVERY, "rows": rows}


def _middle_cm(lengths: Sequence[float]) -> float | None:
    middle = float(np.median(lengths))
    return 100 * middle if np.isfinite(middle) else None


def _hurt(exam: Exam, kind: Kind, level: float) -> list[Asked]:
    def loader(item: Asked) -> Callable[[], Any]:
        return lambda: damaged(item.load(), kind, level, seed=OTHER_SEED)

    plain = asked_of(exam.scene, exam.scene.split("test").posed[::EVERY], depth=exam.found.wants_depth)
    return [Asked(item.name, loader(item)) for item in plain]


def accepting(exam: Exam) -> dict[str, Any]:
    """What is accepted at the map's own confidence, of test frames as taken and of those damaged at random."""
    own, frames = exam.found.calibration, exam.scene.split("test").posed
    truths = [frame.world_from_cam for frame in frames]
    hurt = list(answers(Candidate(exam.found, exam.scene, frames), seed=OTHER_SEED, log=Silent()))
    asked = {
        "as taken": list(zip(exam.taken[1], truths, strict=True)),
        "damaged": [(item.estimate, item.truth) for item in hurt],
    }
    kept: dict[str, Any] = {}
    for name, items in asked.items():
        right = [is_hit(estimate, truth, own.threshold) for estimate, truth in items]
        sure = [(estimate.confidence or 0.0) >= own.accept_at for estimate, _ in items]
        kept[name] = {
            "frames": len(items),
            "answered": sum(estimate.world_from_cam is not None for estimate, _ in items),
            "right": sum(right),
            "accepted": sum(sure),
            "accepted_right": sum(a and b for a, b in zip(right, sure, strict=True)),
        }
    return kept


PARTS: dict[str, Callable[[Exam], dict[str, Any]]] = {
    "figures": figures,
    "accepting": accepting,
    "places": places,
    "damage": damage,
}


def measure(name: str, *, again: bool) -> None:
    """Keep the parts that are not known of this map."""
    folder = folder_of(SYSTEMS[name].map)
    source = map_fingerprint(folder)
    missing = [part for part in PARTS if again or known(name, part).get("map") != source]
    if not missing:
        return
    exam = Exam(name, ready(name, again=again), folder)
    for part in missing:
        print(f"{name}: {part}", flush=True)
        keep(name, part, {"map": source, **PARTS[part](exam)})


def measure_accuracy() -> None:
    """Keep how far off each map is, without a calibration: members beside what is made of them."""
    for name in (*BUILT, *COMBINED):
        folder = folder_of(name)
        source = map_fingerprint(folder)
        if known(name, "accuracy").get("map") == source:
            continue
        found, scene = load_map(folder, calibrated=False), scene_of(folder)
        overall = judged(scene, list(localize_all(found, asked_of(scene, scene.split("test").posed)))).overall
        recalls = {key: 100 * value for key, value in overall.recalls.items()}
        errors = {"cm": 100 * overall.median_distance, "deg": overall.median_angle_deg, "recalls": recalls}
        keep(name, "accuracy", {"map": source, **errors})


def keep(name: str, part: str, row: dict[str, Any]) -> None:
    """Write a part."""
    write_text(MEASURED / f"{name}-{part}.json", json.dumps({**row, "stamp": stamp()}, indent=1) + "\n")


def main(words: Sequence[str] | None = None) -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", nargs="*", help=f"of {', '.join(SYSTEMS)}; all where none is named")
    parser.add_argument("--again", action="store_true", help="calibrate and measure what is measured already")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args(words)
    cv2.setNumThreads(THREADS)
    torch.set_num_threads(THREADS)
    if unknown := [name for name in given.maps if name not in SYSTEMS]:
        parser.error(f"{unknown[0]} is none of {', '.join(SYSTEMS)}")
    try:
        for name in [] if given.page else given.maps or SYSTEMS:
            measure(name, again=given.again)
        if not (given.page or given.maps):
            measure_accuracy()
    except PlacecellError as error:
        parser.exit(1, f"{error}\n")
    page()


if __name__ == "__main__":
    main()
