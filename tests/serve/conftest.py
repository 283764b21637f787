"""A service in this process, asked through ASGI."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.localizer import MapInfo
from placecell.pose import Pose
from placecell.scene import Scene
from placecell.serve.app import make_app
from placecell.serve.client import Client
from placecell.serve.listening import listening, server_of
from placecell.serve.served import Served, read_maps

T = TypeVar("T")
Call = Callable[[httpx.AsyncClient], Awaitable[T]]


class Echo:
    """A map that answers at once: the focal length as x, the picture's width as y, and the mean grey as z."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.sizes: list[tuple[int, int]] = []
        self.calls: list[list[str]] = []
        """Names of the pictures of each call."""

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        self.calls.append([query.name for query in queries])
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Estimate:
        self.before()
        self.sizes.append((query.image.shape[1], query.image.shape[0]))
        if query.defect is not None:
            return Estimate.refusal(query.name, query.defect, 0.001)
        place = [query.camera.fx, float(query.image.shape[1]), float(query.image.mean())]
        return Estimate(query.name, Pose(np.eye(3), np.array(place)), np.diag(np.arange(1.0, 7.0)), 0.9, 100)


@pytest.fixture(scope="session")
def room_served(room_map_folder: Callable[[str], Path], room_scene: Scene) -> Served:
    """The room's structure map with its scene."""
    (served,) = read_maps([room_map_folder("structure")], [room_scene.root]).values()
    return served


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def echoing(echo: Echo) -> dict[str, Served]:
    """A service of one map `echo` that was trained with pictures of 480x360."""
    info = MapInfo("echo", {}, "room", "0" * 16, "none", metric=True, seed=0)
    camera = Camera.from_focal(480, 360, 400.0)
    return {"echo": Served("echo", info, "f" * 16, echo, camera, None)}  # type: ignore[arg-type]


def asked(maps: Mapping[str, Served], call: Call[T], **told: Any) -> T:
    """What a conversation with a running service comes to."""

    async def talk() -> T:
        app = make_app(maps, **told)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as web:
            return await call(web)

    return asyncio.run(talk())


@contextmanager
def running(maps: Mapping[str, Served], **told: Any) -> Iterator[tuple[str, uvicorn.Server]]:
    """A real server on this machine that is ready, by its address; it is told to stop when the block ends."""
    with listening("127.0.0.1", 0) as socket:
        server = server_of(make_app(maps, **told))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        try:
            until = time.monotonic() + 30
            while not Client(url).ready() and time.monotonic() < until:
                time.sleep(0.02)
            yield url, server
        finally:
            server.should_exit = True
            thread.join(40)
        assert not thread.is_alive()


def post(maps: Mapping[str, Served], content: Any, path: str = "/v1/localize", **told: Any) -> httpx.Response:
    """The reply to one picture as a body."""
    options = {key: told.pop(key) for key in ("limits", "token") if key in told}
    return asked(maps, lambda web: web.post(path, content=content, **told), **options)


def jpeg(width: int = 480, height: int = 360, *, exif: Any = None, seed: int = 0) -> bytes:
    """A picture with something in it."""
    drawn = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    image = Image.fromarray(drawn).resize((width, height))
    buffer = BytesIO()
    image.save(buffer, "JPEG", **({} if exif is None else {"exif": exif}))
    return buffer.getvalue()


def problem(reply: httpx.Response) -> tuple[int, str]:
    """Status and kind of a problem, which has the one shape."""
    body = reply.json()
    assert list(body) == ["error"] and list(body["error"]) == ["kind", "message"], body
    assert "\n" not in body["error"]["message"]
    return reply.status_code, body["error"]["kind"]
