"""What waits together is answered together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from placecell.estimate import Estimate, Query
from placecell.serve.counters import Counters
from placecell.serve.desk import Asked, MapDesk, Question
from placecell.serve.limits import Limits, Problem
from placecell.serve.pictures import Sent
from placecell.serve.served import Served
from serve.conftest import Echo, asked, jpeg, problem


async def behind_a_gate(web: httpx.AsyncClient, echo: Echo, paths: Sequence[str], content: dict[str, bytes]) -> list:
    """The replies to requests that waited while another one was being answered."""
    await web.post("/v1/localize?name=first&map=echo", content=jpeg(64, 48))  # the desk learns that the map is quick
    gate, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        gate.wait(30)

    echo.before = wait
    held = asyncio.ensure_future(web.post("/v1/localize?name=held&map=echo", content=jpeg(64, 48)))
    while not begun.is_set():
        await asyncio.sleep(0.005)
    waiting = [asyncio.ensure_future(web.post(path, content=content.get(path, jpeg(64, 48)))) for path in paths]
    for _ in range(20):  # all of them reach the queue
        await asyncio.sleep(0.01)
    echo.before = lambda: None
    gate.set()
    await held
    return [await one for one in waiting]


def path(name: str, map_name: str = "echo") -> str:
    return f"/v1/localize?map={map_name}&name={name}&focal_px={100 + sum(map(ord, name))}"


def test_those_that_wait_are_joined_and_each_gets_its_own(echoing: dict[str, Served], echo: Echo) -> None:
    names = [f"p{index}" for index in range(11)]
    content = {path(name): jpeg(64 + 2 * index, 48) for index, name in enumerate(names)}
    replies = asked(
        echoing, lambda web: behind_a_gate(web, echo, list(content), content), limits=Limits(together=8, queue=20)
    )
    for index, (name, reply) in enumerate(zip(names, replies, strict=True)):
        row = reply.json()
        assert reply.status_code == 200 and row["name"] == name
        assert row["t"][:2] == [100 + sum(map(ord, name)), 64 + 2 * index]
    calls = [call for call in echo.calls if call[0].startswith("p")]
    assert [len(call) for call in calls] == [8, 3]  # no more at once than is said
    assert [name for call in calls for name in call] == names  # in the order they came


def test_what_is_wrong_with_one_does_not_touch_the_others(echoing: dict[str, Served], echo: Echo) -> None:
    content = {path("bad"): b"no picture", path("cut"): jpeg(64, 48)[:200], path("blank"): jpeg(16, 16)}
    paths = [path("a"), path("bad"), path("b"), path("cut"), path("blank"), path("c"), path("d") + "&shape=ros"]
    a, bad, b, cut, blank, c, d = asked(echoing, lambda web: behind_a_gate(web, echo, paths, content))
    assert [reply.json()["name"] for reply in (a, b, c)] == ["a", "b", "c"]
    assert problem(bad) == problem(cut) == (422, "bad-picture")
    assert "too small" in blank.json()["reason"] and list(d.json()) == ["header", "pose"]
    assert ["a", "b", "blank", "c", "d"] in echo.calls


def test_no_more_wait_than_is_said(echoing: dict[str, Served], echo: Echo) -> None:
    paths = [path(f"p{index}") for index in range(7)]
    replies = asked(echoing, lambda web: behind_a_gate(web, echo, paths, {}), limits=Limits(queue=4))
    assert [reply.status_code for reply in replies] == [200] * 4 + [503] * 3
    assert {problem(reply) for reply in replies[4:]} == {(503, "busy")}
    assert ["p0", "p1", "p2", "p3"] in echo.calls


class Allergic(Echo):
    """A map that a picture of one name breaks."""

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        found = super().localize(queries)
        if any(query.name == "poison" for query in queries):
            raise RuntimeError("a bug")
        return found


def test_a_bug_is_answered_to_who_met_it(echoing: dict[str, Served]) -> None:
    allergic = Allergic()
    maps = {"echo": replace(echoing["echo"], localizer=allergic)}  # type: ignore[arg-type]
    paths = [path("a"), path("poison"), path("b")]
    a, poison, b = asked(maps, lambda web: behind_a_gate(web, allergic, paths, {}))
    assert (a.json()["name"], b.json()["name"]) == ("a", "b") and problem(poison) == (500, "bug")
    assert ["a", "poison", "b"] in allergic.calls


def test_maps_are_not_mixed(echoing: dict[str, Served], echo: Echo) -> None:
    other = Echo()
    maps = {**echoing, "other": replace(echoing["echo"], name="other", localizer=other)}  # type: ignore[arg-type]
    paths = [path("a"), path("x", "other"), path("b"), path("y", "other")]
    replies = asked(maps, lambda web: behind_a_gate(web, echo, paths, {}))
    assert [reply.json()["map"] for reply in replies] == ["echo", "other", "echo", "other"]
    assert ["a", "b"] in echo.calls and not {"x", "y"} & {name for call in echo.calls for name in call}


def test_one_that_waited_too_long_is_told_so_and_not_answered(echoing: dict[str, Served], echo: Echo) -> None:
    async def talk(web: httpx.AsyncClient) -> list[Any]:
        await web.post(path("first"), content=jpeg(64, 48))
        gate, begun = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            gate.wait(30)

        echo.before = wait
        held = asyncio.ensure_future(web.post(path("held"), content=jpeg(64, 48)))
        while not begun.is_set():
            await asyncio.sleep(0.005)
        late = await asyncio.gather(*(web.post(path(f"late{k}"), content=jpeg(64, 48)) for k in range(3)))
        echo.before = lambda: None
        gate.set()
        return [*late, await held, await web.post(path("next"), content=jpeg(64, 48))]

    *late, held, following = asked(echoing, talk, limits=Limits(answer_s=0.6))
    assert {problem(reply) for reply in (*late, held)} == {(503, "too-slow")} and following.status_code == 200
    assert not [name for call in echo.calls for name in call if name.startswith("late")]


@pytest.fixture
def desk(echoing: dict[str, Served]) -> MapDesk:
    return MapDesk(echoing["echo"], Limits(together=4), Counters())


def question(name: str, content: bytes) -> Question:
    return Question(Sent(name, content, {}), Asked(), 0.0)


def test_a_slow_map_answers_one_at_a_time(desk: MapDesk, echo: Echo) -> None:
    assert desk.room == 1  # nothing is known of it
    echo.before = lambda: time.sleep(0.06)
    desk([question("a", jpeg(64, 48))])
    assert desk.room == 1
    echo.before = lambda: None
    desk([question("b", jpeg(16, 16))])
    assert desk.room == 1  # a refusal is quick, and says nothing
    desk([question("c", jpeg(64, 48))])
    assert desk.room == 4


def test_large_pictures_are_not_held_together(desk: MapDesk, echo: Echo) -> None:
    desk([question("a", jpeg(64, 48))])
    large = jpeg(2400, 2000)
    found = desk([question("b", large), question("c", large), question("d", jpeg(64, 48)), question("e", b"")])
    assert echo.calls[1:] == [["b"], ["c", "d"]]
    assert [isinstance(one, dict) for one in found] == [True, True, True, False] and isinstance(found[3], Problem)
