"""The service as an ASGI application: its routes, and one shape for everything that goes wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from placecell.serve import page, routes
from placecell.serve.hosts import KnownHosts
from placecell.serve.limits import Limits, Problem
from placecell.serve.served import Served
from placecell.serve.service import Held, Service
from placecell.serve.trajectory import Trajectory
from placecell.serve.worker import Worker

_LOG = logging.getLogger(__name__)
_ABOUT = """Know where a camera was, from one picture.

Poses are `world_from_cam`: camera axes x right, y down, z forward; quaternions w first. A picture that cannot be placed
is an answer, 200 with a `reason`. Everything else that goes wrong is `{"error": {"kind", "message"}}`: 4xx where the
request has to change, 503 where it may be sent again.
"""


def make_app(
    maps: Mapping[str, Served],
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
    trajectory: Trajectory | None = None,
) -> FastAPI:
    """The application that serves some maps.

    Args:
        token: what clients have to know to ask for anything but health; None asks for nothing.
        hosts: names and addresses by which it may be asked (see `placecell.serve.hosts`); None for any.
        trajectory: what the page plays from the start.
    """
    chosen = limits or Limits()
    service = Service(maps, chosen, Worker(chosen), Held(chosen.held_bytes), token, trajectory)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.begin(service.warm)
        yield
        service.worker.close()

    app = FastAPI(
        title="placecell",
        version=version("placecell"),
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # they would load scripts of another host
        redoc_url=None,
    )
    app.state.service = service
    # It only describes the token; `Service.admit` judges it.
    bearer = [] if token is None else [Security(HTTPBearer(auto_error=False, description="the token of the service"))]
    app.include_router(routes.router, dependencies=bearer)
    app.include_router(routes.health_router)
    app.include_router(page.router)
    app.add_middleware(KnownHosts, hosts=hosts)
    app.add_middleware(Counted, service=service)
    _answer_problems(app)
    return app


class Counted:
    """Counts what was asked, and forbids browsers to guess at types."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # where the application raises

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            route = scope.get("route")
            self._service.counters.asked(getattr(route, "path", "unknown"), status)


def _answer_problems(app: FastAPI) -> None:
    """Every failure in the one shape, also those of the framework."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(error.status)
        return JSONResponse(error.shape, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse(Problem(422, "bad-request", f"{where}: {first['msg']}").shape, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        kind = {404: "no-such-page", 405: "no-such-method"}.get(error.status_code, "refused")
        return JSONResponse(Problem(error.status_code, kind, str(error.detail)).shape, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse(Problem(500, "bug", "this is a bug of the service; its log says more").shape, 500)
