from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.errors import ImageError, PlacecellError
from placecell.log import Silent
from placecell.train.pictures import Pictures

SHAPE = (4, 6, 3)
COUNT = 9


class Loader:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, index: int) -> NDArray[Any]:
        self.asked.append(index)
        return np.random.default_rng(index).integers(0, 256, SHAPE, dtype=np.uint8)


def decode(path: Path, load: Any, identity: str = "kitchen 6x4", **changes: Any) -> Pictures:
    count, shape = changes.pop("count", COUNT), changes.pop("shape", SHAPE)
    return Pictures.decode(path, count, shape, load, identity=identity, log=Silent(), **changes)


def test_they_are_what_was_loaded_in_order(tmp_path: Path) -> None:
    load = Loader()
    pictures = decode(tmp_path / "pictures", load)
    assert len(pictures) == COUNT
    assert isinstance(pictures.images, np.memmap)
    assert not pictures.images.flags.writeable
    assert np.array_equal(pictures.images, [load(index) for index in range(COUNT)])


def test_they_are_decoded_once(tmp_path: Path) -> None:
    first, second = Loader(), Loader()
    assert np.array_equal(decode(tmp_path / "p", first).images, decode(tmp_path / "p", second).images)
    assert (sorted(first.asked), second.asked) == (list(range(COUNT)), [])


def test_others_of_the_same_place_are_not_taken_for_them(tmp_path: Path) -> None:
    for changes in ({"identity": "office 6x4"}, {"count": 8}, {"shape": (4, 6, 1)}, {"dtype": np.float32}):
        decode(tmp_path / "p", Loader())
        shape = changes.get("shape", SHAPE)
        kind = changes.get("dtype", np.uint8)

        def load(index: int, shape: Any = shape, kind: Any = kind) -> NDArray[Any]:
            return np.full(shape, index + 100, kind)

        found = decode(tmp_path / "p", load, **changes).images
        assert found.dtype == kind
        assert found[3].min() == found[3].max() == 103


@pytest.mark.parametrize("damage", ["short", "no pictures", "no note", "bad note", "bad header"])
def test_damaged_ones_are_made_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "p"
    whole = np.array(decode(folder, Loader()).images)
    file, note = folder / "pictures.npy", folder / "pictures.json"
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "bad header":
        file.write_bytes(b"\0" * file.stat().st_size)
    elif damage == "bad note":
        note.write_text("{")
    else:
        (file if damage == "no pictures" else note).unlink()
    load = Loader()
    assert np.array_equal(decode(folder, load).images, whole)
    assert len(load.asked) == COUNT


def test_a_picture_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    def load(index: int) -> NDArray[Any]:
        if index == 5:
            raise ImageError("photos/5.jpg: not a picture")
        return np.zeros(SHAPE, np.uint8)

    with pytest.raises(ImageError, match=r"^photos/5\.jpg: not a picture$"):
        decode(tmp_path / "p", load)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    for wrong in (np.zeros((6, 4, 3), np.uint8), np.zeros(SHAPE, np.float32)):
        with pytest.raises(ValueError, match="picture 0 is"):
            decode(tmp_path / "p", lambda index, wrong=wrong: wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode(tmp_path / "p", Loader())

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    path_open = Path.open

    def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return Full(self, "w") if mode == "wb" else path_open(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(PlacecellError, match="No space left on device; free some space") as caught:
        decode(tmp_path / "p", Loader(), identity="another")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    load = Loader()
    decode(tmp_path / "p", load)
    assert load.asked == []


def test_arrays_that_lie_otherwise_in_memory(tmp_path: Path) -> None:
    turned = np.arange(72, dtype=np.uint8).reshape(6, 4, 3).transpose(1, 0, 2)
    assert np.array_equal(decode(tmp_path / "p", lambda index: turned).images[2], turned)
