"""pycolmap's mappers over a database of matches: models from the workspace where they are finished already."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import pycolmap

from placecell.colmap import quiet
from placecell.log import Log

How = Literal["stepwise", "patient", "at once"]
"""Picture by picture; the same with lower demands; or all poses together (the global mapper, Pan et al. 2024)."""

_LEAST_POINTS: dict[How, int] = {"stepwise": 30, "patient": 15, "at once": 30}


@dataclass(frozen=True)
class Mapper:
    """How poses, points and cameras are found from matches. Frozen."""

    how: How = "stepwise"
    refine_focal: bool = True
    """Whether focal lengths are refined; distortion always is."""
    seed: int = 0
    threads: int = 2


def reconstructions(database_path: Path, folder: Path, mapper: Mapper, *, pictures: int, log: Log) -> list[Any]:
    """The believable `pycolmap.Reconstruction`s of a database, most pictures first; read from `folder` if it is there.

    Args:
        folder: made whole or not at all.
        pictures: how many there are, for the progress only.
    """
    if not folder.is_dir():
        aside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        with quiet():
            if mapper.how == "at once":
                _global(database_path, aside, mapper, log)
            else:
                _incremental(database_path, aside, mapper, pictures, log)
            for path in sorted(aside.iterdir()):
                _settle(path, mapper)
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


def _global(database_path: Path, folder: Path, mapper: Mapper, log: Log) -> None:
    log.say("mapping all pictures at once")
    options = pycolmap.GlobalPipelineOptions()
    options.random_seed, options.num_threads = mapper.seed, mapper.threads
    options.mapper.global_positioning.use_gpu = options.mapper.bundle_adjustment.ceres.use_gpu = False
    options.mapper.bundle_adjustment.refine_focal_length = mapper.refine_focal
    pycolmap.global_mapping(database_path, folder, folder, options)


def _settle(path: Path, mapper: Mapper) -> None:
    """Everything adjusted once more with a loss that wrong matches cannot pull (Cauchy, at one pixel).

    Pictures held by fewer points than COLMAP asks for are let go: the global mapper places them anywhere.
    """
    model = pycolmap.Reconstruction(path)
    least = _LEAST_POINTS[mapper.how]
    for image in [image for image in model.images.values() if image.has_pose and image.num_points3D < least]:
        model.deregister_frame(image.frame_id)
    if model.num_reg_images() < 2:
        shutil.rmtree(path)
        return
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = mapper.refine_focal
    options.ceres.loss_function_type, options.ceres.loss_function_scale = pycolmap.LossFunctionType.CAUCHY, 1.0
    solver = options.ceres.solver_options
    solver.num_threads, solver.max_num_iterations, solver.function_tolerance = mapper.threads, 15, 1e-5
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # Not pycolmap.bundle_adjustment, which turns pycolmap's own log lines on again.
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    model.write(path)


def _incremental(database_path: Path, folder: Path, mapper: Mapper, pictures: int, log: Log) -> None:
    """In a thread of its own, so that progress is shown and an interrupt is heard."""
    token = pycolmap.CancellationToken()
    steps: SimpleQueue[bool] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(
            pycolmap.incremental_mapping,
            database_path,
            folder,
            folder,
            incremental_options(mapper),
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


def incremental_options(mapper: Mapper) -> Any:
    """COLMAP's settings with what makes a video of hundreds of frames take half the time; see docs/benchmarks.md."""
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.num_threads = mapper.seed, mapper.threads
    options.extract_colors = False
    options.min_model_size = 3
    options.ba_refine_focal_length = mapper.refine_focal
    # A walk that looks outwards sees nothing under 16 degrees from two places: it began with the few wrong matches.
    options.mapper.init_min_tri_angle = 8.0
    options.mapper.abs_pose_min_num_inliers = _LEAST_POINTS[mapper.how]
    # Poses and points are adjusted together each time the model has doubled, not grown by a tenth, and less exactly on
    # the way: `_settle` makes up for it.
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 2.0
    options.ba_global_max_refinements, options.ba_local_max_refinements = 2, 1
    options.ba_local_function_tolerance, options.ba_local_max_num_iterations = 1e-4, 10
    options.ba_global_function_tolerance, options.ba_global_max_num_iterations = 1e-5, 25
    if mapper.how == "patient":
        # Photos far apart along a street: forward motion, small angles, points that only two pictures see.
        options.mapper.init_max_forward_motion, options.mapper.init_min_tri_angle = 1.0, 4.0
        options.triangulation.ignore_two_view_tracks = False
    return options
