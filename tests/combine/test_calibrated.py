"""A calibrated map answers as its calibration says, refuses below a confidence, and survives the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.made import answers, lost
from combine.toy import Toy, query
from placecell.calibration.evidence import KINDS
from placecell.calibration.features import neighbourhood
from placecell.calibration.fit import Calibration, fit_calibration
from placecell.catalog import load_map
from placecell.combine.calibrated import Calibrated, seer_of, write_calibration
from placecell.combine.cascade import Cascade
from placecell.combine.ensemble import Ensemble
from placecell.errors import FormatError, MapError
from placecell.estimate import Estimate, Query
from placecell.localizer import Localizer, MapInfo

CALIBRATION: Calibration = fit_calibration(answers(150), lost(60))
NEW = [*answers(20, seed=7), *lost(5, seed=8)]
QUERIES = [query(item.estimate.name) for item in NEW] + [query("unheard of")]
Maps = Callable[[str], Path]


def said(estimates: Sequence[Estimate]) -> list[tuple[object, ...]]:
    return [
        (e.name, e.confidence, e.familiarity, e.radii, None if e.covariance is None else e.covariance.tolist())
        for e in estimates
    ]


class TestLocalize:
    def test_answers_are_corrected(self) -> None:
        found = Calibrated(Toy.of(NEW), CALIBRATION).localize(QUERIES)
        assert said(found[:-1]) == said(CALIBRATION.apply([item.estimate for item in NEW]))
        assert (found[-1].reason, found[-1].confidence) == ("3 matches agree", 0.0)

    def test_it_is_a_localizer(self) -> None:
        assert isinstance(Calibrated(Toy(), CALIBRATION), Localizer)
        assert Calibrated(Toy(wants_depth=True), CALIBRATION).wants_depth
        assert not Calibrated(Toy(), CALIBRATION).wants_depth

    def test_answers_below_the_least_are_refused_with_the_reason(self) -> None:
        every = Calibrated(Toy.of(NEW), CALIBRATION).localize(QUERIES)
        middle = float(np.median([e.confidence for e in every if e.confidence]))
        found = Calibrated(Toy.of(NEW), CALIBRATION, least=middle).localize(QUERIES)
        refused = 0
        for before, after in zip(every[:-1], found[:-1], strict=True):
            assert before.confidence is not None
            if before.confidence >= middle:
                assert after.world_from_cam == before.world_from_cam
                continue
            refused += 1
            reason = f"the answer is within 10cm/5deg with a confidence of {before.confidence:.3f}, {middle:g} needed"
            assert (after.world_from_cam, after.reason, after.confidence) == (None, reason, 0.0)
            assert after.covariance is None and after.radii is None
        assert 5 <= refused < 25

    def test_what_the_map_sees_in_pictures_counts(self) -> None:
        """Of two pictures with the same answer, the one that looks like nothing known is not trusted."""

        class Seeing(Toy):
            def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
                return np.array([[0.0 if q.name == "0" else 99.0] * 3 for q in queries], np.float32)

        rng = np.random.default_rng(0)
        known = neighbourhood(rng.normal(size=(40, 3)).astype(np.float32), np.arange(40))
        near = rng.normal(0.0, 0.3, 150)
        taken = [i._replace(nearness=float(n)) for i, n in zip(answers(150), near, strict=True)]
        calibration = fit_calibration(taken, [i._replace(nearness=-3.0) for i in lost(60)])
        assert calibration.scale.kinds == tuple(kind for kind in KINDS if kind != "ratio")  # there are no matches
        made = {name: replace(NEW[0].estimate, name=name) for name in ("0", "1")}
        here, away = Calibrated(Seeing(made), calibration, known).localize([query("0"), query("1")])
        assert here.familiarity is not None and away.familiarity is not None
        assert here.familiarity > 0.05 > 0.01 > away.familiarity
        assert (here.confidence or 0) >= (away.confidence or 0)


class TestFolder:
    def test_what_was_saved_is_loaded(self, room_map_folder: Maps, room_queries: list[Query], tmp_path: Path) -> None:
        bare = load_map(room_map_folder("structure"))
        known = neighbourhood(np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32), np.arange(9))
        made = Calibrated(bare, CALIBRATION, known, least=0.2)
        made.save(tmp_path / "map")
        found = load_map(tmp_path / "map")
        assert isinstance(found, Calibrated) and found.calibration == CALIBRATION
        assert found.least is None and found.known is not None
        assert said(found.localize(room_queries)) == said(replace(made, least=None).localize(room_queries))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map"]
        again = tmp_path / "again"
        found.save(again)
        files = {path.name: path.read_bytes() for path in (tmp_path / "map").iterdir()}
        assert {path.name: path.read_bytes() for path in again.iterdir()} == files

    def test_the_map_alone_is_there_when_wanted(self, room_map_folder: Maps, tmp_path: Path) -> None:
        Calibrated(load_map(room_map_folder("retrieval")), CALIBRATION).save(tmp_path / "map")
        assert isinstance(load_map(tmp_path / "map"), Calibrated)
        assert not isinstance(load_map(tmp_path / "map", calibrated=False), Calibrated)

    def test_a_map_in_its_folder_is_calibrated_in_place(self, room_map_folder: Maps, tmp_path: Path) -> None:
        load_map(room_map_folder("retrieval")).save(tmp_path / "map")
        write_calibration(tmp_path / "map", CALIBRATION, None)
        found = load_map(tmp_path / "map")
        assert isinstance(found, Calibrated) and found.calibration == CALIBRATION

    def test_a_map_without_calibration_is_told(self, room_map_folder: Maps) -> None:
        with pytest.raises(MapError, match="is not calibrated; run: placecell calibrate"):
            Calibrated.load(room_map_folder("retrieval"))

    def test_a_calibration_copied_from_another_map_is_refused(self, room_map_folder: Maps, tmp_path: Path) -> None:
        Calibrated(load_map(room_map_folder("retrieval")), CALIBRATION).save(tmp_path / "one")
        Toy().save(tmp_path / "other")
        (tmp_path / "one" / "calibration.json").rename(tmp_path / "other" / "calibration.json")
        with pytest.raises((FormatError, MapError), match="made for another map"):
            load_map(tmp_path / "other")


class TestSeer:
    """Which map of several says how a picture looks."""

    class Seeing(Toy):
        def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
            return np.ones((len(queries), 3), np.float32)

    def test_is_the_first_that_sees(self) -> None:
        blind, seeing, other = Toy(), self.Seeing(), self.Seeing()
        info = MapInfo("ensemble", {"how": "mixture"}, "room", "0" * 16, "by hand", True, 0)
        assert seer_of(seeing) is seeing and seer_of(blind) is None
        assert seer_of(Calibrated(seeing, CALIBRATION)) is seeing
        assert seer_of(Ensemble(info, (blind, Calibrated(seeing, CALIBRATION), other))) is seeing
        assert seer_of(Ensemble(info, (blind, blind))) is None
        assert seer_of(Cascade(info, blind, seeing)) is seeing
