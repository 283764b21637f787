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


@pytest.mark.parametrize(
    "package, extra", [("torch", "train"), ("onnx", "export"), ("openvino", "export"), ("fastapi", "serve")]
)
def test_a_package_that_is_not_there_is_told_with_its_extra(package: str, extra: str) -> None:
    with pytest.raises(errors.MissingExtra, match=rf"^{package} is not installed; .*\[{extra}\]'$"):  # noqa: SIM117
        with errors.naming_extras():
            raise ModuleNotFoundError(name=package)
    with pytest.raises(ModuleNotFoundError), errors.naming_extras():
        raise ModuleNotFoundError(name="something_else")
