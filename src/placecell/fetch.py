"""Public data sets by name: licence first, then download, unpack, and a folder that is complete or absent."""

from __future__ import annotations

import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from placecell import atomic
from placecell.download import Remote, download
from placecell.errors import FormatError, PlacecellError
from placecell.log import Log

_SEVEN = "https://download.microsoft.com/download/2/8/5/28564B23-0828-408F-8631-23B1EFF1DAC8"
_TWELVE = "http://graphics.stanford.edu/projects/reloc/data"
_CAMBRIDGE = "https://www.repository.cam.ac.uk/bitstream/handle/1810"
_SFM_POSES = (
    "https://raw.githubusercontent.com/tsattler/visloc_pseudo_gt_limitations/637e4d4443c9ce5e8c694d047114496dd006b1fa"
)


@dataclass(frozen=True)
class Part:
    """What one scene, or one group of scenes, is made of."""

    archive: Remote
    labels: Mapping[str, Remote]
    """Second ground truth by its path in the folder of the part."""


@dataclass(frozen=True)
class DataSet:
    """A public data set. Its terms are its owners'; what is said of them here is a reminder, not a licence."""

    title: str
    licence: str
    page: str
    """Where the licence and the data are described."""
    parts: Mapping[str, Part]


def _sfm_labels(dataset: str, scene: str, folder: str = "") -> dict[str, Remote]:
    return {
        f"{folder}sfm_poses_{split}.txt": Remote(f"{_SFM_POSES}/pgt/sfm/{dataset}/{scene}_{split}.txt")
        for split in ("train", "test")
    }


def _seven(scene: str, size: int) -> Part:
    return Part(Remote(f"{_SEVEN}/{scene}.zip", size), _sfm_labels("7scenes", scene))


def _twelve(group: str, rooms: Sequence[str]) -> Part:
    labels: dict[str, Remote] = {}
    for room in rooms:
        labels |= _sfm_labels("12scenes", f"{group}_{room}", f"{room}/")
    return Part(Remote(f"{_TWELVE}/{group}.zip"), labels)


def _cambridge(scene: str, handle: int) -> Part:
    return Part(Remote(f"{_CAMBRIDGE}/{handle}/{scene}.zip"), {})


# The addresses of archives are those that hloc, DSAC*, kapture and others download from; they were compared with
# those, but could not be opened where this table was written. No publisher gives checksums. The sizes of 7-Scenes are
# as others measured them. The label files were seen at the commit named above.
DATA_SETS: Mapping[str, DataSet] = {
    "7scenes": DataSet(
        "7-Scenes (Shotton et al. 2013), with the SfM poses of Brachmann et al. 2021",
        "Microsoft Research licence: non-commercial use only; the SfM poses are under the licence of the data set",
        "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
        {
            "chess": _seven("chess", 3_079_608_937),
            "fire": _seven("fire", 2_301_204_154),
            "heads": _seven("heads", 956_332_240),
            "office": _seven("office", 4_707_873_861),
            "pumpkin": _seven("pumpkin", 2_890_874_911),
            "redkitchen": _seven("redkitchen", 6_141_181_406),
            "stairs": _seven("stairs", 1_496_412_431),
        },
    ),
    "12scenes": DataSet(
        "12-Scenes (Valentin et al. 2016), with the SfM poses of Brachmann et al. 2021",
        "terms as on the page of the data set; the SfM poses are under the same",
        "https://graphics.stanford.edu/projects/reloc/",
        {
            "apt1": _twelve("apt1", ("kitchen", "living")),
            "apt2": _twelve("apt2", ("bed", "kitchen", "living", "luke")),
            "office1": _twelve("office1", ("gates362", "gates381", "lounge", "manolis")),
            "office2": _twelve("office2", ("5a", "5b")),
        },
    ),
    "cambridge": DataSet(
        "Cambridge Landmarks (Kendall et al. 2015)",
        "terms as on the page of each scene in the repository of the University of Cambridge",
        "https://www.repository.cam.ac.uk/items/53788265-cb98-42ee-b85b-7a0cbc8eddb3",
        {
            "KingsCollege": _cambridge("KingsCollege", 251342),
            "OldHospital": _cambridge("OldHospital", 251340),
            "ShopFacade": _cambridge("ShopFacade", 251336),
            "StMarysChurch": _cambridge("StMarysChurch", 251294),
            "GreatCourt": _cambridge("GreatCourt", 251291),
            "Street": _cambridge("Street", 251292),
        },
    ),
}


def fetch(
    name: str,
    folder: Path,
    *,
    scenes: Sequence[str] = (),
    accept_licence: bool = False,
    mirror: str | None = None,
    ask: Callable[[str], bool] | None = None,
    wait: Callable[[float], None] = time.sleep,
    log: Log,
) -> list[Path]:
    """Download scenes of a data set into `folder/SCENE` each, and return those folders.

    A scene's folder appears when all of it is there; one that exists is left as it is. Archives wait in
    `folder/.download` until their scene is unpacked, so that an interrupted fetch goes on where it stopped.

    Args:
        scenes: which ones; none means all.
        accept_licence: the user has accepted the terms, which are shown in any case.
        mirror: take `MIRROR/NAME/FILE` instead of the publishers' addresses.
        ask: puts a yes-or-no question to the user when the licence is not accepted yet (a terminal).

    Raises:
        PlacecellError: unknown data set or scene, licence not accepted, or as `download` and `unpack`.
    """
    data_set = known(name)
    chosen = list(dict.fromkeys(scenes)) or list(data_set.parts)
    for scene in chosen:
        if scene not in data_set.parts:
            raise PlacecellError(f"{name} has no scene {scene!r}; known are {', '.join(data_set.parts)}")
    log.say(f"{data_set.title}\nlicence: {data_set.licence}\nread it at {data_set.page}")
    if not accept_licence and not (ask is not None and ask("Do you accept these terms?")):
        raise PlacecellError(f"{name}: nothing was downloaded; read {data_set.page} and pass --accept-licence")
    return [_fetch_part(_mirrored(data_set.parts[s], name, mirror), folder / s, wait, log) for s in chosen]


def known(name: str) -> DataSet:
    """A data set by its name.

    Raises:
        PlacecellError: there is none of that name.
    """
    if name not in DATA_SETS:
        raise PlacecellError(f"no data set is called {name!r}; known are {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def _mirrored(part: Part, name: str, mirror: str | None) -> Part:
    if mirror is None:
        return part

    def moved(remote: Remote) -> Remote:
        return replace(remote, url=f"{mirror.rstrip('/')}/{name}/{remote.url.rsplit('/', 1)[-1]}")

    return Part(moved(part.archive), {path: moved(remote) for path, remote in part.labels.items()})


def _fetch_part(part: Part, target: Path, wait: Callable[[float], None], log: Log) -> Path:
    if target.is_dir() and any(target.iterdir()):
        log.say(f"{target} is there already")
        return target
    waiting = target.parent / ".download" / target.name
    archive = download(part.archive, waiting / part.archive.url.rsplit("/", 1)[-1], log=log, wait=wait)
    labels = {
        path: download(remote, waiting / "labels" / path, log=log, wait=wait) for path, remote in part.labels.items()
    }
    try:
        with atomic.new_folder(target) as aside:
            unpack(archive, aside, log=log)
            _without_shell(aside, target.name)
            for path, source in labels.items():
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, aside / path)
    except FormatError:
        archive.unlink()  # a web page in place of the archive, or a damaged one: the next try has to fetch it anew
        raise
    shutil.rmtree(waiting)
    if not any(waiting.parent.iterdir()):
        waiting.parent.rmdir()
    log.say(f"{target} is complete")
    return target


def _without_shell(folder: Path, name: str) -> None:
    """Lift the content of `folder/name` into `folder`: archives carry a folder of the scene's name."""
    shell = folder / name
    if [path.name for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))] == [name]:
        aside = folder / f".{name}.shell"  # the shell may hold an entry of its own name
        shell.rename(aside)
        for path in aside.iterdir():
            path.rename(folder / path.name)
        aside.rmdir()


def unpack(archive: Path, folder: Path, *, log: Log, depth: int = 1) -> None:
    """Unpack a zip file into a folder, and the zip files in it where they lie (7-Scenes keeps a zip for a sequence).

    Nothing is written outside of `folder`: absolute paths, `..` and links are refused before anything is unpacked.
    `Thumbs.db` is left out: several archives of 7-Scenes hold damaged ones.

    Raises:
        FormatError: not a zip file, damaged, encrypted, or with an entry that would leave the folder.
        PlacecellError: the disk has no room for the content.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            entries = [entry for entry in zipped.infolist() if PurePosixPath(entry.filename).name != "Thumbs.db"]
            for entry in entries:
                _require_inside(archive, entry)
            _require_room(archive, folder, sum(entry.file_size for entry in entries))
            for entry in log.track(entries, f"unpacking {archive.name}"):
                zipped.extract(entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FormatError(f"{archive}: not a whole zip file ({error}); fetch it again, or look at its page") from error
    for inner in sorted(folder.rglob("*.zip")) if depth > 0 else ():
        unpack(inner, inner.parent, log=log, depth=depth - 1)
        inner.unlink()


def _require_inside(archive: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.filename.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0] or not path.parts:
        raise FormatError(f"{archive}: entry {entry.filename!r} would leave the folder; do not trust this archive")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise FormatError(f"{archive}: entry {entry.filename!r} is a link; do not trust this archive")


def _require_room(archive: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise PlacecellError(f"{archive}: {size / 1e9:.1f} GB to unpack and {free / 1e9:.1f} GB free; make room")
