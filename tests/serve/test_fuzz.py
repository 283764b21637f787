"""The service sent damaged pictures and damaged forms: no 500, no hang, no growth.

What else its OpenAPI allows and forbids is asked in test_schemathesis.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from damaging import damaged_files, resident_mb, whole_files
from placecell.camera import Camera
from placecell.localizer import MapInfo
from placecell.serve.answers import Answer, ProblemShape, UnreadPicture
from placecell.serve.app import make_app
from placecell.serve.limits import Limits
from placecell.serve.served import Served
from serve.conftest import Echo, jpeg

Spec = dict[str, Any]
ANSWERS: dict[str, TypeAdapter[Any]] = {
    "/v1/localize": TypeAdapter(Answer),
    "/v1/localize-batch": TypeAdapter(list[Answer | UnreadPicture]),
}
PROBLEM: TypeAdapter[Any] = TypeAdapter(ProblemShape)


class Asker:
    """A service in this process, and its own description."""

    def __init__(self) -> None:
        info = MapInfo("echo", {}, "room", "0" * 16, "none", metric=True, seed=0)
        camera = Camera.from_focal(480, 360, 400.0)
        maps = {name: Served(name, info, "f" * 16, Echo(), camera, None) for name in ("echo", "other")}  # type: ignore[arg-type]
        self._runner = asyncio.Runner()
        # so small that damaged headers cannot promise much
        self._app = make_app(maps, limits=Limits(pixels=1_000_000, picture_bytes=100_000, batch=4))
        self._life = self._app.router.lifespan_context(self._app)
        self._runner.run(self._life.__aenter__())
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        self._web = httpx.AsyncClient(transport=transport, base_url="http://t")
        self.spec: Spec = self.ask("GET", "/openapi.json").json()

    def ask(self, method: str, path: str, **told: Any) -> httpx.Response:
        began = time.monotonic()
        reply = self._runner.run(self._web.request(method, path, **told))
        assert time.monotonic() - began < 10
        return reply

    def close(self) -> None:
        self._runner.run(self._web.aclose())
        self._runner.run(self._life.__aexit__(None, None, None))
        self._runner.close()


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    found = Asker()
    yield found
    found.close()


pictures = st.one_of(
    st.sampled_from([jpeg(64, 48), jpeg(480, 360), jpeg(16, 16), *whole_files()]),
    damaged_files(),
    st.binary(max_size=60),
    st.just(b"\xff" * 100_001),
)


@st.composite
def bodies(draw: st.DrawFn, content: Spec) -> tuple[bytes, str]:
    """A body and its type: one that is described, with what belongs into it or something else."""
    kind = draw(st.sampled_from([*content, "text/plain", "application/json", "multipart/form-data", ""]))
    if not kind.startswith("multipart/"):
        return draw(pictures), kind
    boundary = draw(st.sampled_from([b"b", b"--", b"b" * 70, b"x y"]))
    parts = []
    for picture in draw(st.lists(pictures, max_size=6)):
        name = draw(st.sampled_from(['; filename="a.jpg"', "", '; filename="\xff"', "; filename*=UTF-8''%ff"]))
        head = f'Content-Disposition: form-data; name="image"{name}\r\n\r\n'.encode("latin-1")
        parts.append(b"--" + boundary + b"\r\n" + head + picture + b"\r\n")
    body = b"".join([*parts, b"--" + boundary + b"--\r\n"])
    if draw(st.integers(0, 3)) == 0:  # a damaged form
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=5)) + body[at + draw(st.integers(0, 5)) :]
    return body, f"{kind}; boundary={draw(st.sampled_from([boundary, boundary, boundary, b'other'])).decode()}"


@st.composite
def requests(draw: st.DrawFn, spec: Spec) -> tuple[str, dict[str, Any], Spec]:
    """Path of a route that takes pictures, what it is sent, and what is described of it."""
    path = draw(st.sampled_from(["/v1/localize", "/v1/localize-batch"]))
    operation = spec["paths"][path]["post"]
    body, kind = draw(bodies(operation["requestBody"]["content"]))
    words = {"map": draw(st.sampled_from(["echo", "other", "echo", "none"]))}
    if draw(st.booleans()):
        words["focal_px"] = draw(st.sampled_from(["40", "400", "1e400", "nan", "-0", "١٢", "\0", "1" * 5_000]))
    return path, {"params": words, "content": body, "headers": {"Content-Type": kind}}, operation


def asked_and_judged(asker: Asker, request: tuple[str, dict[str, Any], Spec]) -> int:
    path, told, operation = request
    reply = asker.ask("POST", path, **told)
    assert str(reply.status_code) in operation["responses"], (reply.status_code, reply.text[:300])
    row = json.loads(reply.text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    answer = ANSWERS[path] if reply.status_code == 200 else PROBLEM
    answer.validate_python(row, strict=True, extra="forbid")
    return reply.status_code


def fuzz(asker: Asker, examples: int) -> list[int]:
    statuses: list[int] = []

    @given(requests(asker.spec))
    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    def many(request: tuple[str, dict[str, Any], Spec]) -> None:
        statuses.append(asked_and_judged(asker, request))

    many()
    return statuses


def test_whatever_is_sent_is_answered_as_described(asker: Asker) -> None:
    statuses = fuzz(asker, 200)
    assert {200, 400, 404, 422} <= set(statuses)  # it has come to the answers, not only to the first refusal


@given(path=st.text(max_size=40), method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"]))
def test_paths_that_are_not_there_are_problems(path: str, method: str, asker: Asker) -> None:
    reply = asker.ask(method, "/" + quote(path.lstrip("/"), safe="/%", errors="replace"))
    assert reply.status_code in (200, 307, 400, 404, 405, 422)
    if reply.status_code >= 400 and method != "HEAD":
        assert list(reply.json()) == ["error"]


@pytest.mark.slow
def test_thousands_of_requests_leave_nothing_behind(asker: Asker) -> None:
    once: Callable[[], list[int]] = lambda: fuzz(asker, 1_500)  # noqa: E731
    once()
    grown = []
    for _ in range(2):  # a leak is there each time, what the process of all tests is busy with is not
        before = resident_mb()
        assert len(once()) >= 1_500
        grown.append(resident_mb() - before)
        if grown[-1] < 25:
            break
    assert min(grown) < 25
