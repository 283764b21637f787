from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from placecell.camera import Camera
from placecell.datasets.pictures import clean_name, file_name, keyed, located, size_px
from placecell.errors import FormatError, ImageError
from placecell.scene import Frame

from .known import picture, pictures


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("./images/a.jpg", "images/a.jpg"),
        ("/seq-01/a.png", "seq-01/a.png"),
        ("../../photos/a b.jpg", "photos/a b.jpg"),
        ("C:\\photos\\ä.jpg", "photos/ä.jpg"),
        ('"a.jpg"', "a.jpg"),
    ],
)
def test_names_stay_inside_the_scene(text: str, name: str) -> None:
    assert clean_name(text) == name


def test_pictures_are_found_under_another_ending(tmp_path: Path) -> None:
    pictures(tmp_path, ["seq1/a.png", "images/b.color.jpg", "c.v2.png"])
    found = located(tmp_path, ["seq1/a.jpg", "b.color.png", "c.v2"], tmp_path / "list.txt")
    assert found == ["seq1/a.png", "images/b.color.jpg", "c.v2.png"]


def test_missing_pictures_are_one_error_with_the_first_and_the_count(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    with pytest.raises(FormatError, match=r"b\.png: missing, as are 2 of the 3 pictures that list\.txt lists"):
        located(tmp_path, ["a.png", "b.png", "c.png"], tmp_path / "list.txt")


def test_size(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (30, 20))
    assert size_px(tmp_path / "a.png") == (30, 20)
    (tmp_path / "b.jpg").write_text("no picture")
    with pytest.raises(ImageError, match="not a readable picture"):
        size_px(tmp_path / "b.jpg")


def test_equal_cameras_share_a_key() -> None:
    one, two = Camera.from_focal(64, 48, 50.0), Camera.from_focal(64, 48, 51.0)
    cameras, keys = keyed([one, two, replace(one)])
    assert keys == ["1", "2", "1"]
    assert cameras == {"1": one, "2": two}


def test_file_names_keep_the_ending_of_the_picture() -> None:
    assert file_name(Frame("a/1.jpg", "x.jpg", "c")) == "a/1.jpg"
    assert file_name(Frame("a/1", "x.png", "c")) == "a/1.png"
    assert file_name(Frame("a/1.5", "x.png", "c")) == "a/1.5.png"
