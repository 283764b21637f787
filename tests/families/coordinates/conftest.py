"""What the tests of scene coordinates share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from families.coordinates.small import Around, Averages
from families.regression.small import Patches
from placecell.backbones import Backbone, backbone
from placecell.families.coordinates import encoder


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
