"""The two protocols that every family meets the others in, and the map folder (docs/formats.md)."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from placecell import atomic
from placecell.camera import Camera
from placecell.errors import FormatError, MapError
from placecell.estimate import Estimate, Query
from placecell.log import Log
from placecell.points import PointCloud
from placecell.scene import Frame, Scene, camera_from_json, camera_to_json, field_of, read_json

FORMAT = 1
Tensors = Mapping[str, NDArray[Any]]


class Answering(Protocol):
    """What answers: pictures in, poses or reasons out."""

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """One estimate a query, same order; a picture that cannot be placed is an Estimate with a reason."""
        ...


@runtime_checkable
class Localizer(Answering, Protocol):
    """A map that answers."""

    def save(self, folder: Path) -> None:
        """Write the map folder, whole or not at all."""

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A map whose building may have been interrupted; it answers as well as it has learned to."""

    @property
    def unfinished(self) -> str | None:
        """What of the building was left out, in words; None when nothing was."""
        ...


class Family(Protocol):
    """A way to build maps: a frozen dataclass of hyper-parameters, all with defaults.

    A family may have `presets: ClassVar[Mapping[str, Self]]`, settings by name.
    """

    name: ClassVar[str]

    def build(self, scene: Scene, *, device: str, seed: int, log: Log, work: Path | None = None) -> Localizer:
        """Build a map from the training frames of a scene.

        `work` is a folder where long work keeps what lets it go on after an interruption; None keeps nothing.
        """
        ...


def wants_depth(localizer: object) -> bool:
    """Whether a map needs the depth of the pictures it places."""
    return bool(getattr(localizer, "wants_depth", False))


@runtime_checkable
class Salient(Protocol):
    """A map that can tell which pixels place a picture."""

    def saliency(self, query: Query) -> NDArray[np.float32]:
        """(H, W) at the size of the picture, 0 where nothing depends on a pixel; of a query without `defect`."""
        ...


@runtime_checkable
class PoseFeatures(Protocol):
    """A map that sees a picture as one vector, and places it by that."""

    def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """(N, D), a row a query; NaN for a picture that it can do nothing with."""
        ...


@runtime_checkable
class SeenAtOnce(PoseFeatures, Protocol):
    """A map that answers and sees its vectors by one look."""

    def localize_seen(self, queries: Sequence[Query]) -> tuple[list[Estimate], NDArray[np.float32]]:
        """`localize` and `pose_features`."""
        ...


@runtime_checkable
class Guidable(Protocol):
    """A map that places a picture with less work when it is told about where it was taken."""

    def localize_near(self, queries: Sequence[Query], priors: Sequence[Estimate]) -> list[Estimate]:
        """As `localize`, from a first estimate of each; one without a pose, or wrong, costs time and nothing else."""
        ...


@runtime_checkable
class Charted(Protocol):
    """A map that knows points of the place."""

    def cloud(self) -> PointCloud:
        """Its points in the world, with their colours."""
        ...


@runtime_checkable
class Coarse(Protocol):
    """A map that looks at pictures no finer than a camera of its own."""

    @property
    def sight(self) -> Camera:
        """That camera: what a picture has more of pixels a radian is of no use."""
        ...


@dataclass(frozen=True)
class MapInfo:
    """What map.json says of a map besides its tensors."""

    family: str
    config: dict[str, Any]
    """Every hyper-parameter of the family."""
    scene: str
    scene_fingerprint: str
    labels: str
    metric: bool
    seed: int
    extra: dict[str, Any] = field(default_factory=dict)
    """What the family alone needs to load: cameras, preprocessing."""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, family: Family, scene: Scene, seed: int, *, held: Iterable[Frame] = (), **extra: Any) -> MapInfo:
        """The description of a map built by `family` from `scene` now.

        `extra["camera"]` is the commonest camera; `extra["seen"]` tells which frames it was built from: all posed
        training frames but those `held` out.
        """
        kept_out = {frame.name for frame in held}
        training = scene.split("train")
        camera, _ = Counter(frame.camera for frame in training.frames).most_common(1)[0]
        seen = _marks_of(frame.name for frame in training.posed if frame.name not in kept_out)
        return cls(
            family=family.name,
            config=config_to_json(family),
            scene=scene.name,
            scene_fingerprint=scene.fingerprint,
            labels=scene.labels,
            metric=scene.metric,
            seed=seed,
            extra={"camera": camera_to_json(scene.cameras[camera]), "seen": seen, **extra},
            versions=versions(),
        )

    def unseen(self, scene: Scene) -> tuple[Frame, ...]:
        """The posed frames of a scene that the map was not built from.

        Raises:
            MapError: the map does not tell.
        """
        if isinstance(text := self.extra.get("seen"), str):
            marks = _marks_from(text)
            return tuple(frame for frame in scene.posed if _mark(frame.name) not in marks)
        if self.scene_fingerprint == scene.fingerprint:  # maps of earlier versions, of all training frames
            return scene.split("test").posed
        raise MapError(
            f"the map of {self.scene} does not say which frames it was built from, and scene {scene.name} has others "
            "than its own; build it again"
        )


_MARK = 4
"""Bytes of a frame's mark: of 10 000 frames seen, one in 400 000 others is taken for one of them."""


def _mark(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "backslashreplace")).digest()[:_MARK]


def _marks_of(names: Iterable[str]) -> str:
    """Frames as map.json keeps which a map has seen: sorted digests of their names, six characters a frame."""
    return _encoded(map(_mark, names))


def _encoded(marks: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(marks))).decode("ascii")


def seen_by_any(infos: Iterable[MapInfo]) -> str | None:
    """What several maps together have seen, as map.json keeps it; None where one of them does not tell."""
    texts = [info.extra.get("seen") for info in infos]
    known = [text for text in texts if isinstance(text, str)]
    return _encoded(frozenset().union(*map(_marks_from, known))) if len(known) == len(texts) else None


def _marks_from(text: str) -> frozenset[bytes]:
    """Inverse of `_marks_of`.

    Raises:
        FormatError: it is none.
    """
    try:
        marks = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise FormatError(f"map.json: extra.seen is damaged ({error}); build the map again") from error
    return frozenset(marks[begin : begin + _MARK] for begin in range(0, len(marks), _MARK))


def save_map(
    folder: Path,
    info: MapInfo,
    tensors: Tensors,
    *,
    texts: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Write map.json and weights.safetensors, whole or not at all, and `texts` and `files` by name beside them.

    Raises:
        PlacecellError: the folder exists, or cannot be written.
    """
    with atomic.new_folder(folder, replace=overwrite) as aside:
        # Not save_file, whose errors hide a full disk from placecell.atomic.
        weights = save({key: np.asarray(value, order="C") for key, value in tensors.items()})
        (aside / "weights.safetensors").write_bytes(weights)
        text = json.dumps({"format": FORMAT, **asdict(info)}, indent=1, ensure_ascii=False)
        (aside / "map.json").write_text(text + "\n", encoding="utf-8")
        for name, text in (texts or {}).items():
            (aside / name).write_text(text, encoding="utf-8")
        for name, content in (files or {}).items():
            (aside / name).write_bytes(content)


def load_info(folder: Path) -> MapInfo:
    """Read map.json.

    Raises:
        MapError: not a map folder.
        FormatError: map.json is damaged or of another version.
    """
    path = folder / "map.json"
    if not path.is_file():
        raise MapError(f"{folder} is not a map (no map.json); make one with: placecell build SCENE {folder} structure")
    row = read_json(path)
    if row.pop("format", None) != FORMAT:
        raise FormatError(f"{path}: not of format {FORMAT}; build the map again with this version")
    known = {item.name for item in fields(MapInfo)}
    if set(row) != known:
        raise FormatError(f"{path}: has keys {sorted(row)}, expected {sorted(known)}; build the map again")
    kinds = {"config": dict, "extra": dict, "versions": dict, "metric": bool, "seed": int}
    try:
        return MapInfo(**{key: field_of(row, key, kinds.get(key, str)) for key in known})
    except ValueError as error:
        raise FormatError(f"{path}: {error}; build the map again") from error


def camera_of_map(info: MapInfo) -> Camera:
    """The commonest camera of the training pictures.

    Raises:
        MapError: map.json does not tell.
    """
    try:
        return camera_from_json(info.extra["camera"])
    except (KeyError, TypeError, ValueError) as error:
        raise MapError(
            f"the map of {info.scene} does not say which camera it was built with; build it again"
        ) from error


def load_map_tensors(folder: Path) -> dict[str, NDArray[Any]]:
    """Read weights.safetensors. Asking the result for a tensor it lacks is a `FormatError` too.

    Raises:
        FormatError: the file is missing or damaged.
    """
    path = folder / "weights.safetensors"
    try:
        return _Tensors(path, load_file(path))
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path}: missing or damaged ({error}); build the map again") from error


class _Tensors(dict[str, NDArray[Any]]):
    def __init__(self, path: Path, tensors: Tensors) -> None:
        super().__init__(tensors)
        self._path = path

    def __missing__(self, key: str) -> NDArray[Any]:
        raise FormatError(f"{self._path}: no tensor {key}, so it is of another version; build the map again")


def map_fingerprint(folder: Path) -> str:
    """16 hex digits of the map's files.

    Raises:
        MapError: a file of the map is missing.
    """
    digest = hashlib.sha256()
    for name in ("map.json", "weights.safetensors"):
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise MapError(f"{folder / name}: {error.strerror}; build the map again") from error
    return digest.hexdigest()[:16]


def map_bytes(folder: Path) -> int:
    """Size of the map on disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


C = TypeVar("C")


def config_to_json(family: Family) -> dict[str, Any]:
    """The hyper-parameters of a family as JSON values."""
    values = {item.name: getattr(family, item.name) for item in fields(family)}  # type: ignore[arg-type]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def config_from_json(kind: type[C], values: Mapping[str, Any]) -> C:
    """A family of `kind` with the hyper-parameters of map.json.

    Raises:
        FormatError: a parameter is unknown, or its value is refused.
    """
    unknown = set(values) - {item.name for item in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise FormatError(f"map.json has unknown settings {sorted(unknown)} for {kind.__name__}; build the map again")
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**frozen)
    except (TypeError, ValueError) as error:
        raise FormatError(
            f"map.json has settings that {kind.__name__} refuses ({error}); build the map again"
        ) from error


def versions() -> dict[str, str]:
    """Versions of what shapes a result."""
    found = {"python": platform.python_version()}
    for package in (
        "placecell",
        "numpy",
        "opencv-python-headless",
        "pycolmap",
        "poselib",
        "torch",
        "openvino",
        "onnxruntime",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
