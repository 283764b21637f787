"""What a map can tell of itself: which pixels placed a picture, and how the pictures lie in its feature space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from placecell.errors import ImageError, MapError
from placecell.estimate import Query
from placecell.images import load_query
from placecell.localizer import Localizer, PoseFeatures, Salient, wants_depth
from placecell.log import Log
from placecell.pose import Array
from placecell.report.errormap import WIDTH, Plane
from placecell.report.glow import glow
from placecell.report.judged import Judged, worst
from placecell.report.pictures import data_uri
from placecell.report.ramp import Ramp
from placecell.report.wording import angle, length, text
from placecell.scene import Frame, Scene, sequences
from placecell.spacing import evenly

_EACH = 4
"""Frames with their saliency, of the worst and of the best."""
_MOST = 120
"""Pictures of the training frames, and of the asked ones, in the picture of the features: some take a second each."""


def saliency_section(scene: Scene, judged: Sequence[Judged], localizer: Localizer, log: Log) -> str:
    """The worst and the best answers with the pixels that they hang on; empty when the map cannot tell."""
    if not isinstance(localizer, Salient):
        return ""
    ranked = worst(judged, len(judged))
    # Spread over the worst and the best tenth, as neighbours in a sequence look alike and fail alike.
    tenth = min(max(_EACH, len(ranked) // 10), len(ranked) // 2)
    bad, good = (evenly(part[:tenth], _EACH) for part in (ranked, ranked[::-1]))
    chosen = [*bad, *good]
    place = {item.frame.name: index for index, item in enumerate(judged)}
    cards = []
    for number, item in enumerate(log.track(chosen, "saliency", len(chosen))):
        query = _query(scene, item.frame, localizer, log)
        if query is not None:
            kind = "among the worst" if number < len(bad) else "among the best"
            cards.append(_card(query, localizer, item, place[item.frame.name], kind, scene.unit))
    if not any(cards):
        return ""
    remark = (
        "How far the answer moves with each pixel: the length of the gradient of the pose. What glows places the "
        "picture; each picture has its own scale."
    )
    return _section("saliency", "Which pixels place a picture", remark, f'<div class="cards">{"".join(cards)}</div>')


def features_section(scene: Scene, judged: Sequence[Judged], localizer: Localizer, ramp: Ramp, log: Log) -> str:
    """Training and asked pictures in the plane in which the map's features differ most; empty when it has none."""
    if not isinstance(localizer, PoseFeatures):
        return ""
    train = evenly([frame for frame in scene.posed if frame.split == "train"], _MOST)
    asked = evenly([item for item in judged if item.answer is not None], _MOST)
    frames = [*train, *(item.frame for item in asked)]
    found = [_feature(scene, frame, localizer, log) for frame in log.track(frames, "pose features", len(frames))]
    known = [row for row in found if row is not None]
    if len(known) < 3:
        return ""
    points, shares = principal_plane(np.stack(known))
    at = iter(points)
    where = [None if row is None else next(at) for row in found]
    drawn = _drawing(train, asked, where, Plane(points), judged, ramp, scene.unit)
    remark = (
        f"The two directions in which the map's feature vectors differ most, {shares[0]:.0%} and {shares[1]:.0%} of "
        "their variance (PCA). Grey: the training pictures in their order. Dots: asked pictures in the colour of their "
        "position error. A map that has understood the place draws the paths of the cameras."
    )
    return _section("features", "How pictures lie in the map's features", remark, drawn)


def principal_plane(vectors: NDArray[np.float32]) -> tuple[Array, tuple[float, float]]:
    """(N, 2) of N vectors in the plane of their largest variance, and the share of it along each axis.

    An axis points to where its largest component is positive, so that a page does not flip.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((2, vectors.shape[1]))
    plane[: len(axes)] = axes[:2]
    largest = np.abs(plane).argmax(axis=1)
    plane *= np.where(plane[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
    shares = np.append(spread**2, 0.0)[:2] / max(float((spread**2).sum()), 1e-300)
    return centred @ plane.T, (float(shares[0]), float(shares[1]))


def _card(query: Query, localizer: Salient, item: Judged, index: int, kind: str, unit: str) -> str:
    try:
        shown = data_uri(glow(query.image, localizer.saliency(query)))
    except MapError:
        return ""
    plain, name = data_uri(query.image), text(item.frame.name)
    pictures = "".join(
        f'<figure><img src="{source}" alt="{name}" loading="lazy"><figcaption>{caption}</figcaption></figure>'
        for source, caption in ((plain, kind), (shown, "what places it"))
    )
    return (
        f'<article class="glow card"><div class="pair">{pictures}</div>'
        f"<p><strong>{length(item.error.distance, unit)}, {angle(item.error.angle_deg)}</strong></p>"
        f'<p><button type="button" data-frame="{index}" title="show it in the 3-D view">{name}</button></p></article>'
    )


def _drawing(
    train: Sequence[Frame],
    asked: Sequence[Judged],
    where: Sequence[Array | None],
    plane: Plane,
    judged: Sequence[Judged],
    ramp: Ramp,
    unit: str,
) -> str:
    at = dict(zip([*(frame.name for frame in train), *(item.frame.name for item in asked)], where, strict=True))
    parts = []
    for group in sequences(train).values():
        path = [point for point in (at[frame.name] for frame in group) if point is not None]
        if path:
            parts.append(f'<polyline class="trainpath" points="{plane.line(np.array(path))}"/>')
    place = {item.frame.name: index for index, item in enumerate(judged)}
    for item in asked:
        point, error = at[item.frame.name], item.error
        if point is not None:
            x, y = plane.at(point)
            note = text(f"{item.frame.name}: {length(error.distance, unit)}, {angle(error.angle_deg)}")
            parts.append(
                f'<circle data-frame="{place[item.frame.name]}" cx="{x:.1f}" cy="{y:.1f}" r="3" '
                f'fill="{ramp.colour(error.distance)}"><title>{note}</title></circle>'
            )
    return (
        f'<svg class="map" viewBox="0 0 {WIDTH:.0f} {plane.height:.0f}" role="img" '
        f'aria-label="training and asked pictures in the plane of the features">{"".join(parts)}</svg>'
    )


def _feature(scene: Scene, frame: Frame, localizer: PoseFeatures, log: Log) -> NDArray[np.float32] | None:
    query = _query(scene, frame, localizer, log)
    if query is None:
        return None
    (row,) = localizer.pose_features([query])
    return row if row.size and np.isfinite(row).all() else None


def _query(scene: Scene, frame: Frame, localizer: object, log: Log) -> Query | None:
    """A picture that the map can be asked about, with depth where it wants that."""
    try:
        query = load_query(scene, frame, depth=wants_depth(localizer))
    except ImageError as error:
        log.warn(f"the report goes without a picture: {error}")
        return None
    return query if query.defect is None else None


def _section(key: str, title: str, remark: str, body: str) -> str:
    return f'<section id="{key}"><h2>{text(title)}</h2><p class="remark">{text(remark)}</p>{body}</section>'
