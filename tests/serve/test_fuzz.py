"""The service asked everything that its own OpenAPI allows, and what it does not: no 500, no hang, no growth."""

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

from damaging import damaged_files, resident_mb, whole_files
from placecell.camera import Camera
from placecell.localizer import MapInfo
from placecell.serve.app import make_app
from placecell.serve.limits import Limits
from placecell.serve.served import Served
from serve.conftest import Echo, jpeg

Spec = dict[str, Any]


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


def disagreements(value: Any, schema: Spec, spec: Spec, where: str = "") -> list[str]:
    """How a JSON value departs from its schema; of JSON Schema what the description uses."""
    if "$ref" in schema:
        return disagreements(value, spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]], spec, where)
    if "anyOf" in schema:
        tried = [disagreements(value, each, spec, where) for each in schema["anyOf"]]
        return [] if [] in tried else min(tried, key=len)
    kinds = {"string": str, "number": (int, float), "integer": int, "boolean": bool, "null": type(None)}
    kinds |= {"object": dict, "array": list}
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind in ("number", "integer"))
    ):
        return [f"{where}: {value!r} is no {kind}"]
    if isinstance(value, dict):
        found = [f"{where}: lacks {key}" for key in schema.get("required", ()) if key not in value]
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        for key, item in value.items():
            if known and key not in known and others in ({}, False):
                found.append(f"{where}: {key} is not described")
            each = known.get(key, others if isinstance(others, dict) else {})
            found += disagreements(item, each, spec, f"{where}.{key}")
        return found
    if isinstance(value, list):
        return [text for item in value for text in disagreements(item, schema.get("items", {}), spec, f"{where}[]")]
    return []


def test_the_checker_checks(asker: Asker) -> None:
    schema: Spec = {"$ref": "#/components/schemas/ProblemShape"}
    assert disagreements({"error": {"kind": "a", "message": "b"}}, schema, asker.spec) == []
    assert disagreements({"error": {"kind": 3, "message": "b"}}, schema, asker.spec)
    assert disagreements({"error": {"kind": "a"}}, schema, asker.spec)
    assert disagreements({}, schema, asker.spec) and disagreements([], schema, asker.spec)


def values_of(schema: Spec) -> st.SearchStrategy[str]:
    """Texts for a parameter: what its schema allows, and what it does not."""
    wild = st.one_of(
        st.text(max_size=40),
        st.sampled_from(["", "nan", "inf", "-inf", "1e400", "-0", "0x10", "١٢", "\0", "\n", "a" * 5_000, "null", "[]"]),
    )
    fine: list[st.SearchStrategy[str]] = []
    for each in schema.get("anyOf", [schema]):
        if "enum" in each:
            fine.append(st.sampled_from(each["enum"]))
        elif each.get("type") == "number":
            fine += [st.floats().map(repr), st.floats(30, 3000).map(repr), st.integers().map(str)]
        elif each.get("type") == "boolean":
            fine.append(st.sampled_from(["true", "false", "1", "0", "yes"]))
        elif each.get("type") == "string":
            fine += [st.sampled_from(["echo", "other"]), st.text(max_size=20)]
    return st.one_of(*fine, *fine, *fine, wild)


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
def requests(draw: st.DrawFn, spec: Spec) -> tuple[str, str, dict[str, Any], Spec]:
    """Method, path, the rest, and what is described of it."""
    path = draw(st.sampled_from(sorted(spec["paths"])))
    method = draw(st.sampled_from(sorted(spec["paths"][path])))
    operation = spec["paths"][path][method]
    words = [
        (parameter["name"], draw(values_of(parameter["schema"])))
        for parameter in operation.get("parameters", ())
        if draw(st.integers(0, 2)) == 0 or parameter["name"] == "map"
    ]
    words += draw(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=2))
    told: dict[str, Any] = {"params": words}
    if "requestBody" in operation:
        body, kind = draw(bodies(operation["requestBody"]["content"]))
        told |= {"content": body, "headers": {"Content-Type": kind}}
    return method.upper(), path, told, operation


def asked_and_judged(asker: Asker, request: tuple[str, str, dict[str, Any], Spec]) -> int:
    method, path, told, operation = request
    reply = asker.ask(method, path, **told)
    assert str(reply.status_code) in operation["responses"], (reply.status_code, reply.text[:300])
    described = operation["responses"][str(reply.status_code)].get("content", {})
    kind = reply.headers["content-type"].partition(";")[0]
    assert kind in described, (kind, list(described))
    if kind == "application/json":
        row = json.loads(reply.text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        schema = described[kind].get("schema", {})
        if told.get("params") and ("shape", "ros") in told["params"] and reply.status_code == 200:
            assert list(row) == ["header", "pose"]
        else:
            assert disagreements(row, schema, asker.spec) == []
    return reply.status_code


def fuzz(asker: Asker, examples: int) -> list[int]:
    statuses: list[int] = []

    @given(requests(asker.spec))
    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    def many(request: tuple[str, str, dict[str, Any], Spec]) -> None:
        statuses.append(asked_and_judged(asker, request))

    many()
    return statuses


def test_whatever_is_asked_is_answered_as_described(asker: Asker) -> None:
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
    before = resident_mb()
    assert len(once()) >= 1_500
    assert resident_mb() - before < 25
