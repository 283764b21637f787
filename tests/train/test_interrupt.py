from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from placecell.train.interrupt import interruptible


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def press() -> None:
    """Ctrl-C, delivered before the next line; one sent to the process may be taken by any thread, and comes later."""
    signal.raise_signal(signal.SIGINT)


def test_the_first_is_a_wish_and_the_second_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        assert not stop.asked
        press()
        assert stop.asked
        press()
        pytest.fail("the second was ignored")


def test_where_nothing_is_pressed_nothing_is_asked() -> None:
    with interruptible() as stop:
        pass
    assert not stop.asked


def test_outside_the_main_thread_it_changes_nothing() -> None:
    asked: list[bool] = []

    def work() -> None:
        with interruptible() as stop:
            asked.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


def test_where_it_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as stop:
            press()
        assert not stop.asked
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
