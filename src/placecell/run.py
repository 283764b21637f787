"""A localizer over many pictures, into a run folder (docs/formats.md): interrupted runs go on where they stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from placecell import atomic
from placecell.errors import FormatError, ImageError, PlacecellError, SceneError
from placecell.estimate import Estimate, Query, dump_predictions, read_predictions
from placecell.images import load_query
from placecell.localizer import Localizer, load_info, map_fingerprint, versions
from placecell.log import Log
from placecell.scene import Frame, Scene, read_json

FORMAT = 1
_AT_ONCE = 16


@dataclass(frozen=True)
class Asked:
    """A picture to localize: its name, and how to load it when its turn comes."""

    name: str
    load: Callable[[], Query]


@dataclass(frozen=True)
class RunInfo:
    """What run.json says."""

    map: dict[str, str]
    """`family`, `fingerprint`, and `scene`, `scene_fingerprint` the map was built from."""
    scene: dict[str, str] | None
    """`name`, `fingerprint`, `labels`, `split` of the scene that was asked; None for pictures without one."""
    device: str
    threads: int
    versions: dict[str, str]
    started: str
    seconds: float
    images: int

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read run.json.

        Raises:
            FormatError: not a finished run, or damaged.
        """
        path = folder / "run.json"
        if not path.is_file():
            raise FormatError(f"{folder} is not a finished run (no run.json); make one with: placecell localize")
        row = read_json(path)
        if row.pop("format", None) != FORMAT:
            raise FormatError(f"{path}: not of format {FORMAT}; run localize again with this version")
        try:
            return cls(**row)
        except TypeError as error:
            raise FormatError(f"{path}: {error}; run localize again") from error

    def require_scene(self, scene: Scene) -> None:
        """Refuse to judge these answers by a scene that the map or the run does not belong to.

        Raises:
            SceneError: the scene has other labels or frames than the map was built from, or than were asked.
        """
        told = {"the map was built from": self.map["scene_fingerprint"]}
        if self.scene is not None:
            told["the run was asked with"] = self.scene["fingerprint"]
        for how, fingerprint in told.items():
            if fingerprint != scene.fingerprint:
                raise SceneError(
                    f"the scene {how} has the fingerprint {fingerprint}, scene {scene.name} ({scene.labels} labels) "
                    f"has {scene.fingerprint}: another place, split or ground truth; evaluate with the scene of the map"
                )


def asked_of(scene: Scene, frames: Sequence[Frame]) -> list[Asked]:
    """Frames of a scene as pictures to localize, with their own cameras."""

    def loader(frame: Frame) -> Callable[[], Query]:
        return lambda: load_query(scene, frame)

    return [Asked(frame.name, loader(frame)) for frame in frames]


def localize_all(localizer: Localizer, asked: Sequence[Asked], *, at_once: int = _AT_ONCE) -> Iterator[Estimate]:
    """Answers in order; a picture that cannot be read is an answer with a reason, and the rest goes on."""
    for begin in range(0, len(asked), at_once):
        queries, unread = [], {}
        for item in asked[begin : begin + at_once]:
            try:
                queries.append(item.load())
            except ImageError as error:
                unread[item.name] = Estimate.refusal(item.name, str(error))
        found = iter(localizer.localize(queries))
        for item in asked[begin : begin + at_once]:
            yield unread[item.name] if item.name in unread else next(found)


def localize_into(
    folder: Path,
    localizer: Localizer,
    map_folder: Path,
    asked: Sequence[Asked],
    *,
    scene: dict[str, str] | None,
    threads: int,
    device: str = "cpu",
    overwrite: bool = False,
    log: Log,
) -> list[Estimate]:
    """Answer every picture and write the run folder; answers already there from an interrupted run are kept.

    Raises:
        PlacecellError: the folder holds a finished run or one of another map or scene, or cannot be written.
    """
    if (folder / "run.json").exists() and not overwrite:
        raise PlacecellError(f"{folder} holds a finished run already; name another folder or pass --overwrite")
    info = load_info(map_folder)
    of_map = {
        "family": info.family,
        "fingerprint": map_fingerprint(map_folder),
        "scene": info.scene,
        "scene_fingerprint": info.scene_fingerprint,
    }
    identity = {"map": of_map, "scene": scene, "names": [item.name for item in asked]}
    answers = [] if overwrite else _resume(folder, identity)
    if answers:
        log.say(f"going on after {len(answers)} of {len(asked)} pictures that an interrupted run answered")
    else:
        (folder / "run.json").unlink(missing_ok=True)
        atomic.write_text(folder / "unfinished.json", json.dumps(identity))
    started, clock = datetime.now().astimezone(), time.perf_counter()
    atomic.write_text(folder / "predictions.jsonl", dump_predictions(answers))
    with (folder / "predictions.jsonl").open("a", encoding="utf-8") as file:
        left = asked[len(answers) :]
        for estimate in log.track(localize_all(localizer, left), "localizing", len(left)):
            file.write(dump_predictions([estimate]))
            file.flush()
            answers.append(estimate)
    run = RunInfo(
        map=of_map,
        scene=scene,
        device=device,
        threads=threads,
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - clock, 3),
        images=len(asked),
    )
    atomic.write_text(folder / "run.json", json.dumps({"format": FORMAT, **asdict(run)}, indent=1) + "\n")
    (folder / "unfinished.json").unlink()
    return answers


def _resume(folder: Path, identity: dict[str, Any]) -> list[Estimate]:
    """Answers of an interrupted run of the same map over the same pictures."""
    mark = folder / "unfinished.json"
    if not mark.is_file():
        return []
    if read_json(mark) != identity:
        raise PlacecellError(
            f"{folder} holds an interrupted run of another map or other pictures; name another folder or "
            "pass --overwrite"
        )
    path = folder / "predictions.jsonl"
    return read_predictions(path, allow_partial_last=True) if path.is_file() else []
