"""Which pictures a map is calibrated on, and what it answers to them: never pictures that it was built from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from placecell import catalog
from placecell.calibration.features import MOST, Neighbourhood, neighbourhood
from placecell.calibration.fit import COVERAGE, METRIC_THRESHOLD, Answered, fit_calibration
from placecell.combine.calibrated import Calibrated, localized, seer_of
from placecell.damage import LEVELS, Kind, damaged, truth
from placecell.errors import ImageError, MapError
from placecell.estimate import Query
from placecell.images import load_query
from placecell.localizer import (
    Localizer,
    MapInfo,
    config_from_json,
    config_to_json,
    load_info,
    wants_depth,
)
from placecell.log import Log
from placecell.metrics import Threshold
from placecell.run import Asked
from placecell.scene import Frame, Scene, centres, sequences
from placecell.spacing import evenly

_KINDS: tuple[Kind, ...] = tuple(kind for kind in LEVELS if kind != "wrong-focal")
"""A wrong focal length is a lie of whoever asks, which no picture betrays."""
_HARDER, _MOST_ASKED = 500, 5
"""Damaged pictures that are asked, about, as long as no frame is asked more often: each kind and level a few times."""
_APART = 10_007
"""Between the seeds of times that a frame is asked."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map that is asked, and the frames it has not seen."""

    localizer: Localizer
    scene: Scene
    """Whose training frames, less `frames`, it was built from."""
    frames: tuple[Frame, ...]

    @property
    def wants_depth(self) -> bool:
        """Whether its queries need depth."""
        return wants_depth(self.localizer)


def unseen_frames(folder: Path, scene: Scene, split: Literal["train", "test"] = "train") -> tuple[Frame, ...]:
    """The posed frames of a split that the map in a folder was not built from.

    Raises:
        MapError: the map is of another scene or ground truth, does not say what it has seen, or has seen all of them.
    """
    info = load_info(folder)
    require_same_place(folder, info, scene)
    known = {frame.name for frame in info.unseen(scene)}
    posed = scene.split(split).posed
    unseen = tuple(frame for frame in posed if frame.name in known)
    if not unseen:
        told = f"{folder} was built from all {len(posed)} posed {split} frames of scene {scene.name}"
        if "export" in info.extra:
            raise MapError(f"{told}; name exports of maps of fewer frames with --by, or --split test")
        raise MapError(
            f"{told}, and how well it does on those says nothing of others; add --folds 3, which builds maps from "
            "parts of them and asks each the rest"
        )
    return unseen


def require_same_place(folder: Path, info: MapInfo, scene: Scene) -> None:
    """Raises MapError when a map is of another scene, ground truth or unit."""
    ours, theirs = (info.scene, info.labels, info.metric), (scene.name, scene.labels, scene.metric)
    if ours != theirs:
        raise MapError(
            f"{folder} was built from scene {info.scene} ({info.labels} labels), this is {scene.name} ({scene.labels} "
            "labels): another place, ground truth or scale; calibrate with the scene of the map"
        )


def require_alike(folder: Path, info: MapInfo, other: Path) -> None:
    """Raises MapError when the map in `other` is not built as the one in `folder`, so that its errors are others."""
    theirs = load_info(other)
    mine, its = ({"family": i.family, **_settings(i), "weights": None} for i in (info, theirs))
    differing = [key for key in (*mine, *its) if mine.get(key) != its.get(key)]
    if differing:
        key = differing[0]
        raise MapError(
            f"{other} has {key} {its.get(key)}, {folder} has {mine.get(key)}: the errors of one say nothing of the "
            "other; build it with the same settings"
        )


Part = tuple[Scene, tuple[Frame, ...]]
"""The training frames of a scene without some, and those, to be asked."""


def folds(scene: Scene, count: int) -> list[Part]:
    """`count` parts of the posed training frames, each with the training frames of the scene without it.

    Whole sequences make a part, dealt in turn; of fewer sequences than parts, runs of neighbouring frames.

    Raises:
        MapError: fewer than two parts, or fewer frames than parts.
    """
    training = scene.split("train")
    groups = list(sequences(training.posed).values())
    if len(groups) < count:
        frames = training.posed
        groups = [frames[len(frames) * i // count : len(frames) * (i + 1) // count] for i in range(count)]
    if count < 2 or not all(groups):
        raise MapError(f"--folds {count}: at least 2, and no more than the {len(training.posed)} posed training frames")
    found = []
    for index in range(count):
        asked = tuple(frame for group in groups[index::count] for frame in group)
        names = {frame.name for frame in asked}
        found.append((training.keep([frame.name not in names for frame in training.frames]), asked))
    return found


def built_without(info: MapInfo, parts: Sequence[Part], *, work: Path, device: str, log: Log) -> Iterator[Candidate]:
    """Maps of the same family, settings and seed as one, built without a part of its frames each, to be asked that.

    Args:
        parts: `folds` of the scene.
        work: folder that keeps finished ones, so that an interrupted calibration goes on; the caller removes it.
    """
    settings = config_from_json(catalog.family(info.family), info.config)
    for number, (rest, asked) in enumerate(parts, start=1):
        folder = work / f"without-{number}-of-{len(parts)}.map"
        if not _is_of(folder, rest, info):
            shutil.rmtree(folder, ignore_errors=True)
            log.say(f"map {number} of {len(parts)}, without {len(asked)} frames")
            aside = work / f"{folder.name}.work"
            settings.build(rest, device=device, seed=info.seed, log=log, work=aside).save(folder)
            shutil.rmtree(aside, ignore_errors=True)
        yield Candidate(catalog.load_map(folder, device=device, calibrated=False), rest, asked)


def calibrated(
    localizer: Localizer,
    scene: Scene,
    candidates: Iterable[Candidate],
    *,
    elsewhere: Sequence[Asked] = (),
    threshold: Threshold,
    coverage: float = COVERAGE,
    damage_seed: int | None = 0,
    limit: int = 1000,
    log: Log,
) -> Calibrated:
    """A map with the calibration that candidates' answers to what they had not seen make.

    Args:
        scene: the map's; its training frames are how the map knows the place, where it sees vectors.
        candidates: the map itself, or maps built alike from less.
        elsewhere: pictures of other places, asked of the map itself.
        damage_seed: decides which frame is asked how damaged, too; None asks none so.
        limit: of each candidate's frames, so many are asked at most, spread evenly.

    Raises:
        MapError: too few frames got an answer.
    """
    taken: list[Answered] = []
    harder: list[Answered] = []
    for candidate in candidates:
        known = known_pictures(candidate.localizer, candidate.scene, _seen(candidate))
        asked = replace(candidate, frames=tuple(evenly(candidate.frames, limit)))
        taken += answers(asked, known=known, log=log)
        if damage_seed is not None and asked.frames:
            for again in range(ceil(min(_MOST_ASKED, _HARDER / len(asked.frames)))):
                harder += answers(asked, seed=damage_seed + _APART * again, known=known, log=log)
    ours = known_pictures(localizer, scene, scene.split("train").posed)
    harder += answers_elsewhere(localizer, elsewhere, known=ours, log=log)
    return Calibrated(localizer, fit_calibration(taken, harder, threshold=threshold, coverage=coverage), ours)


def default_threshold(scene: Scene) -> Threshold:
    """10 cm and 5 degrees; of a scene without metric scale, 2 % of the extent of the camera centres and 5 degrees."""
    if scene.metric:
        return METRIC_THRESHOLD
    extent = float(np.linalg.norm(np.ptp(centres(scene.posed), axis=0))) if scene.posed else 1.0
    return threshold_of(float(f"{0.02 * extent:.2g}"), 5.0, metric=False)


def threshold_of(distance: float, angle_deg: float, *, metric: bool) -> Threshold:
    """A threshold by its limits, with the name that pages give it."""
    if not metric:
        told = f"{distance:g}units"
    else:
        told = f"{100 * distance:g}cm" if distance < 1 else f"{distance:g}m"
    return Threshold(f"{told}/{angle_deg:g}deg", distance, angle_deg)


def _seen(candidate: Candidate) -> list[Frame]:
    asked = {frame.name for frame in candidate.frames}
    return [frame for frame in candidate.scene.split("train").posed if frame.name not in asked]


def _is_of(folder: Path, scene: Scene, info: MapInfo) -> bool:
    if not (folder / "map.json").is_file():
        return False
    known = load_info(folder)
    return (known.scene_fingerprint, known.seed, _settings(known)) == (scene.fingerprint, info.seed, _settings(info))


def _settings(info: MapInfo) -> dict[str, Any]:
    """All settings of a map, also those that came after it was built."""
    return config_to_json(config_from_json(catalog.family(info.family), info.config))


def known_pictures(localizer: Localizer, scene: Scene, frames: Sequence[Frame]) -> Neighbourhood | None:
    """Training frames as a map sees them, evenly spread; None of maps that see no vectors."""
    seer = seer_of(localizer)
    if seer is None or not frames:
        return None
    chosen = evenly(frames, MOST)
    depth = wants_depth(localizer)
    vectors = [seer.pose_features([load_query(scene, frame, depth=depth)])[0] for frame in chosen]
    _, groups = np.unique([frame.sequence for frame in chosen], return_inverse=True)
    return neighbourhood(np.array(vectors, np.float32), groups)


def answers(
    candidate: Candidate, *, seed: int | None = None, known: Neighbourhood | None = None, log: Log
) -> Iterator[Answered]:
    """What a map answers to the frames it has not seen, as they were taken or, with a seed, damaged.

    Damage is of a kind and level drawn for each frame. A picture that cannot be read is left out, with a warning.
    """
    for frame in log.track(candidate.frames, "asking" if seed is None else "asking them damaged"):
        kind, level = (_KINDS[0], 0.0) if seed is None else _drawn(seed, frame)
        query = _loaded(lambda f=frame: load_query(candidate.scene, f, depth=candidate.wants_depth), log)  # type: ignore[misc]
        if query is None or frame.world_from_cam is None:
            continue
        hurt = damaged(query, kind, level, seed=seed or 0)
        given = truth(frame.world_from_cam, kind, level)
        yield answered(candidate.localizer, known, hurt)._replace(truth=given, sequence=frame.sequence)


def answers_elsewhere(
    localizer: Localizer, pictures: Sequence[Asked], *, known: Neighbourhood | None = None, log: Log
) -> Iterator[Answered]:
    """What a map answers to pictures of other places."""
    for item in log.track(pictures, "asking pictures of elsewhere"):
        if (query := _loaded(item.load, log)) is not None:
            yield answered(localizer, known, query)


def answered(localizer: Localizer, known: Neighbourhood | None, query: Query) -> Answered:
    """One answer, its truth left open."""
    (found,), near = localized(localizer, known, [query])
    return Answered(found, None, float("nan") if near is None else float(near[0]))


def _loaded(load: Callable[[], Query], log: Log) -> Query | None:
    try:
        return load()
    except ImageError as error:
        log.warn(f"left out: {error}")
        return None


def _drawn(seed: int, frame: Frame) -> tuple[Kind, float]:
    rng = np.random.default_rng([seed, *frame.name.encode("utf-8", "backslashreplace")])
    kind = _KINDS[rng.integers(len(_KINDS))]
    return kind, float(rng.choice(LEVELS[kind]))
