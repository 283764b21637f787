"""What the tests of the regression family share."""

from __future__ import annotations

import pytest

from families.regression.small import Patches
from placecell.backbones import backbone
from placecell.families.regression import network as network_module


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone `patches` by its name, beside the real ones."""
    monkeypatch.setattr(network_module, "backbone", lambda name: Patches() if name == "patches" else backbone(name))
