from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from placecell.train.ahead import ahead


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("placecell-ahead")]


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.03 if number % 4 == 0 else 0)
        return number * number

    assert list(ahead(slow_first, range(20), threads=3)) == [number * number for number in range(20)]
    assert alive() == []


def test_the_work_is_done_beforehand_but_not_far() -> None:
    done: list[int] = []
    with closing(ahead(done.append, range(100), threads=2)) as results:
        next(results)
        time.sleep(0.1)
        assert 4 <= len(done) <= 5
    assert alive() == []


def test_it_is_done_elsewhere() -> None:
    names = set(ahead(lambda _: threading.current_thread().name, range(8), threads=2))
    assert threading.main_thread().name not in names


def test_an_error_comes_where_its_result_would_and_ends_the_threads() -> None:
    results = ahead(lambda number: 6 // (3 - number), range(10), threads=2)
    assert [next(results), next(results), next(results)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert alive() == []


def test_nothing_to_do() -> None:
    assert list(ahead(str, [], threads=2)) == []
