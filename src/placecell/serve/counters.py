"""What the service counts, as Prometheus reads it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counters:
    """Requests by path and status, answers by map and outcome, and how long answers took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._answers: Counter[tuple[str, str]] = Counter()
        self._calls: Counter[str] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def asked(self, path: str, status: int) -> None:
        """A request has been answered; `path` is that of the route, so that nobody can make the table grow."""
        with self._lock:
            self._requests[path, status] += 1

    def called(self, map_name: str, seconds: float, placed: Sequence[bool]) -> None:
        """A map has placed or refused some pictures in one call; each counts with its share of the time."""
        share = seconds / len(placed)
        with self._lock:
            self._calls[map_name] += 1
            buckets = self._buckets.setdefault(map_name, [0] * (len(_BOUNDS_S) + 1))
            for one in placed:
                self._answers[map_name, "placed" if one else "refused"] += 1
                buckets[bisect_left(_BOUNDS_S, share)] += 1
            self._seconds[map_name] += seconds  # type: ignore[assignment]

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything in the text format of Prometheus, with `gauges` of the moment."""
        with self._lock:
            lines = ["# TYPE placecell_requests_total counter"]
            for (path, status), count in sorted(self._requests.items()):
                lines.append(f'placecell_requests_total{{path="{_label(path)}",status="{status}"}} {count}')
            lines.append("# TYPE placecell_pictures_total counter")
            for (name, outcome), count in sorted(self._answers.items()):
                lines.append(f'placecell_pictures_total{{map="{_label(name)}",outcome="{outcome}"}} {count}')
            lines.append("# TYPE placecell_calls_total counter")
            lines += [f'placecell_calls_total{{map="{_label(name)}"}} {n}' for name, n in sorted(self._calls.items())]
            lines.append("# TYPE placecell_answer_seconds histogram")
            for name, buckets in sorted(self._buckets.items()):
                lines += _histogram(_label(name), buckets, self._seconds[name])
        for name, value in gauges.items():
            lines += [f"# TYPE placecell_{name} gauge", f"placecell_{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _histogram(name: str, buckets: list[int], seconds: float) -> list[str]:
    lines, below = [], 0
    for bound, count in zip((*(f"{bound:g}" for bound in _BOUNDS_S), "+Inf"), buckets, strict=True):
        below += count
        lines.append(f'placecell_answer_seconds_bucket{{map="{name}",le="{bound}"}} {below}')
    lines.append(f'placecell_answer_seconds_sum{{map="{name}"}} {seconds:.6f}')
    return [*lines, f'placecell_answer_seconds_count{{map="{name}"}} {below}']


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
