"""What the tests of scene coordinates share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from families.coordinates.small import Around, Averages
from families.regression.small import Patches
from placecell.backbones import Backbone, backbone
from placecell.estimate import Query
from placecell.families.coordinates import encoder
from placecell.images import load_query
from placecell.pose import Pose
from placecell.scene import Scene


@contextmanager
def patched() -> Iterator[None]:
    """Within the block the backbones `patches`, `averages` and `around` go by these names, beside the real ones."""
    made: dict[str, type[Backbone]] = {"patches": Patches, "averages": Averages, "around": Around}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "backbone", lambda name: made[name]() if name in made else backbone(name))
        yield


@pytest.fixture
def patches() -> Iterator[None]:
    """`patched` for a whole test."""
    with patched():
        yield


@pytest.fixture
def query(room_scene: Scene) -> Query:
    """A test frame of the room with its depth."""
    return load_query(room_scene, room_scene.split("test").frames[0], depth=True)


@pytest.fixture
def truth(room_scene: Scene) -> Pose:
    """Where `query` was taken."""
    pose = room_scene.split("test").frames[0].world_from_cam
    assert pose is not None
    return pose
