"""How sure maps are, and whether they may be, into docs/benchmarks.md: `make bench-uncertainty`.

    python benchmarks/uncertainty.py structure=kitchen.map learned=fast.map    what is not measured yet, then the page
    python benchmarks/uncertainty.py structure=kitchen.map --again             this map anew; maps of folds are kept
    python benchmarks/uncertainty.py --page                                    the page alone, from what is measured

Each map of the red kitchen is calibrated by maps that are built like it without a part of the training sequences each
(`placecell calibrate --folds`), which takes as long as building them. They stay in bench/uncertainty/, so a stopped
benchmark goes on. Parts of the figures are kept apart in benchmarks/measured/uncertainty/LABELS/NAME-PART.json. Needs
the real frames and photographs ($PLACECELL_DATA, default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from harder import Exam, exam, named
from page import DATA, ROOT, markdown, put, stamp

from placecell.atomic import write_text
from placecell.catalog import load_map
from placecell.cli.localize import photos_at
from placecell.cli.terminal import Terminal
from placecell.combine.calibrated import Calibrated, write_calibration
from placecell.combine.calibrating import Candidate, answers, built_without, calibrated, default_threshold
from placecell.damage import LEVELS, Kind, damaged, told
from placecell.errors import PlacecellError
from placecell.estimate import Estimate
from placecell.localizer import camera_of_map, load_info, map_fingerprint
from placecell.log import Silent
from placecell.reliability import auroc, is_hit, reliability
from placecell.run import Asked, asked_of, localize_all
from placecell.synthetic import make_scene

MEASURED = ROOT / "benchmarks" / "measured" / "uncertainty"
KEPT = ROOT / "bench" / "uncertainty"
LABELS = ("sfm", "kinectfusion")
THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))
HURT: tuple[Kind, ...] = ("blur", "occluded", "dusk")
"""Damage that the predicted error is watched under."""
OTHER_SEED = 1
"""Of the damage that accepting is judged under: not that of the calibration."""
PLACES = ("photos_lund", "photos_sacre_coeur")
FIGURES = ("rank_distance", "rank_angle", "ause_distance", "ause_angle", "nees_median", "calibration_error")


def prepared(asked: Exam, folds: int) -> tuple[Calibrated, Exam]:
    """The map with its calibration, made now or before, and the exam with the scene as the map calls it."""
    info = load_info(asked.folder)
    scene = replace(asked.scene, name=info.scene)
    folder = KEPT / f"{asked.name}-{info.labels}.map"
    if not (folder / "map.json").is_file() or map_fingerprint(folder) != map_fingerprint(asked.folder):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(asked.folder, folder)
    if not (folder / "calibration.json").is_file():
        log, work = Terminal(), KEPT / f"{asked.name}-{info.labels}.folds"
        bare = load_map(folder, calibrated=False)
        candidates = built_without(info, scene, folds, work=work, device="cpu", log=log)
        made = calibrated(bare, scene, candidates, threshold=default_threshold(scene), log=log)
        write_calibration(folder, made.calibration, made.known)
    return Calibrated.load(folder), asked._replace(scene=scene, folder=folder)


def answered(found: Calibrated, asked: Exam) -> list[Estimate]:
    """What the map says of the test frames."""
    frames = asked.scene.split("test").posed
    return list(localize_all(found, asked_of(asked.scene, frames, depth=found.wants_depth)))


def figures(found: Calibrated, asked: Exam) -> dict[str, Any]:
    """What the map says of its errors, before and after calibration, on test frames."""
    frames = asked.scene.split("test").posed
    truths = {frame.name: frame.world_from_cam for frame in frames if frame.world_from_cam is not None}
    before = list(localize_all(found.localizer, asked_of(asked.scene, frames, depth=found.wants_depth)))
    after = found.calibration.apply(before)
    if found.known is not None:  # maps that see vectors are asked once more for them
        after = answered(found, asked)
    own = found.calibration
    return {
        "before": asdict(reliability(before, truths)),
        "after": asdict(reliability(after, truths, own.threshold)),
        "calibrated_on": {"frames": own.frames, "answered": own.answered, "damaged": own.damaged},
        "factors": own.scaling.factors,
        "coverage": own.conformal.coverage,
        "accept_at": own.accept_at,
    }


def places(found: Calibrated, asked: Exam) -> dict[str, Any]:
    """How well test frames are told from pictures of elsewhere."""
    usual = camera_of_map(load_info(asked.folder))
    here = answered(found, asked)
    told_apart: dict[str, Any] = {}

    def against(name: str, pictures: Sequence[Asked]) -> None:
        away = list(localize_all(found, pictures))
        told_apart[name] = {
            "pictures": len(away),
            "answered": sum(estimate.world_from_cam is not None for estimate in away),
            "claimed": sum((e.familiarity or 0.0) >= found.calibration.familiarity.known_at for e in away),
            "auroc_familiarity": auroc([e.familiarity or 0.0 for e in here], [e.familiarity or 0.0 for e in away]),
            "auroc_confidence": auroc([e.confidence or 0.0 for e in here], [e.confidence or 0.0 for e in away]),
        }

    for name in PLACES:
        against(name, photos_at(DATA / name, usual, None, []))
    with TemporaryDirectory() as folder:
        room = make_scene(Path(folder) / "room", train=60, test=0, size=(640, 480), seed=0)
        against("rendered room", asked_of(room, room.frames, depth=found.wants_depth))
    known = sum((e.familiarity or 0.0) >= found.calibration.familiarity.known_at for e in here)
    return {"frames": len(here), "known": known, "against": told_apart}


def damage(found: Calibrated, asked: Exam) -> dict[str, Any]:
    """The predicted error of test frames, one of so many, ever more damaged; a refusal is infinitely unsure."""
    rows = []
    for kind in HURT:
        for level in (0.0, *LEVELS[kind]):
            estimates = list(localize_all(found, _hurt(found, asked, kind, level)))
            sigma = [np.inf if e.sigma is None else e.sigma.distance for e in estimates]
            middle = float(np.median(sigma))
            rows.append(
                {
                    "kind": kind,
                    "level": level,
                    "frames": len(estimates),
                    "answered": sum(e.world_from_cam is not None for e in estimates),
                    "sigma_cm": 100 * middle if np.isfinite(middle) else None,
                    "confidence": float(np.mean([e.confidence or 0.0 for e in estimates])),
                }
            )
            print(asked.name, rows[-1], flush=True)
    return {"rows": rows}


def _hurt(found: Calibrated, asked: Exam, kind: Kind, level: float) -> list[Asked]:
    def loader(item: Asked) -> Callable[[], Any]:
        return lambda: damaged(item.load(), kind, level, seed=OTHER_SEED)

    plain = asked_of(asked.scene, asked.frames, depth=found.wants_depth)
    return [Asked(item.name, loader(item)) for item in plain]


def accepting(found: Calibrated, asked: Exam) -> dict[str, Any]:
    """What is accepted at the map's own confidence, of test frames as taken and of those damaged at random."""
    candidate = Candidate(found, asked.scene, asked.scene.split("test").posed)
    limit = found.calibration.accept_at
    kept: dict[str, Any] = {}
    for name, seed in (("as taken", None), ("damaged", OTHER_SEED)):
        items = list(answers(candidate, seed=seed, log=Silent()))
        sure = [item for item in items if (item.estimate.confidence or 0.0) >= limit]
        right = [item for item in items if is_hit(item.estimate, item.truth, found.calibration.threshold)]
        kept[name] = {
            "frames": len(items),
            "answered": sum(item.estimate.world_from_cam is not None for item in items),
            "right": len(right),
            "accepted": len(sure),
            "accepted_right": sum(is_hit(i.estimate, i.truth, found.calibration.threshold) for i in sure),
        }
    return kept


PARTS: dict[str, Callable[[Calibrated, Exam], dict[str, Any]]] = {
    "figures": figures,
    "places": places,
    "damage": damage,
    "accepting": accepting,
}


def measure(asked: Exam, folds: int, *, again: bool) -> None:
    """Keep the parts that are not known of this map."""
    source = map_fingerprint(asked.folder)
    missing = [part for part in PARTS if again or known(asked.scene.labels, asked.name, part).get("map") != source]
    if not missing:
        return
    if again:
        (KEPT / f"{asked.name}-{asked.scene.labels}.map" / "calibration.json").unlink(missing_ok=True)
    found, ready = prepared(asked, folds)
    for part in missing:
        print(f"{asked.name}: {part}", flush=True)
        row = {"map": source, "folds": folds, "every": asked.every, **PARTS[part](found, ready), "stamp": stamp()}
        path = MEASURED / asked.scene.labels / f"{asked.name}-{part}.json"
        write_text(path, json.dumps(row, indent=1) + "\n")


def known(labels: str, name: str, part: str) -> dict[str, Any]:
    """A part that was measured; empty when it was not."""
    path = MEASURED / labels / f"{name}-{part}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def names(labels: str) -> list[str]:
    """The maps that are measured."""
    return sorted({path.stem.rpartition("-")[0] for path in (MEASURED / labels).glob("*-*.json")})


def _cell(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def reliability_rows(labels: str) -> Iterator[list[str]]:
    """Two lines a map: what it says by itself, and calibrated."""
    for name in names(labels):
        found = known(labels, name, "figures")
        for when in ("before", "after") if found else ():
            row = found[when]
            yield [
                f"{name}, {when}",
                str(row["frames"]),
                *(_cell(row[key]) for key in FIGURES),
                _cell(row["confidence_error"]),
                *(_cell(row[key]) for key in ("covered_distance", "covered_angle")),
            ]


def place_rows(labels: str) -> Iterator[list[str]]:
    """A line a map and place of elsewhere."""
    for name in names(labels):
        found = known(labels, name, "places")
        for place, row in found.get("against", {}).items():
            counts = [
                f"{found['known']}/{found['frames']}",
                f"{row['claimed']}/{row['pictures']}",
                str(row["answered"]),
            ]
            yield [f"{name}: {place}", *counts, _cell(row["auroc_familiarity"], 4), _cell(row["auroc_confidence"], 4)]


def damage_rows(labels: str) -> Iterator[list[str]]:
    """A line a kind and level, two cells a map."""
    every = {name: known(labels, name, "damage").get("rows", []) for name in names(labels)}
    first: list[dict[str, Any]] = next((rows for rows in every.values() if rows), [])
    for index, row in enumerate(first):
        cells = []
        for rows in every.values():
            here = rows[index] if rows else {}
            cells += [_cell(here.get("sigma_cm"), 2), _cell(here.get("confidence")), str(here.get("answered", "–"))]
        what = f"{row['kind']}, {told(row['kind'], row['level'])}" if row["level"] else f"{row['kind']}, none"
        yield [what, *cells]


def accepting_rows(labels: str) -> Iterator[list[str]]:
    """A line a map and kind of query."""
    for name in names(labels):
        found, limit = known(labels, name, "accepting"), known(labels, name, "figures").get("accept_at")
        for what in ("as taken", "damaged") if found else ():
            row = found[what]
            right = f"{100 * row['accepted_right'] / row['accepted']:.1f}" if row["accepted"] else "–"
            counts = [str(row[key]) for key in ("frames", "answered", "right", "accepted")]
            yield [f"{name}, {what}", _cell(limit), *counts, right]


def page() -> None:
    """Write the section."""
    lines: list[str] = []
    for labels in LABELS:
        maps = names(labels)
        if not maps:
            continue
        heads = [
            "map",
            "frames",
            "rank cm",
            "rank deg",
            "AUSE cm",
            "AUSE deg",
            "NEES median",
            "ECE Σ",
            "ECE confidence",
        ]
        lines += [f"Red kitchen, {labels} labels, 300 test frames; the radii are for 90 %:", ""]
        lines += [*markdown([*heads, "in radius", "in angle"], reliability_rows(labels)), ""]
        heads = ["test frames against", "known", "claimed", "answered", "AUROC familiarity", "AUROC confidence"]
        lines += [*markdown(heads, place_rows(labels)), ""]
        heads = [f"{name}: {what}" for name in maps for what in ("sigma cm", "confidence", "answered")]
        lines += [*markdown(["pictures", *heads], damage_rows(labels)), ""]
        heads = ["map", "confidence", "frames", "answered", "within 10cm/5deg", "accepted", "of these within, %"]
        lines += [*markdown(heads, accepting_rows(labels)), ""]
    put("uncertainty", lines or ["Not measured yet.", ""])


def main(words: Sequence[str] | None = None) -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", nargs="*", type=named, help="maps to calibrate and ask, as name=folder")
    parser.add_argument("--folds", type=int, default=3, help="maps built to calibrate one")
    parser.add_argument("--every", type=int, default=3, help="ask one of so many test frames at each level")
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args(words)
    cv2.setNumThreads(THREADS)
    try:
        for name, folder in [] if given.page else given.maps:
            measure(exam(name, folder, given.every), given.folds, again=given.again)
    except PlacecellError as error:
        parser.exit(1, f"{error}\n")
    page()


if __name__ == "__main__":
    main()
