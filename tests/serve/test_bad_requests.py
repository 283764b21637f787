"""What a service meets: bombs, lies, crowds, damage. No 500, no hang."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from placecell.serve.limits import Limits
from placecell.serve.served import Served
from serve.conftest import Echo, asked, jpeg, post, problem


def png_bomb(side: int) -> bytes:
    """A PNG of side x side white pixels in a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def held_by(gate: threading.Event, begun: threading.Event | None = None) -> Callable[[], None]:
    """Work that waits at a gate."""

    def wait() -> None:
        if begun is not None:
            begun.set()
        gate.wait(60)

    return wait


class TestPictures:
    @pytest.mark.parametrize(
        "content",
        [
            b"\0",
            b"GIF89a",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"%PDF-1.7",
            b"II*\0\xff\xff\xff\xff",
            b"P6\n-1 -1\n255\n",
        ],
    )
    def test_no_pictures_are_told_so(self, content: bytes, echoing: dict[str, Served]) -> None:
        assert problem(post(echoing, content)) == (422, "bad-picture")

    def test_no_body_is_no_picture(self, echoing: dict[str, Served]) -> None:
        assert problem(post(echoing, b"")) == (400, "no-picture")

    def test_a_picture_cut_short_is_told_so(self, echoing: dict[str, Served]) -> None:
        whole = jpeg()
        assert problem(post(echoing, whole[: len(whole) // 2])) == (422, "bad-picture")

    @pytest.mark.parametrize("side", [8_000, 30_000, 2**31 - 1])
    def test_a_bomb_is_not_decoded(self, side: int, echoing: dict[str, Served], echo: Echo) -> None:
        began = time.monotonic()
        status, kind = problem(post(echoing, png_bomb(side)))
        assert (status, kind) in ((413, "too-many-pixels"), (422, "bad-picture"))
        assert time.monotonic() - began < 5 and (side, side) not in echo.sizes

    def test_a_huge_exif_does_no_harm(self, echoing: dict[str, Served]) -> None:
        tags = Image.Exif()
        tags[0x010E] = "x" * 60_000
        assert post(echoing, jpeg(exif=tags)).status_code == 200

    def test_mutated_pictures_are_answered_or_refused(self, echoing: dict[str, Served]) -> None:
        rng = np.random.default_rng(0)
        buffer = BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(buffer, "PNG")
        sources = [jpeg(64, 48), buffer.getvalue()]

        async def talk(web: httpx.AsyncClient) -> set[int]:
            found = set()
            for index in range(120):
                content = bytearray(sources[index % 2])
                for _ in range(int(rng.integers(1, 30))):
                    content[int(rng.integers(2, len(content)))] = int(rng.integers(0, 256))
                found.add((await web.post("/v1/localize", content=bytes(content))).status_code)
            return found

        assert asked(echoing, talk) <= {200, 413, 422}


class TestBodies:
    def test_too_many_bytes_are_refused_before_they_are_read(self, echoing: dict[str, Served]) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1
                yield b"\0" * 1000

        limits = Limits(picture_bytes=5000)
        assert problem(post(echoing, b"\0" * 6000, limits=limits)) == (413, "too-many-bytes")
        assert problem(post(echoing, endless(), limits=limits)) == (413, "too-many-bytes")
        assert sent < 20

    @pytest.mark.parametrize(
        "length, status", [("400000", 400), ("3", 400), ("many", 400), ("-1", 400), ("99999999999", 413)]
    )
    def test_a_lie_about_the_length_is_told(self, length: str, status: int, echoing: dict[str, Served]) -> None:
        reply = post(echoing, jpeg(), headers={"Content-Length": length})
        assert problem(reply)[0] == status

    def test_a_slow_sender_is_cut_off(self, echoing: dict[str, Served]) -> None:
        async def dripping() -> AsyncIterator[bytes]:
            while True:
                yield b"\xff"
                await asyncio.sleep(0.02)

        began = time.monotonic()
        assert problem(post(echoing, dripping(), limits=Limits(upload_s=0.2))) == (408, "slow-upload")
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize(
        "kind, body, expected",
        [
            ("multipart/form-data", b"x", 400),
            ("multipart/form-data; boundary=b", b"no form", 400),
            ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=image; filename=a", 400),
            (
                "multipart/form-data; boundary=b",
                b"--b\r\nContent-Disposition: form-data; name=q\r\n\r\nx\r\n--b--\r\n",
                400,
            ),
            ("multipart/form-data; boundary=" + "b" * 5000, b"--b", 400),
        ],
    )
    def test_damaged_forms_are_refused(self, kind: str, body: bytes, expected: int, echoing: dict[str, Served]) -> None:
        assert problem(post(echoing, body, headers={"Content-Type": kind}))[0] == expected

    def test_more_pictures_than_are_taken_are_refused(self, echoing: dict[str, Served]) -> None:
        files = [("image", ("a.jpg", jpeg(32, 32), "image/jpeg"))] * 4
        reply = asked(echoing, lambda web: web.post("/v1/localize-batch", files=files), limits=Limits(batch=3))
        assert problem(reply) == (413, "too-many-pictures")
        assert problem(asked(echoing, lambda web: web.post("/v1/localize", files=files)))[0] == 413


class TestCrowds:
    def test_many_small_requests_are_all_answered(self, echoing: dict[str, Served]) -> None:
        async def talk(web: httpx.AsyncClient) -> set[tuple[int, float]]:
            replies = await asyncio.gather(
                *(web.post(f"/v1/localize?name={i}", content=jpeg(64, 48)) for i in range(40))
            )
            assert [reply.json()["name"] for reply in replies] == [str(i) for i in range(40)]
            return {(reply.status_code, reply.json()["t"][1]) for reply in replies}

        assert asked(echoing, talk) == {(200, 64.0)}

    def test_a_full_queue_says_come_back(self, echoing: dict[str, Served], echo: Echo) -> None:
        gate, begun = threading.Event(), threading.Event()

        async def talk(web: httpx.AsyncClient) -> list[int]:
            while (await web.get("/ready")).status_code != 200:
                await asyncio.sleep(0.01)
            echo.before = held_by(gate, begun)
            waiting = [asyncio.ensure_future(web.post("/v1/localize", content=jpeg()))]
            while not begun.is_set():  # the first has begun, so that the others wait
                await asyncio.sleep(0.01)
            try:
                waiting += [asyncio.ensure_future(web.post("/v1/localize", content=jpeg())) for _ in range(7)]
                while (await web.get("/ready")).status_code == 200:  # until enough of them wait
                    await asyncio.sleep(0.01)
                reply = await web.post("/v1/localize", content=jpeg())
                assert problem(reply) == (503, "busy") and reply.headers["retry-after"] == "1"
                assert problem(await web.get("/ready")) == (503, "busy")
            finally:
                gate.set()  # or the service would wait for ever to close
            return [(await one).status_code for one in waiting]

        statuses = asked(echoing, talk, limits=Limits(queue=3))
        assert set(statuses) == {200, 503} and statuses.count(200) >= 3

    def test_bytes_on_their_way_are_counted_and_forgotten(self, echoing: dict[str, Served]) -> None:
        content = jpeg()
        limits = Limits(held_bytes=len(content) + 10)

        async def half() -> AsyncIterator[bytes]:
            yield content[:20]
            await asyncio.sleep(1.0)
            yield content[20:]

        async def talk(web: httpx.AsyncClient) -> tuple[int, int, int]:
            slow = asyncio.ensure_future(web.post("/v1/localize", content=half()))
            await asyncio.sleep(0.3)
            second = await web.post("/v1/localize", content=content)
            assert problem(second) == (503, "busy")
            first = await slow
            third = await web.post("/v1/localize", content=content)
            return first.status_code, second.status_code, third.status_code

        assert asked(echoing, talk, limits=limits) == (200, 503, 200)

    def test_an_answer_that_takes_too_long_is_given_up(self, echoing: dict[str, Served], echo: Echo) -> None:
        gate = threading.Event()

        async def talk(web: httpx.AsyncClient) -> tuple[int, str]:
            while (await web.get("/ready")).status_code != 200:
                await asyncio.sleep(0.01)
            echo.before = held_by(gate)
            reply = await web.post("/v1/localize", content=jpeg())
            gate.set()
            echo.before = lambda: None
            assert (await web.post("/v1/localize", content=jpeg())).status_code == 200
            return problem(reply)

        assert asked(echoing, talk, limits=Limits(answer_s=1.0)) == (503, "too-slow")

    def test_what_was_accepted_is_answered_when_the_service_closes(
        self, echoing: dict[str, Served], echo: Echo
    ) -> None:
        from placecell.serve.worker import Worker

        done: list[int] = []

        async def talk() -> list[int]:
            worker = Worker(Limits())

            def work(index: int) -> int:
                time.sleep(0.02)
                done.append(index)
                return index

            tasks = [asyncio.ensure_future(worker.answer(lambda i=i: work(i))) for i in range(5)]  # type: ignore[misc]
            await asyncio.sleep(0.01)
            await asyncio.to_thread(worker.close)
            return [await task for task in tasks]

        assert asyncio.run(talk()) == [0, 1, 2, 3, 4] == done

    def test_a_bug_is_a_500_in_the_same_shape_and_no_more_than_that(
        self, echoing: dict[str, Served], echo: Echo, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> None:
            raise RuntimeError("secret path /home/me")

        async def talk(web: httpx.AsyncClient) -> str:
            while (await web.get("/ready")).status_code != 200:
                await asyncio.sleep(0.01)
            echo.before = broken
            reply = await web.post("/v1/localize", content=jpeg())
            assert problem(reply) == (500, "bug")
            echo.before = lambda: None
            assert (await web.post("/v1/localize", content=jpeg())).status_code == 200
            return reply.text

        assert "secret" not in asked(echoing, talk)
        assert "secret path" in caplog.text
