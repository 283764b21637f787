"""What is wrong or doubtful in a scene: conventions, outliers, pictures, duplicates, leakage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell.convention import (
    REMEDIES,
    STORED,
    Evidence,
    evidence_of_pictures,
    evidence_of_points,
    turns_in_pictures,
)
from placecell.errors import ImageError
from placecell.images import read_exif, read_image
from placecell.log import Log
from placecell.pose import Array, pose_error
from placecell.scene import Frame, Scene, centres, sequences

Severity = Literal["error", "warning", "note"]

_DECODED = 50
_TWINS = 30
_THUMBNAIL_PX = 32


@dataclass(frozen=True)
class Finding:
    """One thing that the user should know."""

    severity: Severity
    subject: str
    """What it is about, one word of a fixed set: `convention`, `outliers`, `leakage`, …"""
    text: str
    """One line."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    frames: tuple[str, ...] = ()
    """Names of the frames concerned, all of them."""


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    scene: str
    convention: str
    """`as stored`, the name of another reading of the poses, or `undecided`."""
    findings: tuple[Finding, ...]

    def about(self, subject: str) -> tuple[Finding, ...]:
        """The findings on one subject."""
        return tuple(finding for finding in self.findings if finding.subject == subject)


def check(scene: Scene, *, seed: int, log: Log) -> Report:
    """Look at a scene with suspicion. Pairs and pictures are sampled, so that a thousand frames take seconds.

    A picture that cannot be read is a finding, not an error: nothing is raised for what a scene may hold.
    """
    random = np.random.default_rng(seed)
    convention, evidence = _convention(scene, random, log)
    findings = [
        *_made(scene),
        *evidence,
        *_trajectory(scene),
        *_numbers(scene),
        *_pictures(scene, random, log),
        *_duplicates(scene, random, log),
        *_leakage(scene),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return Report(scene.name, convention, tuple(sorted(findings, key=lambda finding: order[finding.severity])))


def lines(report: Report) -> list[str]:
    """The report as lines to print, the worst first."""
    counts = [sum(f.severity == severity for f in report.findings) for severity in ("error", "warning")]
    verdict = f"{report.scene}: poses {_spoken(report.convention)}"
    head = f"{verdict}; {_many(counts[0], 'error')}, {_many(counts[1], 'warning')}"
    return [head, *(f"{f.severity:8} {f.subject}: {' '.join(f.text.split())}" for f in report.findings)]


def _spoken(convention: str) -> str:
    if convention == STORED:
        return "are world_from_cam in OpenCV axes, as they should be"
    return "of undecided convention" if convention == "undecided" else f"seem to be read wrong: {convention}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _named(frames: Sequence[str]) -> str:
    return ", ".join(frames[:3]) + (f" and {len(frames) - 3} more" if len(frames) > 3 else "")


def _made(scene: Scene) -> Iterator[Finding]:
    for note in scene.notes:
        yield Finding("note", "made", note)
    if not scene.metric:
        yield Finding(
            "note", "scale", "the scene has no metric scale; lengths are in arbitrary units (see --metric-from)"
        )
    if len(scene.frames) <= 1:
        yield Finding("error", "frames", f"a scene of {_many(len(scene.frames), 'frame')} makes no map; add pictures")
    without = tuple(frame.name for frame in scene.frames if frame.world_from_cam is None)
    if without:
        text = f"{len(without)} of {_many(len(scene.frames), 'frame')} have no pose: {_named(without)}"
        yield Finding("note", "poses", text, {"count": len(without)}, without)
    for split in ("train", "test"):
        if scene.frames and not scene.split(split).frames:
            yield Finding("warning" if split == "train" else "note", "frames", f"no frame is in the {split} split")


def _convention(scene: Scene, random: np.random.Generator, log: Log) -> tuple[str, list[Finding]]:
    """The verdict of all witnesses, and what each of them says."""
    if len(scene.posed) < 2:
        return "undecided", []
    witnesses = [evidence_of_points(scene, random), evidence_of_pictures(scene, turns_in_pictures(scene, random, log))]
    heard = [witness for witness in witnesses if witness is not None]
    verdicts = {witness.verdict for witness in heard if witness.verdict is not None}
    findings = [_testimony(witness) for witness in heard]
    if len(verdicts) > 1:
        text = f"points and pictures disagree ({' against '.join(sorted(verdicts))}); look at how poses were read"
        findings.append(Finding("warning", "convention", text))
    return (verdicts.pop() if len(verdicts) == 1 else "undecided"), findings


def _testimony(witness: Evidence) -> Finding:
    numbers = {**witness.scores, "count": float(witness.count)}
    if witness.verdict in (None, STORED):
        misfit = witness.verdict is None and bool(witness.scores)
        text = f"{witness.text}; no reading of the poses fits clearly" if misfit else witness.text
        return Finding("warning" if misfit else "note", "convention", text, numbers)
    return Finding("error", "convention", f"{witness.text}; {REMEDIES[str(witness.verdict)]}", numbers)


def _trajectory(scene: Scene) -> Iterator[Finding]:
    positions = centres(scene.posed)
    if len(positions) < 2:
        return
    outliers = _outliers(scene.posed)
    if outliers:
        names = tuple(frame.name for frame in outliers)
        middle = np.median(positions, axis=0)
        farthest = float(max(np.linalg.norm(centres(outliers) - middle, axis=1)))
        text = (
            f"{_many(len(names), 'pose')} off the path (up to {farthest:.3g} {scene.unit}): {_named(names)}; drop them"
        )
        yield Finding("warning", "outliers", text, {"count": len(names), "farthest": farthest}, names)
    if np.ptp(positions, axis=0).max() <= 1e-9 * max(1.0, float(np.abs(positions).max())):
        text = "all camera centres are equal: a pure rotation shows no depth, and no map of points can be made of it"
        yield Finding("error", "rotation", text)


def _outliers(frames: Sequence[Frame]) -> list[Frame]:
    """Frames that no camera path would visit: far outside of all others, or a leap there and back.

    Far: beyond a gap of ten times the radius of everything nearer to the median centre, and at most 5 % of the
    frames. A leap: both steps above median + 20 MAD of all steps, and ten times as long as the step that skips it.
    """
    positions = centres(frames)
    distances = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    order = np.argsort(distances)
    found = {frames[i].name for i in order[_first_beyond_gap(distances[order]) :]}
    steps: list[Array] = []
    leaps: list[tuple[str, float, float]] = []
    for group in sequences(frames).values():
        path = centres(group)
        step = np.linalg.norm(np.diff(path, axis=0), axis=1)
        steps.append(step)
        skipping = np.linalg.norm(path[2:] - path[:-2], axis=1)
        for i in range(len(skipping)):
            leaps.append((group[i + 1].name, float(min(step[i], step[i + 1])), float(skipping[i])))
    every = np.concatenate(steps) if steps else np.zeros(0)
    if len(every) >= 5:
        middle = np.median(every)
        usual = middle + 20 * np.median(np.abs(every - middle)) + 1e-9 * distances.max()
        found |= {name for name, step, skipping in leaps if step > usual and step > 10 * skipping}
    return [frame for frame in frames if frame.name in found]


def _first_beyond_gap(distances: Array) -> int:
    """Index of the first of the sorted distances that lies beyond the gap; their number if there is none."""
    count = len(distances)
    first = count - max(1, int(0.05 * count))
    for i in range(max(first, 2), count):
        if distances[i] > 10 * distances[i - 1] > 0:
            return i
    return count


def _numbers(scene: Scene) -> Iterator[Finding]:
    points = scene.points
    if points is not None:
        lost = int((~np.isfinite(points.points_world).all(axis=1)).sum())
        if lost:
            yield Finding("error", "numbers", f"{_many(lost, 'point')} not finite; drop them", {"count": lost})
        blurred = int((~np.isfinite(points.seen_px).all(axis=1)).sum())
        if blurred:
            yield Finding("error", "numbers", f"{_many(blurred, 'observation')} at pixels that are not finite")
    timeless = tuple(f.name for f in scene.frames if f.time_s is not None and not np.isfinite(f.time_s))
    if timeless:
        yield Finding("error", "numbers", f"times that are not finite: {_named(timeless)}", frames=timeless)


def _pictures(scene: Scene, random: np.random.Generator, log: Log) -> Iterator[Finding]:
    """Every header, and a sample of the pictures themselves."""
    problems: dict[str, list[tuple[str, str]]] = {
        "missing": [],
        "unreadable": [],
        "size": [],
        "resized": [],
        "black": [],
    }
    for frame in log.track(scene.frames, "reading the headers of pictures"):
        kind, why = _header_problem(scene, frame)
        if kind:
            problems[kind].append((frame.name, why))
    bad = {name for kind in ("missing", "unreadable") for name, _ in problems[kind]}
    whole = [frame for frame in scene.frames if frame.name not in bad]
    sample = [whole[i] for i in sorted(random.permutation(len(whole))[:_DECODED])]
    for frame in log.track(sample, "decoding a sample of the pictures"):
        try:
            image = read_image(scene.image_path(frame))
        except ImageError as error:
            problems["unreadable"].append((frame.name, str(error)))
            continue
        if int(image.max()) - int(image.min()) < 8:
            problems["black"].append((frame.name, "the picture is black or of one colour"))
    for kind, found in problems.items():
        if found:
            names = tuple(name for name, _ in found)
            more = f" ({len(found)} such: {_named(names)})" if len(found) > 1 else f" ({names[0]})"
            severity: Severity = "warning" if kind in ("black", "resized") else "error"
            yield Finding(severity, kind, found[0][1] + more, {"count": len(found)}, names)
    yield Finding("note", "pictures", f"{len(sample)} of {len(scene.frames)} pictures were decoded for this check")


def _header_problem(scene: Scene, frame: Frame) -> tuple[str, str]:
    path = scene.image_path(frame)
    if not path.is_file():
        return "missing", f"{path} is missing; restore it or drop the frame"
    try:
        header = read_exif(path)
    except ImageError as error:
        return "unreadable", str(error)
    camera = scene.camera_of(frame)
    sx, sy = header.width / camera.width, header.height / camera.height
    if sx == sy == 1:
        return "", ""
    text = f"{path} has {header.width}x{header.height} px, its camera {frame.camera} {camera.width}x{camera.height}"
    if abs(sx - sy) < 0.01 * sx:
        return "resized", f"{text}; its intrinsics will be scaled"
    return "size", f"{text}; a cropped or turned picture needs a camera of its own"


def _duplicates(scene: Scene, random: np.random.Generator, log: Log) -> Iterator[Finding]:
    """The same picture under two names: equal bytes anywhere, or nearly equal pictures at equal poses."""
    equal = _equal_files(scene)
    if equal:
        names = tuple(frame.name for group in equal for frame in group)
        text = f"{_many(len(equal), 'picture')} under several names, byte for byte: {_named(names)}"
        yield Finding("warning", "duplicates", text, {"count": len(equal)}, names)
    known = {frame.name for group in equal for frame in group}
    candidates = [pair for pair in _same_places(scene, random) if not {frame.name for frame in pair} <= known]
    twins = [pair for pair in log.track(candidates, "comparing pictures") if _look_alike(scene, *pair)]
    if twins:
        names = tuple(dict.fromkeys(frame.name for pair in twins for frame in pair))
        text = f"{_many(len(twins), 'pair')} of pictures with the same pose and content: {_named(names)}"
        yield Finding("note", "twins", text, {"count": len(twins)}, names)
    shared = [group for group in [*equal, *twins] if len({frame.split for frame in group}) > 1]
    if shared:
        names = tuple(dict.fromkeys(frame.name for group in shared for frame in group))
        text = f"{_many(len(shared), 'picture')} in both train and test: {_named(names)}; results would be too good"
        yield Finding("error", "leakage", text, {"count": len(shared)}, names)


def _equal_files(scene: Scene) -> list[tuple[Frame, ...]]:
    """Groups of frames whose files are equal; only files of equal size are read."""
    by_size: dict[int, list[Frame]] = {}
    for frame in scene.frames:
        path = scene.image_path(frame)
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(frame)
    by_content: dict[bytes, list[Frame]] = {}
    for group in by_size.values():
        for frame in group if len(group) > 1 else ():
            digest = hashlib.sha256(scene.image_path(frame).read_bytes()).digest()
            by_content.setdefault(digest, []).append(frame)
    return [tuple(group) for group in by_content.values() if len(group) > 1]


def _same_places(scene: Scene, random: np.random.Generator) -> list[tuple[Frame, Frame]]:
    """A sample of the pairs of frames with the same pose: centres within 1e-4 of the extent, angles within 0.05 deg."""
    frames = scene.posed
    positions = centres(frames)
    if len(frames) < 2:
        return []
    near = 1e-4 * float(np.median(np.linalg.norm(positions - np.median(positions, axis=0), axis=1)))
    order = np.argsort(positions[:, 0], kind="stable")
    pairs = []
    for one, other in pairwise(order):
        first, second = frames[one].world_from_cam, frames[other].world_from_cam
        if first is not None and second is not None:
            distance, angle_deg = pose_error(first, second)
            if distance <= near and angle_deg < 0.05:
                pairs.append((frames[one], frames[other]))
    return [pairs[i] for i in sorted(random.permutation(len(pairs))[:_TWINS])]


def _look_alike(scene: Scene, first: Frame, second: Frame) -> bool:
    try:
        one, other = _thumbnail(scene, first), _thumbnail(scene, second)
    except ImageError:
        return False
    return bool(np.abs(one - other).mean() < 2.0 and one.std() > 4.0)


def _thumbnail(scene: Scene, frame: Frame) -> NDArray[np.float32]:
    image = cv2.cvtColor(read_image(scene.image_path(frame)), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(image, (_THUMBNAIL_PX, _THUMBNAIL_PX), interpolation=cv2.INTER_AREA), np.float32)


def _leakage(scene: Scene) -> Iterator[Finding]:
    """Test frames that are neighbours of training frames in one recording: nearly the same picture."""
    tests = sum(frame.split == "test" for frame in scene.frames)
    beside = []
    for group in sequences(scene.frames).values():
        path = sorted(group, key=lambda frame: (frame.time_s is None, frame.time_s or 0.0, frame.name))
        for i, frame in enumerate(path):
            around = {neighbour.split for neighbour in path[max(0, i - 1) : i + 2]}
            if frame.split == "test" and "train" in around:
                beside.append(frame.name)
    if beside:
        share = len(beside) / tests
        text = f"{len(beside)} of {_many(tests, 'test frame')} lie beside training frames of the same sequence"
        grave = share > 0.05
        advice = "; split by whole sequences" if grave else ""
        yield Finding("warning" if grave else "note", "leakage", text + advice, {"share": share}, tuple(beside))
