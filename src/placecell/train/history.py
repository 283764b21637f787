"""The numbers of every step: kept in checkpoints, shown in training.csv while training runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from placecell import atomic
from placecell.errors import PlacecellError

Row = Mapping[str, float]


class History:
    """Rows of `step`, `loss` and its parts, `learning_rate`, `val_…` where validated, and `seconds` since the start."""

    def __init__(self, rows: Iterable[Row] = (), live: Path | None = None) -> None:
        self.rows = list(rows)
        self.live = live
        self._columns: list[str] = []
        self._write()

    def add(self, row: Row) -> None:
        """Append a row, to the live file too.

        Raises:
            PlacecellError: the file cannot be written.
        """
        self.rows.append(row)
        if not row.keys() <= set(self._columns):
            self._write()
        elif self.live is not None:
            try:
                with self.live.open("a", encoding="utf-8", newline="\n") as file:
                    file.write(_line(row, self._columns))
            except OSError as error:
                text = f"{self.live} could not be written: {error.strerror}; free some space and run the command again"
                raise PlacecellError(text) from error

    @property
    def seconds(self) -> float:
        """How long the steps so far took, over all the runs that made them."""
        return self.rows[-1]["seconds"] if self.rows else 0.0

    @property
    def validation(self) -> dict[str, float]:
        """The last validation; empty when there was none."""
        validated = (row for row in reversed(self.rows) if any(name.startswith("val_") for name in row))
        last = next(validated, {})
        return {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")}

    def csv(self, *, seconds: bool = False) -> str:
        """The table as text, the same for the same training unless `seconds` are asked for."""
        names = [name for name in _columns(self.rows) if seconds or name != "seconds"]
        return ",".join(names) + "\n" + "".join(_line(row, names) for row in self.rows)

    def _write(self) -> None:
        self._columns = _columns(self.rows)
        if self.live is not None:
            atomic.write_text(self.live, self.csv(seconds=True))


def thinned(table: str, most: int = 500) -> str:
    """The text of a table with about `most` of its steps, evenly, the last, and all that were validated.

    A small map does not want a long diary.
    """
    header, *rows = table.splitlines(keepends=True)
    step = -(-len(rows) // most)
    validated = [index for index, name in enumerate(header.strip().split(",")) if name.startswith("val_")]

    def kept(index: int, row: str) -> bool:
        cells = row.strip("\n").split(",")
        return index % step == 0 or index == len(rows) - 1 or any(cells[column] for column in validated)

    return header + "".join(row for index, row in enumerate(rows) if kept(index, row))


def summary(history: History, since: int, steps: int, batch: int) -> str:
    """One line on the rows after the first `since`: mean loss, speed, what is left of `steps`, the last validation."""
    rows = history.rows[since:]
    loss = sum(row["loss"] for row in rows) / len(rows)
    text = f"step {len(history.rows)} of {steps}: loss {loss:.4g}"
    span_s = rows[-1]["seconds"] - rows[0]["seconds"]  # what came between lines, a validation, is not part of it
    if len(rows) > 1 and span_s > 0:
        step_s = span_s / (len(rows) - 1)
        text += f", {batch / step_s:.3g} images/s, {_duration((steps - len(history.rows)) * step_s)} left"
    return ", ".join([text, *(f"{value:.3g} {name}" for name, value in history.validation.items())])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _columns(rows: Sequence[Row]) -> list[str]:
    """Every name that occurs: step, loss, its parts as they came, learning_rate, val_…, seconds."""
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names, key=_place)


def _place(name: str) -> int:
    fixed = {"step": 0, "loss": 1, "learning_rate": 3, "seconds": 5}
    return fixed.get(name, 4 if name.startswith("val_") else 2)


def _line(row: Row, names: Sequence[str]) -> str:
    return ",".join(f"{row[name]:.8g}" if name in row else "" for name in names) + "\n"
