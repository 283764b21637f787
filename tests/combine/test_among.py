"""Several maps: the one that knows the place answers, none is made to, and a picture that all claim is told of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calibration.made import answers, lost
from combine.toy import Toy, query
from placecell.calibration.fit import fit_calibration
from placecell.combine.among import Among
from placecell.combine.calibrated import Calibrated
from placecell.estimate import Estimate

CALIBRATION = fit_calibration(answers(300), lost(80))
HERE = {i.estimate.name: i.estimate for i in answers(40, seed=7)}
LOST = {
    e.name.removeprefix("lost "): replace(e, name=e.name.removeprefix("lost "), seconds=0.2)
    for e in (item.estimate for item in lost(40, seed=8))
}
NAMES = [name for name in HERE if name in LOST]
QUERIES = [query(name) for name in NAMES]


def among(**made: dict[str, Estimate]) -> Among:
    return Among({name: Calibrated(Toy(found), CALIBRATION) for name, found in made.items()})


def test_the_map_that_knows_the_place_answers() -> None:
    for asked, other in ((among(kitchen=HERE, office=LOST), "office"), (among(office=LOST, kitchen=HERE), "office")):
        found = asked.localize(QUERIES)
        assert [e.name for e in found] == NAMES
        right = [e for e in found if e.map == "kitchen"]
        assert len(right) >= 0.9 * len(found) and not [e for e in found if e.map == other]
        assert all(e.world_from_cam == HERE[e.name].world_from_cam and e.also == () for e in right)


def test_a_map_that_refuses_claims_nothing() -> None:
    found = among(kitchen=HERE, garden={}).localize(QUERIES)
    assert {e.map for e in found} <= {"kitchen", None} and {e.also for e in found} == {()}


def test_none_is_made_to_answer() -> None:
    found = among(office=LOST, garden={}).localize(QUERIES)
    for estimate in found:
        assert estimate.world_from_cam is None and estimate.map is None and estimate.confidence == 0.0
        assert estimate.reason is not None
        assert estimate.reason.startswith("no map knows this place: office: familiar at 0.0")
        assert estimate.reason.endswith("0.010 needed; garden: 3 matches agree")


def test_a_picture_that_every_map_claims_is_reported_so_and_the_surest_answers() -> None:
    surer = max((HERE[name] for name in NAMES), key=lambda e: e.inliers or 0)
    assert surer.covariance is not None and surer.inliers is not None
    usual = Estimate(surer.name, surer.world_from_cam, surer.covariance * 9, inliers=surer.inliers // 3)
    for maps in ({"a": usual, "b": surer, "c": usual}, {"b": surer, "a": usual, "c": usual}):
        (found,) = among(**{name: {e.name: e} for name, e in maps.items()}).localize([query(surer.name)])
        assert found.map == "b" and set(found.also) == {"a", "c"}


def test_the_time_of_all_maps_counts() -> None:
    (found,) = among(office=LOST, garden={}).localize(QUERIES[:1])
    assert found.seconds == pytest.approx(0.3)


def test_depth_is_wanted_if_any_map_wants_it() -> None:
    with_depth = Calibrated(Toy(wants_depth=True), CALIBRATION)
    assert not among(a=HERE).wants_depth
    assert Among({"a": Calibrated(Toy(), CALIBRATION), "b": with_depth}).wants_depth
