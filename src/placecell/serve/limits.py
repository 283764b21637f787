"""How much the service takes before it says no, and how it says it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from placecell.errors import PlacecellError


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    picture_bytes: int = 20_000_000
    """Of one picture, as it is sent."""
    batch_bytes: int = 100_000_000
    """Of all pictures of a batch."""
    batch: int = 32
    """Pictures of a batch."""
    held_bytes: int = 400_000_000
    """Of all requests that are being sent or wait."""
    pixels: int = 50_000_000
    """Of one picture, read from its header before anything is decoded."""
    together: int = 8
    """Pictures of different requests that a quick map is asked about in one call."""
    queue: int = 64
    """Requests that wait for the worker; one more is told to come back."""
    upload_s: float = 10.0
    """How long sending a request may take."""
    answer_s: float = 20.0
    """How long an answer may take, the wait for the worker with it."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise PlacecellError(f"--{item.name.replace('_', '-')} has to be positive")


class Problem(Exception):
    """A request that is not answered with a pose or a refusal: what the client did wrong, or the service cannot."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message

    @property
    def shape(self) -> dict[str, dict[str, str]]:
        """The body of the answer, the same for every problem."""
        return {"error": {"kind": self.kind, "message": self.message}}
