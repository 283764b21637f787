"""placecell calibrate MAP SCENE [--folds N | --by MAP ...]"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell import catalog
from placecell.cli.localize import photos_at
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.combine import calibrating
from placecell.combine.calibrated import Calibrated, write_calibration
from placecell.combine.calibrating import (
    Candidate,
    built_without,
    calibrated,
    default_threshold,
    require_alike,
    require_same_place,
    threshold_of,
    unseen_frames,
)
from placecell.errors import PlacecellError
from placecell.localizer import MapInfo, camera_of_map, load_info
from placecell.scene import Scene

Split = Literal["train", "test"]


def main(words: Sequence[str]) -> None:
    """Calibrate a map."""
    parse("calibrate", calibrate, words)


def calibrate(
    map: Annotated[Path, tyro.conf.Positional],
    scene: Annotated[Path, tyro.conf.Positional],
    folds: int = 0,
    by: tuple[Path, ...] = (),
    split: Split = "train",
    elsewhere: Path | None = None,
    damaged: bool = True,
    within: float = 0.0,
    within_deg: float = 5.0,
    coverage: float = 0.9,
    limit: int = 1000,
    seed: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    overwrite: bool = False,
) -> None:
    """Make a map say how sure it is, from its answers to pictures of the place that it was not built from.

    Scales its covariances, finds radii that hold, and learns the confidence that an answer is right. What a map was
    built from is no help: frames count that it held out in training, else name others by --folds or --by.

    Args:
        map: Map folder; calibration.json is written into it.
        scene: The scene folder the map was built from.
        folds: Build so many maps like this one, each without a part of the training sequences, and ask each that part.
        by: Maps built like this one from fewer frames of the scene, that are asked in its place.
        split: Whose frames are asked; test frames are spent by it.
        elsewhere: Folder of pictures of other places, which no answer is right for.
        damaged: Ask the frames again, darkened, blurred or covered, to meet wrong answers, too.
        within: Distance that a right answer is within, in the scene's unit; 0 is 10 cm, or 2 % of the extent.
        within_deg: And the angle.
        coverage: Share of the answers that their radii hold for.
        limit: Frames a map is asked at most.
        seed: Decides how frames are damaged.
        device: cpu, or cuda for families with networks.
        overwrite: Replace the calibration that the map has.
    """
    _require_sense(folds, by, within, within_deg, coverage, limit)
    place, info, log = Scene.load(scene), load_info(map), Terminal()
    require_same_place(map, info, place)
    if folds and "export" in info.extra:
        raise PlacecellError(
            f"--folds builds maps like {map} anew, which is an export; calibrate the map that it was made of by "
            "--folds, or the export on frames that it was not built from (--by, --split test)"
        )
    if (map / "calibration.json").exists() and not overwrite:
        raise PlacecellError(f"{map} is calibrated already; pass --overwrite to do it again")
    if split == "test":
        log.warn("calibrated on test frames, so figures on those will flatter this map")
    localizer = catalog.load_map(map, device=device, calibrated=False)
    work = map.with_name(f"{map.name}.folds")
    if folds:
        candidates = built_without(info, calibrating.folds(place, folds), work=work, device=device, log=log)
    else:
        candidates = _candidates(map, info, by, place, split, device)
    threshold = default_threshold(place)
    if within or within_deg != threshold.angle_deg:
        threshold = threshold_of(within or threshold.distance_m, within_deg, metric=place.metric)
    guessed: list[str] = []
    found = calibrated(
        localizer,
        place,
        candidates,
        elsewhere=[] if elsewhere is None else photos_at(elsewhere, camera_of_map(info), None, guessed),
        threshold=threshold,
        coverage=coverage,
        damage_seed=seed if damaged else None,
        limit=limit,
        log=log,
    )
    write_calibration(map, found.calibration, found.known)
    shutil.rmtree(work, ignore_errors=True)
    for line in _told(found):
        log.say(line)
    finish(f"{map / 'calibration.json'}: {_basis(found)}", ["placecell", "localize", map, scene, unused(Path("run"))])


def _require_sense(
    folds: int, by: tuple[Path, ...], within: float, within_deg: float, coverage: float, limit: int
) -> None:
    if folds and by:
        raise PlacecellError("--folds builds the maps that are asked, --by names them; pass one of the two")
    if folds < 0 or folds == 1:
        raise PlacecellError(f"--folds {folds}: at least 2, as each part of the frames is asked of a map of the others")
    if not (0 <= within < math.inf and 0 < within_deg <= 180):
        raise PlacecellError("--within is a distance from 0, --within-deg an angle up to 180")
    if not 0 < coverage < 1 or limit < 1:
        raise PlacecellError("--coverage is a share between 0 and 1, --limit counts frames from 1")


def _candidates(
    map: Path, info: MapInfo, by: tuple[Path, ...], scene: Scene, split: Split, device: str
) -> Iterator[Candidate]:
    for folder in by or (map,):
        require_alike(map, info, folder)
    for folder in by or (map,):
        frames = unseen_frames(folder, scene, split)
        yield Candidate(catalog.load_map(folder, device=device, calibrated=False), scene, frames)


def _basis(found: Calibrated) -> str:
    own = found.calibration
    told = f"calibrated on {own.answered} answers to {own.frames} frames it was not built from"
    more = [(own.damaged, "damaged ones"), (own.elsewhere, "pictures of elsewhere")]
    return "; ".join([told, *(f"confidence also on {count} {what}" for count, what in more if count)])


def _told(found: Calibrated) -> list[str]:
    """What the calibration says of the map."""
    own = found.calibration
    factors = " ".join(f"{factor:.3g}" for factor in own.scaling.factors)
    lines = [f"predicted errors are multiplied by {factors} (rx ry rz tx ty tz)"]
    if own.typical is not None:
        lines = ["the map states no covariance, so answers get the usual one, more where more speaks against them"]
    if (held := own.left_out) is not None:
        near, turned = (f"{100 * share.least:.0f} to {100 * share.most:.0f} %" for share in (held.distance, held.angle))
        lines.append(
            f"{own.conformal.coverage:.0%} radii made by all but one of {held.sequences} sequences held for {near} of "
            f"that one in position, {turned} in angle"
        )
    if own.accept_at < 1:
        lines.append(
            f"answers of confidence {own.accept_at:.3f} or more were within {own.threshold.name} 99 % of times"
        )
    else:
        lines.append(
            f"at no confidence are 99 % of the answers surely within {own.threshold.name}; 191 right ones and no wrong "
            "one, as taken and damaged, would tell"
        )
    return lines
