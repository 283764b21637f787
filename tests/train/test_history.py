from __future__ import annotations

from pathlib import Path

import pytest

from placecell.errors import PlacecellError
from placecell.train.history import History, summary, thinned


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "loss": 1 / step, "learning_rate": 0.1, "seconds": 2.0 * step, **more}


def test_columns_in_their_order_whenever_they_come() -> None:
    history = History([row(1), row(2, val_cm=20.0), row(3, centre=5.0)])
    assert history.csv().splitlines() == [
        "step,loss,centre,learning_rate,val_cm",
        "1,1,,0.1,",
        "2,0.5,,0.1,20",
        "3,0.33333333,5,0.1,",
    ]
    assert history.csv(seconds=True).splitlines()[1:3] == ["1,1,,0.1,,2", "2,0.5,,0.1,20,4"]


def test_the_live_file_is_the_table_at_every_step(tmp_path: Path) -> None:
    live = tmp_path / "work" / "training.csv"
    history = History([], live)
    for step in range(1, 8):
        history.add(row(step, **({"val_cm": 9.0} if step == 3 else {})))
        assert live.read_text() == history.csv(seconds=True)
    assert len(live.read_text().splitlines()) == 8
    assert History(history.rows[:2], live).live == live
    assert len(live.read_text().splitlines()) == 3


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    history = History([row(1)], tmp_path / "training.csv")
    (tmp_path / "training.csv").unlink()
    (tmp_path / "training.csv").mkdir()
    with pytest.raises(PlacecellError, match=r"training\.csv could not be written: .*; free") as caught:
        history.add(row(2))
    assert "\n" not in str(caught.value)


def test_the_last_validation() -> None:
    assert History([row(1)]).validation == {}
    assert History([row(1, val_cm=3.0), row(2, val_cm=2.0, val_deg=1.0), row(3)]).validation == {"cm": 2.0, "deg": 1.0}


def test_the_summary_counts_what_came_since_the_last() -> None:
    history = History([row(step, **({"val_cm": 13.25} if step == 4 else {})) for step in range(1, 5)])
    assert summary(history, 2, 100, 32) == "step 4 of 100: loss 0.2917, 16 images/s, 3 min left, 13.2 cm"
    assert summary(history, 3, 100, 32) == "step 4 of 100: loss 0.25, 13.2 cm"
    assert "128 images/s, 24 s left" in summary(History([row(1), {**row(2), "seconds": 2.25}]), 0, 98, 32)
    assert "2.8 h left" in summary(history, 0, 5000, 32)


class TestThinned:
    def test_keeps_the_ends_and_what_was_validated(self) -> None:
        rows = [{"step": i, "loss": 1.0 / i} | ({"val_cm": 3.0} if i % 70 == 0 else {}) for i in range(1, 1001)]
        table = History(rows).csv()
        steps = [int(line.split(",")[0]) for line in thinned(table, 100).splitlines()[1:]]
        assert steps[0] == 1 and steps[-1] == 1000
        assert {70 * k for k in range(1, 15)} <= set(steps)
        assert 100 <= len(steps) <= 120
        assert steps == sorted(set(steps))
        assert set(thinned(table, 100).splitlines()) <= set(table.splitlines())

    def test_leaves_short_tables_alone(self) -> None:
        table = History([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]).csv()
        assert thinned(table) == table
        assert thinned("step,loss\n") == "step,loss\n"
