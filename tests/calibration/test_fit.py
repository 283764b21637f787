"""The whole: learned from answers to unseen pictures, right about new ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.made import answers, lost, truths
from placecell.calibration.fit import LEAST, Answered, Calibration, fit_calibration
from placecell.errors import MapError
from placecell.estimate import Estimate
from placecell.metrics import Threshold
from placecell.pose import Pose
from placecell.reliability import auroc, reliability

LIMIT = Threshold("10cm/5deg", 0.10, 5.0)


def own(count: int, *, seed: int = 0) -> list[Answered]:
    """Answers of a map that boasts of its rotations, most of them within the limit."""
    return answers(count, boast=(3.0, 1.0, 0.5, 2.0, 1.0, 0.5), seed=seed, mean=0.008)


def asked(calibration: Calibration, items: list[Answered]) -> list[Estimate]:
    return calibration.apply([item.estimate for item in items])


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fit_calibration(own(600), [*lost(150), *lost(50, seed=6, elsewhere=True)])


class TestFit:
    def test_new_answers_are_what_they_say(self, calibration: Calibration) -> None:
        new = own(2000, seed=3)
        before = reliability([item.estimate for item in new], truths(new))
        after = reliability(asked(calibration, new), truths(new), LIMIT)
        assert before.calibration_error is not None and after.calibration_error is not None
        assert after.calibration_error < 0.05 < before.calibration_error
        assert after.covered_distance == pytest.approx(0.9, abs=0.03)
        assert after.covered_angle == pytest.approx(0.9, abs=0.03)
        assert after.confidence_error is not None and after.confidence_error < 0.06

    def test_accepted_answers_are_right(self, calibration: Calibration) -> None:
        for new in (own(2000, seed=3), lost(500, seed=8)):
            found = asked(calibration, new)
            accepted = [e for e in found if (e.confidence or 0.0) >= calibration.accept_at]
            wrong = reliability(accepted, truths(new))
            assert wrong.frames == len(accepted)
            errors = [np.linalg.norm((e.world_from_cam.inv @ truths(new)[e.name]).translation) for e in accepted]  # type: ignore[union-attr]
            assert not errors or np.mean(np.array(errors) < LIMIT.distance_m) > 0.98
        sure = [(e.confidence or 0) >= calibration.accept_at for e in asked(calibration, own(500, seed=4))]
        assert 0.3 < np.mean(sure) < 1

    def test_confidence_to_accept_at_is_judged_by_sequences_that_did_not_make_it(self) -> None:
        """In one of two sequences every second answer is 8 cm further off, however sure it is."""

        def seen(index: int, item: Answered) -> Answered:
            name = f"s{index % 2}"
            if name == "s1" and index % 4 == 1 and item.truth is not None:
                item = item._replace(truth=item.truth @ Pose.exp([0, 0, 0, 0.08, 0, 0]))
            return item._replace(sequence=name)

        told = [seen(index, item) for index, item in enumerate(own(2400))]
        blind = fit_calibration([item._replace(sequence="") for item in told])
        assert fit_calibration(told).accept_at == 1.0 > blind.accept_at
        like = fit_calibration([item._replace(sequence=f"s{i % 2}") for i, item in enumerate(own(2400))])
        assert like.accept_at == pytest.approx(fit_calibration(own(2400)).accept_at, abs=0.02)

    def test_elsewhere_is_not_familiar(self, calibration: Calibration) -> None:
        here = [e.familiarity for e in asked(calibration, own(500, seed=3))]
        away = [e.familiarity for e in asked(calibration, lost(500, seed=8, elsewhere=True))]
        assert auroc(here, away) > 0.99  # type: ignore[arg-type]
        known_at = calibration.familiarity.known_at
        assert np.mean([value >= known_at for value in here if value is not None]) > 0.97

    def test_it_says_what_it_was_learned_from(self, calibration: Calibration) -> None:
        told = (calibration.frames, calibration.answered, calibration.damaged, calibration.elsewhere)
        assert told == (600, 600, 150, 50)

    def test_what_is_usual_is_not_learned_from_damaged_ones(self, calibration: Calibration) -> None:
        alone = fit_calibration(own(600))
        assert alone.typical is None and calibration.typical is None
        assert alone.widening.usual == calibration.widening.usual and alone.widening.scale == calibration.widening.scale
        assert alone.confidence != calibration.confidence
        new = own(2000, seed=3)
        for found in (alone, calibration):
            after = reliability(asked(found, new), truths(new))
            assert after.covered_distance == pytest.approx(0.9, abs=0.03)
            assert after.calibration_error is not None and after.calibration_error < 0.05

    @pytest.mark.parametrize("refused", [0, 30])
    def test_too_few_answers_are_refused_with_their_number(self, refused: int) -> None:
        few = answers(LEAST - 1)
        few += [Answered(Estimate.refusal(f"dark {i}", "dark"), Pose.identity()) for i in range(refused)]
        with pytest.raises(MapError, match=f"^{LEAST - 1} of {len(few)} unseen pictures got an answer, {LEAST} are"):
            fit_calibration(few)
        fit_calibration([*few, *answers(1, seed=9)])

    def test_more_coverage_than_frames_can_bound_is_refused(self) -> None:
        with pytest.raises(MapError, match=r"99.9 % coverage; hold out more"):
            fit_calibration(answers(100), coverage=0.999)

    def test_refused_pictures_are_counted(self) -> None:
        dark = [Answered(Estimate.refusal(f"dark {i}", "dark"), Pose.identity()) for i in range(7)]
        found = fit_calibration([*answers(100), *dark], dark)
        assert (found.frames, found.answered, found.damaged) == (107, 100, 7)

    def test_a_map_without_covariances_gets_them(self) -> None:
        bare = [i._replace(estimate=replace(i.estimate, covariance=None)) for i in answers(800, boast=(1.0,) * 6)]
        blind = [i._replace(estimate=replace(i.estimate, inliers=None)) for i in bare]
        for items, sizes in ((bare, 200), (blind, 1)):
            estimates = asked(fit_calibration(items), items[:200])
            assert all(e.sigma is not None and e.radii is not None for e in estimates)
            judged = reliability(estimates, truths(bare))
            assert judged.covered_distance == pytest.approx(0.9, abs=0.06)
            assert len({e.sigma for e in estimates}) <= sizes
        told = reliability(asked(fit_calibration(bare), bare), truths(bare))  # by how many matches agree
        assert told.rank_distance is not None and told.rank_distance > 0.4


class TestApply:
    def test_a_singular_covariance_is_unknown(self, calibration: Calibration) -> None:
        whole = answers(1, seed=3)[0].estimate
        flat = replace(whole, covariance=np.diag([1.0, 1, 1, 1, 1, 0]))
        (found,) = calibration.apply([flat])
        assert found.covariance is None and found.radii is None
        assert found.confidence is not None and 0 <= found.confidence < 0.05
        assert found.world_from_cam == whole.world_from_cam

    def test_a_refusal_stays_one_without_confidence(self, calibration: Calibration) -> None:
        (found,) = calibration.apply([Estimate.refusal("dark", "image is blank", 0.1)])
        assert (found.reason, found.confidence, found.familiarity) == ("image is blank", 0.0, 0.0)
        assert found.covariance is None and found.radii is None

    def test_poses_stay(self, calibration: Calibration) -> None:
        items = answers(20, seed=3)
        for before, after in zip(items, asked(calibration, items), strict=True):
            assert after.world_from_cam == before.estimate.world_from_cam
            assert after.inliers == before.estimate.inliers and after.name == before.estimate.name

    def test_nothing_asked(self, calibration: Calibration) -> None:
        assert calibration.apply([]) == []
