import json
from pathlib import Path

import pytest

from placecell.errors import FormatError
from placecell.estimate import Estimate
from placecell.metrics import evaluate
from placecell.metrics_file import read_metrics, write_metrics
from placecell.pose import Pose

TRUTHS = {"ä.jpg": Pose.identity(), "b.jpg": Pose.identity(), "c.jpg": Pose.identity()}


def test_round_trip_on_disk(tmp_path: Path) -> None:
    found = evaluate([Estimate("ä.jpg", Pose.exp([0.1, 0, 0, 0, 0, 0.2]))], TRUTHS, scene="room", labels="sfm")
    write_metrics(found, tmp_path / "run" / "metrics.json")
    assert read_metrics(tmp_path / "run" / "metrics.json") == found
    text = (tmp_path / "run" / "metrics.json").read_text(encoding="utf-8")
    assert "Infinity" not in text and '"inf"' in text and "ä.jpg" in text


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(FormatError, match="not readable"):
        read_metrics(path)
    write_metrics(evaluate([], TRUTHS), path)
    row = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**row, "format": 2}), encoding="utf-8")
    with pytest.raises(FormatError, match="format 2"):
        read_metrics(path)
    path.write_text(json.dumps({**row, "overall": {}}), encoding="utf-8")
    with pytest.raises(FormatError, match="evaluate again"):
        read_metrics(path)
