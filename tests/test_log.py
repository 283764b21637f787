from __future__ import annotations

from collections.abc import Iterator

import pytest

from placecell.log import Log, Silent


def test_silent_says_nothing_and_hands_on_every_item_one_by_one(capfd: pytest.CaptureFixture[str]) -> None:
    log: Log = Silent()
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for item in range(3):
            drawn.append(item)
            yield item

    tracked = log.track(source(), "frames", total=3)
    assert next(tracked) == 0
    assert drawn == [0]  # lazy: a long video is not read ahead
    assert list(tracked) == [1, 2]
    log.say("a remark")
    log.warn("a warning")
    assert capfd.readouterr() == ("", "")
