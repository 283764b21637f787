"""Reading what a client sends, within limits of size and time, raw or as multipart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from placecell.serve.limits import Limits, Problem


class Part(NamedTuple):
    """A picture of a request."""

    name: str
    content: bytes


async def body_of(request: Request, most: int, limits: Limits, came: Callable[[int], None]) -> bytes:
    """The body of a request; `came` is told of its bytes as they come, and may refuse them.

    Raises:
        Problem: longer than `most` bytes or than it says, shorter than it says, or sent too slowly.
    """
    declared = request.headers.get("content-length")
    if declared is not None and not (declared.isascii() and declared.isdecimal()):
        raise Problem(400, "bad-length", "Content-Length is not a number of bytes")
    too_long = Problem(413, "too-many-bytes", f"at most {most} bytes are taken; send a smaller picture")
    if declared is not None and int(declared) > most:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(limits.upload_s):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise too_long
                came(len(chunk))
    except TimeoutError:
        raise Problem(408, "slow-upload", f"the body did not arrive within {limits.upload_s:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "bad-length", "the connection ended before the body did") from None
    if declared is not None and int(declared) != len(content):
        raise Problem(400, "bad-length", f"Content-Length says {declared} bytes, {len(content)} came")
    return bytes(content)


def pictures_in(request: Request, body: bytes, most: int) -> list[Part]:
    """The pictures of a body: all of it, or the parts of a multipart form that have a file name.

    Raises:
        Problem: there is none, there are more than `most`, or the form is damaged.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        parts = [Part(request.query_params.get("name") or "picture", body)] if body else []
    else:
        parts = _parts(body, options.get(b"boundary", b""), most)
    if not parts:
        raise Problem(400, "no-picture", "send a picture as the body, or as a file of a multipart form")
    if len(parts) > most:
        raise Problem(413, "too-many-pictures", f"at most {most} pictures are taken at once")
    return parts


def _parts(body: bytes, boundary: bytes, most: int) -> list[Part]:
    collector = _Collector(most)
    damaged = Problem(400, "bad-form", "the multipart form is damaged or has no boundary")
    if not boundary:
        raise damaged
    try:
        parser = MultipartParser(boundary, collector.callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except Problem:
        raise
    except Exception as error:  # its own exceptions, and what strange boundaries raise
        raise damaged from error
    if not collector.ended:
        raise damaged
    return collector.parts


class _Collector:
    """Callbacks of the parser that keep the parts with a file name."""

    def __init__(self, most: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._most = most
        self._field, self._value = bytearray(), bytearray()
        self._content = bytearray()
        self._name: str | None = None
        self.callbacks: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._close,
        }

    def _begin(self) -> None:
        self._name = None
        self._content = bytearray()

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            if b"filename" in options:
                self._name = options[b"filename"].decode("utf-8", "replace")[:200] or "picture"
        self._field, self._value = bytearray(), bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None:
            self._content += data[start:end]

    def _end(self) -> None:
        if self._name is None:
            return
        if len(self.parts) == self._most:
            raise Problem(413, "too-many-pictures", f"at most {self._most} pictures are taken at once")
        self.parts.append(Part(self._name, bytes(self._content)))

    def _close(self) -> None:
        self.ended = True
