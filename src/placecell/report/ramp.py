"""The colour of an error, the same in every picture of a report: blue is good, red is bad, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

STOPS = ((0x3B, 0x7D, 0xD8), (0x5F, 0xB8, 0xC9), (0xF2, 0xC9, 0x4C), (0xEE, 0x84, 0x34), (0xC9, 0x18, 0x4A))
"""From good to bad; told apart by people with any colour vision."""
REFUSED = "#8a8f98"


@dataclass(frozen=True)
class Ramp:
    """A logarithmic scale from `low` to `high`; errors beyond them take the end colours."""

    low: float
    high: float

    @classmethod
    def of(cls, errors: Iterable[float]) -> Ramp:
        """The scale of the 5th to 95th percentile of the finite errors, at least a factor of four wide."""
        values = np.array([error for error in errors if np.isfinite(error) and error > 0])
        if not len(values):
            return cls(0.01, 1.0)
        low, high = np.percentile(values, (5, 95))
        return cls(float(low), float(max(high, 4 * low)))

    def level(self, error: float) -> float:
        """0 at `low` or below, 1 at `high` or above."""
        return float(np.clip(np.log(max(error, 1e-300) / self.low) / np.log(self.high / self.low), 0.0, 1.0))

    def colour(self, error: float) -> str:
        """`#rrggbb`; grey for an infinite error."""
        if not np.isfinite(error):
            return REFUSED
        place = self.level(error) * (len(STOPS) - 1)
        index = min(int(place), len(STOPS) - 2)
        a, b = np.array(STOPS[index]), np.array(STOPS[index + 1])
        red, green, blue = np.round(a + (place - index) * (b - a)).astype(int)
        return f"#{red:02x}{green:02x}{blue:02x}"


def css_gradient() -> str:
    """The ramp as a CSS background, left good, right bad."""
    return f"linear-gradient(90deg, {', '.join(f'#{bytes(stop).hex()}' for stop in STOPS)})"


def round_ticks(low: float, high: float) -> list[float]:
    """The 1-2-5 values from `low` to `high`; only powers of ten when those are many."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if np.log10(high / low) < 2.2 else (1,)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
