"""What programs ask: answers, maps, health, figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from placecell.serve.answers import Answer, ProblemShape, RosAnswer, UnreadPicture
from placecell.serve.body import body_of, pictures_in
from placecell.serve.desk import Asked
from placecell.serve.limits import Problem
from placecell.serve.pictures import Sent
from placecell.serve.service import Service

router = APIRouter()
"""What the token is asked for, where there is one."""
health_router = APIRouter()
"""What anybody may ask."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemShape, "description": text}
    for status, text in {
        400: "no picture, a damaged form, a body of another length than it says, or several maps to choose from",
        401: "the token is missing or wrong",
        404: "no such map",
        408: "the body came too slowly",
        413: "too many bytes, pixels or pictures",
        422: "not a picture, intrinsics that cannot be, or no pose where the ROS message needs one",
        503: "busy, closing, or too slow: come back later",
    }.items()
}
# A model would be described as the text that the route answers with otherwise.
_NO_TOKEN = {
    "description": _PROBLEMS[401]["description"],
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ProblemShape"}}},
}
_FILE = {"type": "string", "format": "binary"}
_ONE = {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}
_FILES = {"type": "array", "items": _FILE, "minItems": 1}
_SEVERAL = {"type": "object", "properties": {"image": _FILES}, "required": ["image"]}
_RAW = {kind: {"schema": _FILE} for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")}

# An example for this one alone: those of all parameters are tried together, and the others exclude it.
FocalLength = Annotated[
    float | None, Query(description="focal length in pixels of the upright picture; without fx", examples=[525.5])
]
Pixels = Annotated[float | None, Query(description="pixels of the upright picture; fx, or fx with any of fy, cx, cy")]
MapName = Annotated[str | None, Query(alias="map", description="which map, where several are served")]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    service.admit(request.headers.get("authorization"))
    return service


@router.post(
    "/v1/localize",
    responses={200: {"model": Answer | RosAnswer}, **_PROBLEMS},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _ONE}, **_RAW}}},
)
async def localize(
    request: Request,
    map_name: MapName = None,
    focal_px: FocalLength = None,
    fx: Pixels = None,
    fy: Pixels = None,
    cx: Pixels = None,
    cy: Pixels = None,
    shape: Annotated[Literal["placecell", "ros"], Query(description="ros: PoseWithCovarianceStamped")] = "placecell",
    nearest: Annotated[bool, Query(description="name the nearest training picture")] = False,
) -> JSONResponse:
    """Where one picture was taken. Send it as the body, or as a file of a multipart form.

    Intrinsics: those given here, else the map's where the picture has its shape, else those of EXIF, else a guess.
    """
    service = _service(request)
    served = service.map_of(map_name)
    given = {"focal_px": focal_px, "fx": fx, "fy": fy, "cx": cx, "cy": cy}
    with service.held.request() as came:
        body = await body_of(request, service.limits.picture_bytes, service.limits, came)
        (part,) = pictures_in(request, body, 1)
        sent = Sent(part.name, part.content, {key: value for key, value in given.items() if value is not None})
        return JSONResponse((await service.answers(served, [sent], Asked(shape, nearest)))[0])


@router.post(
    "/v1/localize-batch",
    responses={200: {"model": list[Answer | UnreadPicture]}, **_PROBLEMS},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _SEVERAL}}}},
)
async def localize_batch(request: Request, map_name: MapName = None, focal_px: FocalLength = None) -> JSONResponse:
    """Where several pictures were taken: an answer each, in order; one that cannot be read is its `error`."""
    service = _service(request)
    served = service.map_of(map_name)
    given = {} if focal_px is None else {"focal_px": focal_px}
    with service.held.request() as came:
        body = await body_of(request, service.limits.batch_bytes, service.limits, came)
        parts = pictures_in(request, body, service.limits.batch)
        for part in parts:
            if len(part.content) > service.limits.picture_bytes:
                most = f"at most {service.limits.picture_bytes} bytes a picture"
                raise Problem(413, "too-many-bytes", f"{part.name}: {most}")
        return JSONResponse(await service.answers(served, [Sent(*part, given) for part in parts], Asked()))


@router.get("/v1/maps", responses={401: _PROBLEMS[401]})
async def maps(request: Request) -> list[dict[str, Any]]:
    """The maps that are served."""
    return [served.told for served in _service(request).maps.values()]


@health_router.get("/health")
async def health() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


@health_router.get("/ready", responses={503: _PROBLEMS[503]})
async def ready(request: Request) -> dict[str, str]:
    """Whether maps are read and warm, and the queue has room."""
    service: Service = request.app.state.service
    if not service.warmed.is_set():
        raise Problem(503, "warming", "the maps are being warmed up; come back in a second")
    if service.worker.waiting >= service.limits.queue:
        raise Problem(503, "busy", "the queue is full; come back in a second")
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse, responses={401: _NO_TOKEN})
async def metrics(request: Request) -> PlainTextResponse:
    """Counters and times as Prometheus reads them."""
    service = _service(request)
    gauges = {"queue_length": service.worker.waiting, "maps": len(service.maps)}
    return PlainTextResponse(service.counters.text(gauges), media_type="text/plain; version=0.0.4")
