"""A localizer over many pictures, into a run folder (docs/formats.md): interrupted runs go on where they stopped."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from placecell import atomic
from placecell.errors import FormatError, ImageError, PlacecellError, SceneError
from placecell.estimate import Estimate, Query, dump_predictions, read_predictions
from placecell.images import load_query
from placecell.localizer import Answering, load_info, map_fingerprint, versions
from placecell.log import Log
from placecell.metrics import Threshold
from placecell.scene import Frame, Scene, field_of, read_json

FORMAT = 1
_AT_ONCE = 16
_UNFINISHED = "unfinished.json"


@dataclass(frozen=True)
class Asked:
    """A picture to localize: its name, and how to load it when its turn comes."""

    name: str
    load: Callable[[], Query]
    state: str = ""
    """What tells it from another picture of the same name, so that no run goes on with others: its size and time."""


@dataclass(frozen=True)
class RunInfo:
    """What run.json says."""

    map: dict[str, str]
    """`family`, `fingerprint`, and `scene`, `scene_fingerprint` the map was built from; `calibration`, the SHA-256 of
    its file, where there is one. Of several maps: each of these, joined by `, `."""
    scene: dict[str, str] | None
    """`name`, `fingerprint`, `labels`, `split` of the scene that was asked; None for pictures without one."""
    device: str
    threads: int
    versions: dict[str, str]
    started: str
    seconds: float
    """Wall time; of its last part, where the run was interrupted."""
    images: int
    min_confidence: float | None = None
    """Answers of less were refused; None where none was for that."""
    threshold: Sequence[Any] | None = None
    """Name, distance and angle in degrees of the error that confidences are about; None where none are stated."""

    @property
    def sure_of(self) -> Threshold | None:
        """The error that confidences are about."""
        return None if self.threshold is None else Threshold(*self.threshold)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read run.json.

        Raises:
            FormatError: not a finished run, or damaged.
        """
        path = folder / "run.json"
        if (folder / _UNFINISHED).is_file() and not path.is_file():
            raise FormatError(f"{folder}: this run is unfinished; give its placecell localize command again to go on")
        if not path.is_file():
            raise FormatError(f"{folder} is not a run (no run.json); make one: placecell localize MAP SCENE {folder}")
        row = read_json(path)
        if row.pop("format", None) != FORMAT:
            raise FormatError(f"{path}: not of format {FORMAT}; run localize again with this version")
        try:
            found = cls(**row)
            _require_texts(found.map, "family", "fingerprint", "scene", "scene_fingerprint")
            if found.scene is not None:
                _require_texts(found.scene, "name", "fingerprint", "labels", "split")
            if found.sure_of is not None and not all(0 < float(limit) < math.inf for limit in found.sure_of[1:]):
                raise ValueError(f"threshold {found.threshold}")
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: damaged ({error}); run localize again with --overwrite") from error
        return found

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


def asked_of(scene: Scene, frames: Sequence[Frame], *, depth: bool = False) -> list[Asked]:
    """Frames of a scene as pictures to localize, with their own cameras and, for maps that want it, their depth."""

    def loader(frame: Frame) -> Callable[[], Query]:
        return lambda: load_query(scene, frame, depth=depth)

    return [Asked(frame.name, loader(frame)) for frame in frames]


def localize_all(localizer: Answering, asked: Sequence[Asked], *, at_once: int = _AT_ONCE) -> Iterator[Estimate]:
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
    localizer: Answering,
    map_folder: Path | Sequence[Path],
    asked: Sequence[Asked],
    *,
    scene: dict[str, str] | None,
    threads: int,
    device: str = "cpu",
    least: float | None = None,
    threshold: Threshold | None = None,
    overwrite: bool = False,
    log: Log,
) -> list[Estimate]:
    """Answer every picture and write the run folder; answers already there from an interrupted run are kept.

    Args:
        map_folder: where the map lies; of several, if the localizer chooses among them, each.
        least: confidence below which the localizer refuses; None where it does not.
        threshold: what its confidences are about; None where it states none.
        overwrite: replace a finished run, and an interrupted one of another map or other pictures.

    Raises:
        PlacecellError: the folder holds something else already, cannot be written, or the disk is full; what was
            answered until then is kept, and the same call goes on.
    """
    of_map = _map_told(map_folder) if isinstance(map_folder, Path) else _maps_told(map_folder)
    pictures = [[item.name, item.state] for item in asked]
    identity = {"map": of_map, "scene": scene, "pictures": pictures, "versions": versions(), "least": least}
    with _plain_errors(folder):
        answers = _begin(folder, identity, overwrite=overwrite)
        if answers:
            log.say(f"going on after {len(answers)} of {len(asked)} pictures that an interrupted run answered")
        started, clock = datetime.now().astimezone(), time.perf_counter()
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
            min_confidence=least,
            threshold=threshold,
        )
        atomic.write_text(folder / "run.json", json.dumps({"format": FORMAT, **asdict(run)}, indent=1) + "\n")
        (folder / _UNFINISHED).unlink()
    return answers


def _begin(folder: Path, identity: dict[str, Any], *, overwrite: bool) -> list[Estimate]:
    """Make the folder ready to append answers to, and return those of an interrupted run that asked the same."""
    finished, begun = (folder / "run.json").exists(), (folder / _UNFINISHED).exists()
    if begun and not finished and _is_of(folder, identity):
        return _answered(folder, [name for name, _ in identity["pictures"]])
    if not overwrite:
        _require_free(folder, finished, begun)
    # In this order, so that a kill between two steps never leaves old answers to a new question.
    for name in ("run.json", _UNFINISHED, "metrics.json", "predictions.jsonl"):
        (folder / name).unlink(missing_ok=True)
    atomic.write_text(folder / _UNFINISHED, json.dumps(identity))
    return []


def _require_free(folder: Path, finished: bool, begun: bool) -> None:
    what = None
    if finished:
        what = "holds a finished run already"
    elif begun:
        what = "holds an interrupted run of another map or version, or other pictures"
    elif folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
        what = "exists already and is not a run"
    if what is not None:
        raise PlacecellError(f"{folder} {what}; name another folder or pass --overwrite")


def _is_of(folder: Path, identity: dict[str, Any]) -> bool:
    try:
        return read_json(folder / _UNFINISHED) == identity
    except FormatError:
        return False


def _answered(folder: Path, names: Sequence[str]) -> list[Estimate]:
    """The answers of an interrupted run; the file is freed of the unfinished last line that a kill may leave."""
    path = folder / "predictions.jsonl"
    if not path.is_file():
        return []
    answers = read_predictions(path, allow_partial_last=True)
    if [answer.name for answer in answers] != list(names[: len(answers)]):
        raise FormatError(f"{path}: not the answers of this run, in order; delete {folder} and run localize again")
    whole, newline, _ = path.read_bytes().rpartition(b"\n")
    atomic.write_bytes(path, whole + newline)
    return answers


def _map_told(folder: Path) -> dict[str, str]:
    info, calibration = load_info(folder), folder / "calibration.json"
    told = {
        "family": info.family,
        "fingerprint": map_fingerprint(folder),
        "scene": info.scene,
        "scene_fingerprint": info.scene_fingerprint,
    }
    if calibration.is_file():
        told["calibration"] = hashlib.sha256(calibration.read_bytes()).hexdigest()[:16]
    return told


def _maps_told(folders: Sequence[Path]) -> dict[str, str]:
    told = [_map_told(folder) for folder in folders]
    return {
        key: ", ".join(row.get(key, "none") for row in told) for key in dict.fromkeys(k for row in told for k in row)
    }


def _require_texts(values: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        field_of(values, key, str)


@contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PlacecellError(
            f"{folder} could not be written: {error.strerror or error}; free some space or choose a folder you own, "
            "the same command then goes on"
        ) from error
