"""pycolmap's mappers over a database of matches: models from the workspace where they are finished already."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pycolmap

from placecell.log import Log

_Step = Callable[[], None]


def reconstructions(
    database_path: Path, folder: Path, *, pictures: int, at_once: bool, seed: int, threads: int, log: Log
) -> list[Any]:
    """The `pycolmap.Reconstruction`s of a database, most pictures first; read from `folder` if they are there.

    Args:
        folder: made whole or not at all.
        pictures: how many there are, for the progress only.
        at_once: by the global mapper (Pan et al. 2024) instead of picture by picture.
    """
    if not folder.is_dir():
        aside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        with _quiet():
            if at_once:
                _global(database_path, aside, seed, threads, log)
            else:
                _incremental(database_path, aside, pictures, seed, threads, log)
        aside.rename(folder)
    found = [pycolmap.Reconstruction(path) for path in sorted(folder.iterdir())]
    return sorted(found, key=lambda model: -int(model.num_reg_images()))


@contextmanager
def _quiet() -> Iterator[None]:
    """pycolmap's own log lines off, below fatal ones; its setting is put back."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _global(database_path: Path, folder: Path, seed: int, threads: int, log: Log) -> None:
    log.say("mapping all pictures at once")
    options = pycolmap.GlobalPipelineOptions()
    options.random_seed, options.num_threads = seed, threads
    options.mapper.global_positioning.use_gpu = options.mapper.bundle_adjustment.ceres.use_gpu = False
    pycolmap.global_mapping(database_path, folder, folder, options)


def _incremental(database_path: Path, folder: Path, pictures: int, seed: int, threads: int, log: Log) -> None:
    """In a thread of its own, so that progress is shown and an interrupt is heard."""
    token = pycolmap.CancellationToken()
    steps: SimpleQueue[bool] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(
            pycolmap.incremental_mapping,
            database_path,
            folder,
            folder,
            incremental_options(seed, threads),
            initial_image_pair_callback=lambda: steps.put(True),
            next_image_callback=lambda: steps.put(True),
            cancellation_token=token,
        )
        future.add_done_callback(lambda _: steps.put(False))
        try:
            for _ in log.track(iter(steps.get, False), "mapping", pictures):
                pass
        except BaseException:
            token.cancel()
            raise
        future.result()


def incremental_options(seed: int, threads: int) -> Any:
    """COLMAP's settings with what makes a video of hundreds of frames take half the time; see docs/benchmarks.md."""
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.num_threads = seed, threads
    options.extract_colors = False
    options.min_model_size = 3
    # All poses and points are adjusted together at every 1.4-fold growth instead of 1.1.
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.4
    options.ba_global_max_refinements = 2
    return options
