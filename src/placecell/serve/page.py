"""The page for people: its files, and what of a map it draws."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.estimate import Estimate
from placecell.images import jpeg_of, read_image, resize_image
from placecell.localizer import Charted
from placecell.points import PointCloud
from placecell.pose import Pose, PoseError
from placecell.report.judged import Judged
from placecell.report.ramp import Ramp
from placecell.report.view3d import view_data
from placecell.scene import Frame, Scene
from placecell.serve.limits import Problem
from placecell.serve.served import Served
from placecell.serve.service import Service

router = APIRouter(include_in_schema=False)

_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_ASSETS = frozenset({"report.css", "serve.css", "orbit.js", "renderers.js", "player.js", "serve.js"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SHOWN_PX = 640
_DRAWN = ("unit", "axes", "centre", "radius", "points", "training")


@router.get("/")
async def page() -> Response:
    """The page; it asks nothing of any other host."""
    return _file("serve.html")


@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    """A script or style of the page."""
    if name not in _ASSETS:
        raise Problem(404, "no-such-page", "the page has no such file")
    return _file(name)


@router.get("/v1/maps/{name}/view")
async def view(request: Request, name: str) -> Response:
    """What the 3-D view draws of a map: points, the training path, which way is up; null where it knows none."""
    service = _service(request)
    served = service.map_of(name)
    return JSONResponse(await service.worker.answer(lambda: view_of(served)))


@router.get("/v1/trajectory")
async def trajectory(request: Request) -> JSONResponse:
    """What the page plays from the start; null where it was given nothing."""
    found = _service(request).trajectory
    return JSONResponse(None if found is None else {"name": found.name, "text": found.text})


@router.get("/v1/maps/{name}/frames/{frame:path}")
async def frame(request: Request, name: str, frame: str) -> Response:
    """A training picture, small."""
    service = _service(request)
    found = service.map_of(name).frame(frame)
    scene = service.map_of(name).scene
    if found is None or scene is None:
        raise Problem(404, "no-such-frame", "no training picture of this map has that name")
    path = scene.image_path(found)

    def small() -> bytes:
        try:
            image = read_image(path)
        except ImageError as error:
            raise Problem(404, "no-such-frame", "that training picture cannot be read any more") from error
        height, width = image.shape[:2]
        return jpeg_of(resize_image(image, Camera.from_focal(width, height, 1.0), max_side_px=_SHOWN_PX)[0], 85)

    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(await service.worker.answer(small), media_type="image/jpeg", headers=headers)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    service.admit(request.headers.get("authorization"))
    return service


@lru_cache
def _content(name: str) -> bytes:
    return files("placecell.web").joinpath(name).read_bytes()


def _file(name: str) -> Response:
    kind = _TYPES[name[name.rindex(".") :]]
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
    return Response(_content(name), media_type=f"{kind}; charset=utf-8", headers=headers)


@lru_cache(maxsize=16)
def view_of(served: Served) -> dict[str, Any] | None:
    """The view of a report in which nothing was asked yet; None for a map that nothing can be drawn of."""
    scene = served.scene
    if scene is None and isinstance(served.localizer, Charted):
        scene = _charted(served, served.localizer.cloud())
    if scene is None or not scene.posed:
        return None
    first = scene.posed[0]
    pose = first.world_from_cam or Pose.identity()
    nothing = Judged(first, pose, Estimate.refusal(first.name, "not asked"), PoseError(float("inf"), 180.0))
    drawn = view_data(scene, [nothing], Ramp(0.01, 1.0), Ramp(0.1, 10.0))
    return {key: drawn[key] for key in _DRAWN}


def _charted(served: Served, cloud: PointCloud) -> Scene:
    """The points of a map as a scene of one frame, where the scene itself is not served; -y is taken to be up."""
    middle = np.median(cloud.points_world, axis=0) if len(cloud) else np.zeros(3)
    frame = Frame("map", "map", "map", Pose(np.eye(3), middle))
    return Scene(
        name=served.info.scene,
        labels=served.info.labels,
        metric=served.info.metric,
        frames=(frame,),
        cameras={"map": served.camera},
        root=Path(),
        points=cloud,
    )
