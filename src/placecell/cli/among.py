"""placecell localize --maps MAP … -- IMAGES|SCENE RUN"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell.cli.localize import frames_asked, photos_at, placed, require_sense, told_of, warn_of
from placecell.cli.terminal import Terminal, finish, parse
from placecell.combine.among import Among
from placecell.combine.calibrated import Calibrated
from placecell.errors import PlacecellError
from placecell.estimate import Estimate
from placecell.localizer import MapInfo, camera_of_map, load_info
from placecell.log import Log
from placecell.run import localize_into
from placecell.scene import Scene


def localize_among(words: Sequence[str]) -> None:
    """Place pictures in the one of several maps that knows them."""
    maps, rest = _maps(words)

    def localize(
        pictures: Annotated[Path, tyro.conf.Positional],
        run: Annotated[Path, tyro.conf.Positional],
        split: Literal["train", "test", "all"] = "test",
        focal_px: float | None = None,
        min_confidence: float | None = None,
        threads: int = 2,
        device: Literal["cpu", "cuda"] = "cpu",
        overwrite: bool = False,
    ) -> None:
        """Tell which of the maps after --maps knows the place of a picture, and where in it the picture was taken.

        Args:
            pictures: A picture, a folder of them, or a scene folder.
            run: Run folder to make; an interrupted run goes on.
            split: Which frames of a scene are asked.
            focal_px: Focal length of pictures without a scene; otherwise as for one map, the first.
            min_confidence: Refuse answers of less confidence.
            threads: Processor threads.
            device: cpu, or cuda for families with networks.
            overwrite: Replace a finished run.
        """
        import cv2

        require_sense(threads, focal_px, min_confidence)
        cv2.setNumThreads(threads)
        log, guessed = Terminal(), list[str]()
        infos = {name: load_info(folder) for name, folder in maps.items()}
        scene = Scene.load(pictures) if (pictures / "scene.json").is_file() else None
        among = _loaded(maps, device, min_confidence)
        if scene is None:
            asked = photos_at(pictures, camera_of_map(next(iter(infos.values()))), focal_px, guessed)
        else:
            asked = frames_asked(scene, split, focal_px, depth=among.wants_depth)
        found = localize_into(
            run,
            among,
            list(maps.values()),
            asked,
            scene=told_of(scene, split),
            threads=threads,
            device=device,
            least=min_confidence,
            threshold=among.threshold,
            overwrite=overwrite,
            log=log,
        )
        warn_of(found, guessed, log)
        _warn_of_claims(found, infos, log)
        counts = ", ".join(f"{sum(e.map == name for e in found)} in {name}" for name in maps)
        finish(f"{run}: {placed(found)}: {counts}", ["head", "-n", 3, run / "predictions.jsonl"])

    parse("localize", localize, rest)


def _maps(words: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """The folders after --maps by their names, and the other words.

    Raises:
        PlacecellError: fewer than two, or the same twice.
    """
    begin = next(i for i, word in enumerate(words) if word == "--maps" or word.startswith("--maps="))
    after = list(words[begin + 1 :])
    first = [words[begin].removeprefix("--maps=")] if words[begin] != "--maps" else []
    end = next((i for i, word in enumerate(after) if word.startswith("-")), len(after))
    folders = [Path(word) for word in (*first, *after[:end])]
    rest = [*words[:begin], *(word for word in after[end:] if word != "--")]
    if {"-h", "--help"} & set(words):
        return {}, ["--help"]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(folders) < 2 or len(set(names)) < len(names):
        raise PlacecellError("--maps takes two maps or more, each once: --maps A.map B.map -- IMAGES RUN")
    return dict(zip(names, folders, strict=True)), rest


def _loaded(maps: Mapping[str, Path], device: str, min_confidence: float | None) -> Among:
    found = {name: Calibrated.load(folder, device=device) for name, folder in maps.items()}
    return Among({name: Calibrated(m.localizer, m.calibration, m.known, min_confidence) for name, m in found.items()})


def _warn_of_claims(found: Sequence[Estimate], infos: Mapping[str, MapInfo], log: Log) -> None:
    """Tell of pictures that every map takes for its own: maps of one place, or places that look alike."""
    every = [e for e in found if e.map is not None and len(e.also) + 1 == len(infos)]
    if not every:
        return
    places = {info.scene for info in infos.values()}
    why = "they are of one scene" if len(places) == 1 else "the places look alike there, or share a part"
    more = f" and {len(every) - 1} more" if len(every) > 1 else ""
    log.warn(f"{every[0].name}{more}: claimed by every map ({why}); the most confident one answers")
