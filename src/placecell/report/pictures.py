"""The worst frames beside the nearest training picture, small and inside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell.errors import ImageError
from placecell.images import read_image
from placecell.log import Log
from placecell.pose import pose_error
from placecell.report.judged import Judged, nearest_training_frame
from placecell.report.wording import angle, length, text
from placecell.scene import Frame, Scene

_LONGEST_PX = 320


def worst_cards(scene: Scene, worst: Sequence[Judged], order: Sequence[Judged], log: Log) -> str:
    """A card a frame: its picture, the nearest training picture, and what went wrong by how much."""
    place = {item.frame.name: index for index, item in enumerate(order)}
    return "".join(
        _card(scene, item, place[item.frame.name], log) for item in log.track(worst, "pictures", total=len(worst))
    )


def _card(scene: Scene, item: Judged, index: int, log: Log) -> str:
    nearest = nearest_training_frame(scene, item.truth, exclude=item.frame.name)
    pictures = _picture(scene, item.frame, "asked", log)
    if nearest is not None:
        away = pose_error(nearest.world_from_cam, item.truth)
        label = f"nearest in training, {length(away.distance, scene.unit)} and {angle(away.angle_deg)} away"
        pictures += _picture(scene, nearest, label, log)
    extra = "" if item.estimate.inliers is None else f" · {item.estimate.inliers} inliers"
    return (
        f'<article class="card"><div class="pair">{pictures}</div>'
        f"<p><strong>{length(item.error.distance, scene.unit)}, {angle(item.error.angle_deg)}</strong>{extra}</p>"
        f'<p><button type="button" data-frame="{index}" title="show it in the 3-D view">{text(item.frame.name)}'
        "</button></p></article>"
    )


def _picture(scene: Scene, frame: Frame, label: str, log: Log) -> str:
    source = _thumbnail(scene, frame, log)
    caption = f"<figcaption>{text(label)}</figcaption>"
    if source is None:
        return f'<figure><div class="missing">picture missing</div>{caption}</figure>'
    return f'<figure><img src="{source}" alt="{text(frame.name)}" loading="lazy">{caption}</figure>'


def _thumbnail(scene: Scene, frame: Frame, log: Log) -> str | None:
    """A frame's picture as a data URI; None when it is gone or damaged."""
    try:
        return data_uri(read_image(scene.image_path(frame)))
    except ImageError as error:
        log.warn(f"the report goes without a picture: {error}")
        return None


def data_uri(image: NDArray[np.uint8]) -> str:
    """A JPEG of at most 320 px as a data URI."""
    scale = min(1.0, _LONGEST_PX / max(image.shape[:2]))
    wanted = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, wanted, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(np.asarray(encoded).tobytes()).decode("ascii")
