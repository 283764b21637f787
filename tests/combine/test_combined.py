"""Ensembles and cascades of real maps of the rendered room."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from placecell import catalog
from placecell.cli import main
from placecell.combine.cascade import Cascade
from placecell.combine.ensemble import Ensemble
from placecell.combine.members import info_of
from placecell.errors import FormatError, MapError
from placecell.estimate import Estimate, Query
from placecell.families.structure import Structure, StructureMap
from placecell.images import load_query
from placecell.localizer import MapInfo
from placecell.log import Silent
from placecell.pose import Pose, pose_error
from placecell.scene import Scene


@pytest.fixture(scope="module")
def structure(room_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("combined") / "structure.map"
    Structure().build(room_scene, log=Silent()).save(folder)
    return folder


@pytest.fixture(scope="module")
def queries(room_scene: Scene) -> list[Query]:
    return [load_query(room_scene, frame) for frame in room_scene.split("test").posed[:4]]


class Says:
    """A map that answers what it was told."""

    def __init__(self, answers: Sequence[Estimate]) -> None:
        self.answers = list(answers)

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        return self.answers[: len(queries)]

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Says:
        raise NotImplementedError


def says(pose: Pose | None, sigma: float = 0.01, confidence: float | None = None) -> Says:
    if pose is None:
        return Says([Estimate.refusal("q", "no idea")])
    return Says([Estimate("q", pose, np.eye(6) * sigma**2, confidence=confidence, seconds=1.0)])


def info(how: str, structure: Path) -> MapInfo:
    return info_of("ensemble", {"how": how}, [structure])


class TestEnsemble:
    def test_survives_saving(self, structure: Path, queries: list[Query], tmp_path: Path) -> None:
        made = Ensemble.of([structure, structure])
        made.save(tmp_path / "two.map")
        loaded = catalog.load_map(tmp_path / "two.map")
        assert isinstance(loaded, Ensemble)
        for one, other in zip(made.localize(queries), loaded.localize(queries), strict=True):
            assert one.world_from_cam is not None and one.world_from_cam == other.world_from_cam

    def test_of_the_same_map_twice_answers_as_it_does(self, structure: Path, queries: list[Query]) -> None:
        alone = catalog.load_map(structure).localize(queries)
        for one, two in zip(alone, Ensemble.of([structure] * 2).localize(queries), strict=True):
            assert pose_error(two.world_from_cam, one.world_from_cam or Pose.exp(np.zeros(6))) < (1e-9, 1e-6)
            assert_allclose(one.covariance, two.covariance, atol=1e-12)  # type: ignore[arg-type]

    def test_a_member_that_is_missing_is_named(self, structure: Path, tmp_path: Path) -> None:
        Ensemble.of([structure, structure]).save(tmp_path / "two.map")
        shutil.rmtree(tmp_path / "two.map" / "member-1")
        with pytest.raises(FormatError, match=r"member-1: member 2 of 2 is missing; combine the maps again"):
            catalog.load_map(tmp_path / "two.map")

    def test_members_of_different_scenes_are_refused(self, structure: Path, room_scene: Scene, tmp_path: Path) -> None:
        other = tmp_path / "other.map"
        Structure().build(replace(room_scene, name="attic"), log=Silent()).save(other)
        with pytest.raises(MapError, match=r"other.map is of scene attic .* combine maps of one scene"):
            Ensemble.of([structure, other])

    @pytest.mark.parametrize("how", ["mixture", "information"])
    def test_most_have_to_answer(self, how: str, structure: Path, queries: list[Query]) -> None:
        here = says(Pose.exp(np.zeros(6)))
        (most,) = Ensemble(info(how, structure), (here, here, says(None))).localize(queries[:1])
        (half,) = Ensemble(info(how, structure), (here, says(None))).localize(queries[:1])
        assert most.world_from_cam is not None and most.seconds == 2.0
        assert half.reason == "1 of 2 maps have no answer, the first: no idea"

    def test_maps_that_contradict_each_other_do_not_answer(self, structure: Path, queries: list[Query]) -> None:
        members = (says(Pose.exp(np.zeros(6))), says(Pose.exp([0, 0, 0, 1, 0, 0])))
        (weighed,) = Ensemble(info("information", structure), members).localize(queries[:1])
        (mixed,) = Ensemble(info("mixture", structure), members).localize(queries[:1])
        assert weighed.reason == "the maps contradict each other by more than they are unsure"
        assert mixed.covariance is not None and mixed.covariance[3, 3] > 0.4

    def test_it_counts_the_matches_of_the_map_that_found_most(self, structure: Path, queries: list[Query]) -> None:
        here = says(Pose.exp(np.zeros(6)))
        counts = ((30, 40), (80, 500), (None, None))
        members = [Says([replace(here.answers[0], inliers=found, matches=of)]) for found, of in counts]
        (answer,) = Ensemble(info("mixture", structure), tuple(members)).localize(queries[:1])
        assert (answer.inliers, answer.matches) == (80, 500)
        (blind,) = Ensemble(info("mixture", structure), (members[2], here)).localize(queries[:1])
        assert (blind.inliers, blind.matches) == (None, None)

    def test_maps_that_do_not_say_how_sure_they_are_are_told(self, structure: Path, queries: list[Query]) -> None:
        mute = Says([Estimate("q", Pose.exp(np.zeros(6)))])
        (found,) = Ensemble(info("information", structure), (mute, mute)).localize(queries[:1])
        assert found.reason == "2 of 2 maps do not say how sure they are; calibrate them"


class TestCascade:
    def near(self, structure: Path, answer: Estimate | None, query: Query) -> tuple[Estimate, int]:
        """What the structure map says near a prior, and how often it searched everything."""
        found, searched = catalog.load_map(structure), []
        assert isinstance(found, StructureMap)
        whole = StructureMap._search
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StructureMap, "_search", lambda *given: searched.append(1) or whole(*given))
            prior = Estimate.refusal(query.name, "no idea") if answer is None else answer
            (estimate,) = found.localize_near([query], [prior])
        return estimate, len(searched)

    def test_a_prior_near_by_saves_the_search(self, structure: Path, queries: list[Query], room_scene: Scene) -> None:
        rng, sigma = np.random.default_rng(0), np.array([0.01] * 3 + [0.02] * 3)
        for query, frame in zip(queries, room_scene.split("test").posed, strict=False):
            assert frame.world_from_cam is not None
            prior = Estimate(query.name, frame.world_from_cam @ Pose.exp(rng.normal(size=6) * sigma), np.diag(sigma**2))
            found, searched = self.near(structure, prior, query)
            assert pose_error(found.world_from_cam, frame.world_from_cam) < (0.02, 1.0)
            assert searched == 0

    def test_a_wrong_prior_or_none_costs_time_alone(self, structure: Path, queries: list[Query]) -> None:
        (alone,) = catalog.load_map(structure).localize(queries[:1])
        wrong = Estimate(queries[0].name, Pose.exp([2.0, 1, 0, 9, 9, 9]), np.eye(6) * 1e-6)
        for prior in (None, wrong):
            found, searched = self.near(structure, prior, queries[0])
            assert searched == 1
            assert found.world_from_cam == alone.world_from_cam

    def test_goes_through_a_map_folder(self, structure: Path, queries: list[Query], tmp_path: Path) -> None:
        assert main(["combine", str(tmp_path / "c.map"), str(structure), str(structure), "--how", "cascade"]) == 0
        loaded = catalog.load_map(tmp_path / "c.map")
        assert isinstance(loaded, Cascade)
        once = catalog.load_map(structure)
        (found,), alone = loaded.localize(queries[:1]), [once.localize(queries[:1])[0] for _ in range(4)]
        assert pose_error(found.world_from_cam, alone[0].world_from_cam or Pose.exp(np.zeros(6))) < (0.01, 0.5)
        assert (found.seconds or 0) > min(each.seconds or 0 for each in alone) / 2  # the time of both

    def test_takes_what_the_cheap_map_is_sure_of(self, structure: Path, queries: list[Query]) -> None:
        precise = catalog.load_map(structure)
        about = replace(info("", structure), config={"sure": 0.9})
        for confidence, taken in ((0.95, True), (0.8, False), (None, False)):
            cheap = says(Pose.exp([0, 0, 0, 5, 5, 5]), confidence=confidence)
            (found,) = Cascade(about, cheap, precise).localize(queries[:1])
            assert (found is cheap.answers[0]) == taken

    def test_needs_a_map_that_can_be_guided(
        self, structure: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Ensemble.of([structure]).save(tmp_path / "e.map")
        words = ["combine", str(tmp_path / "c.map"), str(structure), str(tmp_path / "e.map"), "--how", "cascade"]
        assert main(words) == 1
        assert (
            "cannot be told where to look; the second map of a cascade is of family structure"
            in capsys.readouterr().err
        )
        assert main([*words[:3], "--how", "cascade"]) == 1
        assert "a cascade is of two maps" in capsys.readouterr().err
        assert main([*words[:3], "--sure", "0.9"]) == 1
        assert "--sure is of a cascade" in capsys.readouterr().err
