"""Files from the network that arrive whole: resumed after a break, checked, and renamed at the end."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from placecell.errors import PlacecellError
from placecell.log import Log

_CHUNK = 1 << 18
_PATIENCE_S = 30.0
_FOREVER = {400, 401, 403, 404, 405, 410, 451}


@dataclass(frozen=True)
class Remote:
    """A file to download."""

    url: str
    size: int | None = None
    """Bytes, where known; used to see beforehand that the disk has room."""
    checksum: str | None = None
    """`sha256:…` or `md5:…` as its publisher gives it; None where it gives none."""


@dataclass(frozen=True)
class _Partial:
    """What is known of a `.part` file: enough to ask for the rest of the same content."""

    url: str
    validator: str
    """Strong ETag or Last-Modified, to be sent as If-Range; empty when the server gave none."""
    total: int | None


class _Broken(Exception):
    """The transfer stopped; trying again may help."""


def download(
    remote: Remote,
    path: Path,
    *,
    log: Log,
    tries: int = 6,
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """Download to `path`; a file that is there already is kept.

    What arrives goes to `path` + `.part`, beside a note of what it is a part of. A broken transfer is resumed where
    it stopped (HTTP Range), at once or by a later call; if the file on the server changed meanwhile, or the server
    cannot tell, it starts again from nothing. Waits double from 1 s; a try that brought something
    does not count.

    Raises:
        PlacecellError: the server refuses (404, 403, …), the connection stays broken, the disk is full, or the size or
            the checksum is wrong. What is worth keeping of the `.part` file is kept.
    """
    if path.is_file():
        return path
    if urlsplit(remote.url).scheme not in ("http", "https"):
        raise PlacecellError(f"{remote.url}: not an http or https address; check --mirror")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_room(remote.size, part)
        _insist(remote, part, log, tries, wait)
        _require_checksum(remote, part)
        part.rename(path)
    except OSError as error:
        raise PlacecellError(_disk_trouble(path, error)) from error
    _note_of(part).unlink(missing_ok=True)
    return path


def _insist(remote: Remote, part: Path, log: Log, tries: int, wait: Callable[[float], None]) -> None:
    failures = 0
    while True:
        before = _length(part)
        try:
            return _transfer(remote, part, log)
        except _Broken as error:
            failures = 0 if _length(part) > before else failures + 1
            if failures >= tries:
                kept = f"; {_length(part)} bytes are kept" if part.is_file() else ""
                raise PlacecellError(
                    f"{remote.url}: {error}, {tries} times{kept}; run the same command later"
                ) from error
            log.warn(f"{remote.url}: {error}; trying again")
            wait(min(60.0, 2.0**failures))


def _transfer(remote: Remote, part: Path, log: Log) -> None:
    """One request for what is missing; returns when the part is complete."""
    have, known = _resumable(remote, part)
    if known is not None and known.total == have:
        return
    headers = {"User-Agent": "placecell", "Accept-Encoding": "identity"}
    if known is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    try:
        with urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=_PATIENCE_S) as reply:
            start, total = _span(reply.status, reply.headers)
            if (
                known is not None
                and reply.status == 206
                and (start != have or _validator(reply.headers) != known.validator)
            ):
                _forget(part)  # a server that minds neither Range nor If-Range
                raise _Broken("the file changed on the server")
            _require_room(total, part)
            partial = _Partial(remote.url, _validator(reply.headers), total)
            _note_of(part).write_text(json.dumps(asdict(partial)), encoding="utf-8")
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                _copy(reply, file, start, total, remote.url, log)
    except urllib.error.HTTPError as error:
        _refused(remote, part, error)
    except (HTTPException, ConnectionError, TimeoutError, ssl.SSLError, urllib.error.URLError) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _Broken(f"the connection broke ({str(why) or type(why).__name__})") from error


def _refused(remote: Remote, part: Path, error: urllib.error.HTTPError) -> None:
    with error:
        if error.code == 416:
            _forget(part)
            raise _Broken("the file changed on the server") from error
        if error.code in _FOREVER:
            raise PlacecellError(
                f"{remote.url}: the server answers {error.code} {error.reason}; "
                "the file may have moved, look at the data set's page or pass --mirror"
            ) from error
        raise _Broken(f"the server answers {error.code} {error.reason}") from error


def _copy(reply: IO[bytes], file: IO[bytes], start: int, total: int | None, url: str, log: Log) -> None:
    def chunks() -> Iterator[int]:
        done = start
        while chunk := reply.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            yield done
        if total is not None and done != total:
            raise _Broken(f"the connection broke at byte {done} of {total}")

    what = url.rsplit("/", 1)[-1]
    for _ in log.track(chunks(), what, None if total is None else -(-(total - start) // _CHUNK)):
        pass


def _span(status: int, headers: Message) -> tuple[int, int | None]:
    """First byte of the reply's body and the whole file's length."""
    length = headers.get("Content-Length")
    if status != 206:
        return 0, None if length is None else int(length)
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    try:
        return int(span.split("-")[0]), None if total == "*" else int(total)
    except ValueError:
        raise _Broken(f"the server sent a range without saying which ({headers.get('Content-Range')})") from None


def _validator(headers: Message) -> str:
    """Weak ETags promise equal meaning, not equal bytes (RFC 9110, 13.1.5), so they cannot guard a resumed file."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _resumable(remote: Remote, part: Path) -> tuple[int, _Partial | None]:
    """How much of the part can be kept, and what it is a part of."""
    try:
        known = _Partial(**json.loads(_note_of(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return 0, None
    have = _length(part)
    if known.url != remote.url or not known.validator or have == 0 or (known.total is not None and have > known.total):
        return 0, None
    return have, known


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require_room(size: int | None, part: Path) -> None:
    free = shutil.disk_usage(part.parent).free
    needed = 0 if size is None else size - _length(part)
    if needed > free:
        raise PlacecellError(f"{part.parent}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; make room")


def _require_checksum(remote: Remote, part: Path) -> None:
    if remote.checksum is None:
        return
    kind, _, expected = remote.checksum.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != expected.lower():
        _forget(part)
        raise PlacecellError(
            f"{remote.url}: {kind} is {found}, not {expected}; the file was damaged on its way or replaced by its "
            "publisher, and what came was deleted; try again"
        )


def _disk_trouble(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{path}: the disk is full; make room and run the same command, it goes on where it stopped"
    return f"{path} could not be written: {error.strerror or error}; choose a folder you own"
