"""A client of the service, with the standard library alone.

client = Client("http://127.0.0.1:8000")
print(client.localize(Path("photo.jpg")).world_from_cam)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from placecell.errors import PlacecellError
from placecell.estimate import Estimate, estimate_from_json


class ServiceError(PlacecellError):
    """The service answered with a problem, or not at all."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.status, self.kind = status, kind


@dataclass(frozen=True)
class Client:
    """A service at an address."""

    url: str
    token: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0

    def localize(self, picture: Path | bytes, *, map: str | None = None, focal_px: float | None = None) -> Estimate:
        """Where a picture file, or its content, was taken; an answer without a pose has a reason.

        Raises:
            ServiceError: the service does not take the picture, or cannot be reached.
        """
        name = picture.name if isinstance(picture, Path) else "picture"
        content = picture.read_bytes() if isinstance(picture, Path) else picture
        told = {"name": name, "map": map, "focal_px": focal_px}
        return estimate_from_json(self._json("/v1/localize", told, content))

    def maps(self) -> list[dict[str, Any]]:
        """What the service says of its maps.

        Raises:
            ServiceError: the service cannot be reached.
        """
        found: list[dict[str, Any]] = self._json("/v1/maps", {})
        return found

    def ready(self) -> bool:
        """Whether the service would answer now."""
        try:
            self._json("/ready", {})
        except ServiceError:
            return False
        return True

    def _json(self, path: str, told: Mapping[str, Any], content: bytes | None = None) -> Any:
        words = urlencode({key: value for key, value in told.items() if value is not None})
        request = Request(f"{self.url.rstrip('/')}{path}?{words}", data=content)
        if content is not None:
            request.add_header("Content-Type", "application/octet-stream")
        if self.token is not None:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urlopen(request, timeout=self.timeout_s) as reply:
                return json.load(reply)
        except HTTPError as error:
            with error:
                told = _problem(error.read())
            raise ServiceError(error.code, told["kind"], told["message"]) from error
        except (URLError, OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise ServiceError(0, "unreachable", f"{self.url}: {why}; is it running?") from error


def _problem(body: bytes) -> Mapping[str, str]:
    try:
        problem: Mapping[str, str] = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {"kind": "strange", "message": "this does not answer like placecell"}
    return problem
