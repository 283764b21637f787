from __future__ import annotations

import pytest

from placecell import errors


def kinds() -> list[type[errors.PlacecellError]]:
    return [kind for kind in errors.PlacecellError.__subclasses__() if kind.__module__ == errors.__name__]


def test_the_tree_has_one_root_that_is_not_a_builtin_failure() -> None:
    assert {kind.__name__ for kind in kinds()} == {
        "SceneError",
        "MapError",
        "FormatError",
        "ImageError",
        "MissingExtra",
        "MissingDevice",
    }
    assert errors.PlacecellError.__bases__ == (
        Exception,
    )  # `except ValueError` must not swallow what the user should see


def test_missing_extra_names_the_command_that_mends_it() -> None:
    with pytest.raises(errors.PlacecellError, match=r"torch is not installed; run: pip install 'placecell\[train\]'$"):
        raise errors.MissingExtra("torch", "train")
