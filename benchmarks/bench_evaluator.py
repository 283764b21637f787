"""Our evaluator against figures that others computed from the same per-frame answers.

Run: python benchmarks/bench_evaluator.py [folder of peer_estimates]. Exits with 1 when a figure differs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from placecell.datasets.pose_list import read_pose_list
from placecell.estimate import Estimate
from placecell.metrics import Evaluation, evaluate
from placecell.published import Published, as_printed, rows_for

SYSTEMS = {
    "as": "Active Search",
    "hloc": "hloc",
    "dsac_rgb": "DSAC*",
    "dsac_rgbd": "DSAC* + depth",
    "r2d2_rgb": "R2D2",
    "r2d2_rgbd": "R2D2 + depth",
}
TRUTHS = {"dslam": "kinectfusion", "sfm": "sfm"}
SCENES = ("chess", "heads", "redkitchen")


class Comparison(NamedTuple):
    """One system on one scene: our figures, and the published ones as far as they are printed."""

    labels: str
    scene: str
    system: str
    evaluation: Evaluation
    published: Published | None

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(ours, printed) of every printed figure, ours rounded to the digits printed."""
        if self.published is None:
            return ()
        row, ours = self.published, self.evaluation.overall
        distance, _, angle = row.printed.partition("/")
        figures = [(ours.median_distance * 100, distance), (ours.median_angle_deg, angle)]
        figures += [(ours.recalls[name] * 100, printed) for name, printed in row.recalls.items()]
        return tuple((as_printed(value, printed), printed) for value, printed in figures)


def comparisons(folder: Path) -> Iterator[Comparison]:
    """Every system, scene and ground truth of the published per-frame answers in `folder`."""
    for truth, labels in TRUTHS.items():
        for scene in SCENES:
            truths = read_pose_list(folder / truth / f"{scene}_ground_truth.txt")
            published = {row.system: row for row in rows_for(f"7scenes/{scene}", labels)}
            for key, system in SYSTEMS.items():
                answers = read_pose_list(folder / truth / f"{scene}_{key}.txt")
                estimates = [Estimate(name, pose) for name, pose in answers.items()]
                evaluation = evaluate(estimates, truths, scene=f"7scenes/{scene}", labels=labels)
                yield Comparison(labels, scene, system, evaluation, published.get(system))


def main(words: Sequence[str] = ()) -> int:
    """Print the table."""
    default = Path(os.environ.get("PLACECELL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "peer_estimates"
    folder = Path(words[0]) if words else default
    print("| ground truth | scene | system | frames | cm | deg | 5cm/5deg % | 2cm/2deg % | printed | same |")
    print("|---|---|---|---:|---:|---:|---:|---:|---|---|")
    compared = equal = 0
    for row in comparisons(folder):
        ours, printed = row.evaluation.overall, row.published
        same = sum(mine == theirs for mine, theirs in row.pairs)
        compared, equal = compared + len(row.pairs), equal + same
        recalls = "" if printed is None else "".join(f", {v} % at {name}" for name, v in printed.recalls.items())
        print(
            f"| {row.labels} | {row.scene} | {row.system} | {ours.frames} "
            f"| {ours.median_distance * 100:.3f} | {ours.median_angle_deg:.3f} "
            f"| {ours.recalls['5cm/5deg'] * 100:.2f} | {ours.recalls['2cm/2deg'] * 100:.2f} "
            f"| {'not printed' if printed is None else printed.printed + recalls} "
            f"| {f'{same} of {len(row.pairs)}' if row.pairs else '–'} |"
        )
    print(f"\n{equal} of {compared} printed figures reproduced to the digit.")
    return 0 if equal == compared else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
