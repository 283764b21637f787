"""A recording for the page is judged before the service begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from placecell.errors import FormatError
from placecell.estimate import Estimate, dump_predictions
from placecell.pose import Pose
from placecell.serve.served import Served
from placecell.serve.trajectory import Trajectory
from serve.conftest import asked, problem

POSE = Pose.exp([0.1, 0.2, 0.3, 1, 2, 3])


def test_files_of_track_and_localize_are_read(tmp_path: Path) -> None:
    texts = {
        "walk.tum": "# t x y z qx qy qz qw\n\n0.1 1 2 3 0 0 0 1\n0.2 1 2 3 0 0 0 2\n",
        "predictions.jsonl": dump_predictions([Estimate("a", POSE), Estimate.refusal("b", "dark")]),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert Trajectory.read(tmp_path / name) == Trajectory(name, text)


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "no pose"),
        (b"# nothing\n", "no pose"),
        (dump_predictions([Estimate.refusal("b", "dark")]).encode(), "no pose"),
        (b"0.1 1 2 3 0 0 0 1\n0.2 1 2 3 0 0 0\n", "walk:2"),
        (b"0.1 1 2 3 0 0 0 0\n", "walk:1"),
        (b"0.1 1 2 x 0 0 0 1\n", "walk:1"),
        (b'{"name": "a", "t": [1, 2, 3]}\n', "walk:1"),
        (b"{}\n", "walk:1"),
        (b"{\n", "walk:1"),
        (b"\xff\xfe\0", "not readable"),
        (b"[1, 2]\n", "walk:1"),
    ],
)
def test_what_is_none_is_told_in_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "walk").write_bytes(content)
    with pytest.raises(FormatError, match=told) as caught:
        Trajectory.read(tmp_path / "walk")
    assert "\n" not in str(caught.value)


def test_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not readable"):
        Trajectory.read(tmp_path / "none")


def test_the_page_is_given_it_and_the_token_guards_it(echoing: dict[str, Served]) -> None:
    walk = Trajectory("walk.tum", "0.1 1 2 3 0 0 0 1\n")
    found = asked(echoing, lambda web: web.get("/v1/trajectory"), trajectory=walk)
    assert found.json() == {"name": "walk.tum", "text": walk.text}
    assert asked(echoing, lambda web: web.get("/v1/trajectory")).json() is None
    assert problem(asked(echoing, lambda web: web.get("/v1/trajectory"), trajectory=walk, token="x")) == (
        401,
        "no-token",
    )
