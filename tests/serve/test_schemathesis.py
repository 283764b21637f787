"""The service asked by schemathesis for everything that its own OpenAPI allows, and for what it forbids.

Every check is on. What damaged pictures and damaged forms come to is asked in test_fuzz.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from hypothesis import strategies as st

from damaging import whole_files
from placecell.camera import Camera
from placecell.localizer import MapInfo
from placecell.serve.app import make_app
from placecell.serve.limits import Limits
from placecell.serve.served import Served
from serve.conftest import Echo, jpeg

pytestmark = pytest.mark.slow

POSTS = ("/v1/localize", "/v1/localize-batch")
GETS = ("/v1/maps", "/metrics", "/health", "/ready")
# OpenAPI cannot say which focal lengths go with a picture, that some parameters exclude each other, what is a picture,
# or how many pixels a service was told to take: what keeps to the description may be 413 or 422 there, yet never 400.
POSTED = {"positive_data_acceptance": {"expected-statuses": ["2xx", "401", "404", "413", "422"]}}
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "continue-on-failure": True,
    "generation": {"deterministic": True, "database": "none", "max-examples": 200},
    "phases": {"stateful": {"enabled": False}},  # no answer names anything that another request could ask for
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "401"]}},
    "operations": [{"include-path": path, "checks": POSTED} for path in POSTS],
    "dictionaries": {"maps": {"values": ["echo"]}, "lengths": {"values": [40.0, 400.0]}},
    "parameters": {
        "query.map": {"dictionary": "maps", "probability": 0.8},
        "query.focal_px": {"dictionary": "lengths", "probability": 0.5},
        "query.fx": {"dictionary": "lengths", "probability": 0.5},
    },
}


class Asked(NamedTuple):
    """What came of a run."""

    answers: Counter[tuple[str, int]]
    """By path and status."""
    passed: Counter[str]
    """By check."""
    wrong: dict[tuple[str, str], str]
    """The first failure of each operation and check, with the request that led to it."""

    def record(self, recorder: Any) -> None:
        """Take over what schemathesis has recorded of an operation."""
        path = recorder.label.split()[1]
        for asked in recorder.interactions.values():
            assert asked.response is not None, recorder.label
            self.answers[path, asked.response.status_code] += 1
        for check in (check for checks in recorder.checks.values() for check in checks):
            if check.failure_info is None:
                self.passed[check.name] += 1
            else:
                text = f"{check.failure_info.failure.message}\n{check.failure_info.code_sample[:2_000]}"
                self.wrong.setdefault((recorder.label, check.name), text)


def service(token: str | None = None, echo: Echo | None = None) -> FastAPI:
    """A service of one map."""
    info = MapInfo("echo", {}, "room", "0" * 16, "none", metric=True, seed=0)
    camera = Camera.from_focal(480, 360, 400.0)
    served = Served("echo", info, "f" * 16, echo or Echo(), camera, None)  # type: ignore[arg-type]
    app = make_app({"echo": served}, token=token, limits=Limits(pixels=1_000_000, picture_bytes=100_000, batch=4))
    for schema in app.openapi()["components"]["schemas"].values():  # clients may be told more one day, not unawares
        schema.setdefault("additionalProperties", False)
    return app


def asked(app: FastAPI, examples: int = 200, **told: Any) -> Asked:
    """All phases of schemathesis over all operations; files and bodies are pictures more often than not."""
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.config import SchemathesisConfig
    from schemathesis.engine import events, from_schema
    from schemathesis.python.asgi import shutdown_lifespans

    pictures = st.sampled_from([jpeg(64, 48), jpeg(480, 360), jpeg(1200, 900), *whole_files(), b"no picture", b"\0"])
    schemathesis.openapi.format("binary", pictures)
    for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, pictures)
    settings = SETTINGS | told | {"generation": SETTINGS["generation"] | {"max-examples": examples}}
    found = Asked(Counter(), Counter(), {})
    try:
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=SchemathesisConfig.from_dict(settings))
        for event in from_schema(schema).execute():
            if isinstance(event, events.FatalError):
                raise event.exception
            assert not isinstance(event, events.NonFatalError), event.value
            if isinstance(event, events.ScenarioFinished):
                found.record(event.recorder)
    finally:
        shutdown_lifespans()
    return found


def test_the_service_is_what_it_says() -> None:
    found = asked(service())
    assert found.wrong == {}
    # it has come to the answers, not only to the first refusal
    for path in POSTS:
        assert all(found.answers[path, status] for status in (200, 404, 405, 413, 422)), found.answers
    assert all(found.answers[path, 200] and found.answers[path, 405] for path in GETS)
    assert not any(status == 401 for _, status in found.answers)
    for check in ("response_schema_conformance", "negative_data_rejection", "positive_data_acceptance"):
        assert found.passed[check] > 200


def test_the_token_is_asked_for_where_the_description_says_so() -> None:
    found = asked(service(token="secret"), examples=60)
    assert found.wrong == {}  # nothing is answered without, or with a token that was made up
    assert all(found.answers[path, 401] and not found.answers[path, 200] for path in (*POSTS, *GETS[:2]))
    assert all(found.answers[path, 200] and not found.answers[path, 401] for path in GETS[2:])
    known = asked(service(token="secret"), examples=60, headers={"Authorization": "Bearer secret"})
    assert known.wrong == {}
    assert all(known.answers[path, 200] for path in (*POSTS, *GETS))


def test_bugs_and_wrong_descriptions_are_found() -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        asked(service(echo=Echo(before=bug)), examples=60)
    app = service()
    shapes = app.openapi()["components"]["schemas"]
    del shapes["Answer"]["properties"]["confidence"]
    shapes["RosStamp"]["properties"]["nanosec"]["type"] = "string"
    found = asked(app, examples=60)
    assert set(found.wrong) == {(f"POST {path}", "response_schema_conformance") for path in POSTS}
