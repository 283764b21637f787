"""pycolmap's mappers over a database of matches: models from the workspace where they are finished already."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import pycolmap

from placecell.log import Log

How = Literal["stepwise", "patient", "at once"]
"""Picture by picture; the same with lower demands; or all poses together (the global mapper, Pan et al. 2024)."""


def reconstructions(
    database_path: Path, folder: Path, how: How, *, pictures: int, seed: int, threads: int, log: Log
) -> list[Any]:
    """The believable `pycolmap.Reconstruction`s of a database, most pictures first; read from `folder` if it is there.

    Args:
        folder: made whole or not at all.
        pictures: how many there are, for the progress only.
    """
    if not folder.is_dir():
        aside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        with _quiet():
            if how == "at once":
                _global(database_path, aside, seed, threads, log)
            else:
                options = incremental_options(seed, threads, patient=how == "patient")
                _incremental(database_path, aside, options, pictures, log)
        aside.rename(folder)
    found = [pycolmap.Reconstruction(path) for path in sorted(folder.iterdir())]
    return sorted(filter(_believable, found), key=lambda model: -int(model.num_reg_images()))


def _believable(model: Any) -> bool:
    """Whether its cameras could be built: two pictures alone are often explained by a lens that nobody has."""
    for camera in model.cameras.values():
        focal, distortion = camera.mean_focal_length() / max(camera.width, camera.height), camera.params[3:]
        if not 0.2 < focal < 10 or (camera.model.name == "SIMPLE_RADIAL" and abs(distortion[0]) > 1):
            return False
    return True


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


def _incremental(database_path: Path, folder: Path, options: Any, pictures: int, log: Log) -> None:
    """In a thread of its own, so that progress is shown and an interrupt is heard."""
    token = pycolmap.CancellationToken()
    steps: SimpleQueue[bool] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(
            pycolmap.incremental_mapping,
            database_path,
            folder,
            folder,
            options,
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


def incremental_options(seed: int, threads: int, *, patient: bool) -> Any:
    """COLMAP's settings with what makes a video of hundreds of frames take half the time; see docs/benchmarks.md.

    Args:
        patient: for photos far apart along a street: begin with forward motion and small angles, and keep points that
            only two pictures see.
    """
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.num_threads = seed, threads
    options.extract_colors = False
    options.min_model_size = 3
    # Poses and points are adjusted together each time the model has doubled, not grown by a tenth, and less exactly on
    # the way: what remains is below the noise of the features (3.2 mm instead of 3.15 on the red kitchen).
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 2.0
    options.ba_global_max_refinements, options.ba_local_max_refinements = 2, 1
    options.ba_local_function_tolerance, options.ba_local_max_num_iterations = 1e-4, 10
    options.ba_global_function_tolerance, options.ba_global_max_num_iterations = 1e-5, 25
    if patient:
        options.mapper.init_max_forward_motion, options.mapper.init_min_tri_angle = 1.0, 4.0
        options.mapper.abs_pose_min_num_inliers = 15
        options.triangulation.ignore_two_view_tracks = False
    return options
