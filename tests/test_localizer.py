from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from conftest import SceneMaker
from placecell.errors import FormatError, MapError, PlacecellError
from placecell.estimate import Estimate, Query
from placecell.localizer import (
    Localizer,
    MapInfo,
    config_from_json,
    config_to_json,
    load_info,
    load_map_tensors,
    map_bytes,
    map_fingerprint,
    save_map,
    versions,
)


@dataclass(frozen=True)
class Toy:
    """A family with hyper-parameters of every kind."""

    name: ClassVar[str] = "toy"
    words: int = 8
    ratio: float = 0.8
    sizes: tuple[int, ...] = (640, 480)
    refine: bool = True
    solver: Literal["p3p", "epnp"] = "p3p"

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ValueError("words must be positive")

    def build(self, scene: object, *, device: str, seed: int, log: object) -> Any:
        raise NotImplementedError


TENSORS = {
    "points": np.arange(12, dtype=np.float64).reshape(4, 3),
    "descriptors": np.arange(8, dtype=np.uint8).reshape(2, 4),
    "half": np.array([0.5, 1.5], np.float16),
    "none": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def info(scene_of: SceneMaker) -> MapInfo:
    return MapInfo.of(Toy(words=9), scene_of(), 7, camera={"model": "pinhole"}, note="größe")


@pytest.fixture
def folder(info: MapInfo, tmp_path: Path) -> Path:
    save_map(tmp_path / "kitchen.map", info, TENSORS)
    return tmp_path / "kitchen.map"


class TestFolder:
    def test_round_trip(self, folder: Path, info: MapInfo) -> None:
        assert load_info(folder) == replace(info, config={**info.config, "sizes": [640, 480]})
        found = load_map_tensors(folder)
        assert found.keys() == TENSORS.keys()
        for key, value in TENSORS.items():
            assert found[key].dtype == value.dtype
            assert_array_equal(found[key], value)

    def test_says_what_it_was_made_of(self, info: MapInfo, scene_of: SceneMaker) -> None:
        scene = scene_of()
        assert (info.family, info.scene, info.scene_fingerprint) == ("toy", "room", scene.fingerprint)
        assert (info.labels, info.metric, info.seed) == ("by hand", True, 7)
        assert info.extra.keys() == {"camera", "note", "seen"}
        assert (info.extra["camera"], info.extra["note"]) == ({"model": "pinhole"}, "größe")
        assert info.versions["numpy"] == np.__version__ == versions()["numpy"]

    def test_arrays_that_are_views_are_written_in_their_order(self, info: MapInfo, tmp_path: Path) -> None:
        views = {"a": TENSORS["points"].T, "b": TENSORS["points"][::-1], "c": TENSORS["points"][:, 1]}
        save_map(tmp_path / "m", info, views)
        for key, value in load_map_tensors(tmp_path / "m").items():
            assert_array_equal(value, views[key])

    def test_an_existing_map_is_kept_unless_asked(self, folder: Path, info: MapInfo) -> None:
        before = map_fingerprint(folder)
        with pytest.raises(PlacecellError, match="exists already"):
            save_map(folder, replace(info, seed=8), TENSORS)
        assert map_fingerprint(folder) == before
        save_map(folder, replace(info, seed=8), TENSORS, overwrite=True)
        assert load_info(folder).seed == 8

    def test_size_counts_every_file(self, folder: Path) -> None:
        assert map_bytes(folder) == sum((folder / n).stat().st_size for n in ("map.json", "weights.safetensors"))


class TestFingerprint:
    def test_equal_maps_have_equal_ones(self, folder: Path, info: MapInfo, tmp_path: Path) -> None:
        save_map(tmp_path / "again", info, dict(reversed(TENSORS.items())))
        assert map_fingerprint(tmp_path / "again") == map_fingerprint(folder)
        assert len(map_fingerprint(folder)) == 16

    def test_any_change_changes_it(self, folder: Path, info: MapInfo, tmp_path: Path) -> None:
        save_map(tmp_path / "1", replace(info, seed=8), TENSORS)
        save_map(tmp_path / "2", info, {**TENSORS, "half": TENSORS["half"] * 2})
        assert len({map_fingerprint(path) for path in (folder, tmp_path / "1", tmp_path / "2")}) == 3

    def test_half_a_map_has_none(self, folder: Path) -> None:
        (folder / "weights.safetensors").unlink()
        with pytest.raises(MapError, match=r"weights\.safetensors: No such file or directory; build the map again"):
            map_fingerprint(folder)


class TestDamage:
    def test_what_is_no_map(self, tmp_path: Path) -> None:
        with pytest.raises(MapError, match=r"is not a map .*placecell build"):
            load_info(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
    def test_a_map_json_that_is_no_object(self, folder: Path, content: bytes) -> None:
        (folder / "map.json").write_bytes(content)
        with pytest.raises(FormatError, match=r"map\.json: not "):
            load_info(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"format": 2}, "not of format 1"),
            ({"format": None}, "not of format 1"),
            ({"colour": 1}, "has keys"),
            ({"config": []}, "config is [], not a dict"),
            ({"seed": "x"}, 'seed is "x", not a int'),
            ({"metric": 1}, "metric is 1, not a bool"),
            ({"scene": None}, "scene is null, not a str"),
        ],
    )
    def test_a_damaged_map_json_is_named(self, folder: Path, change: dict[str, Any], said: str) -> None:
        path = folder / "map.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(FormatError) as caught:
            load_info(folder)
        assert str(caught.value).startswith(f"{path}: ")
        assert said in str(caught.value)

    def test_a_missing_key_is_named(self, folder: Path) -> None:
        row = json.loads((folder / "map.json").read_text())
        del row["labels"]
        (folder / "map.json").write_text(json.dumps(row))
        with pytest.raises(FormatError, match="has keys"):
            load_info(folder)

    def test_every_truncation_of_the_tensors_is_told(self, folder: Path) -> None:
        path = folder / "weights.safetensors"
        whole = path.read_bytes()
        for length in (0, 4, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(FormatError, match=r"weights\.safetensors: missing or damaged"):
                load_map_tensors(folder)
        path.unlink()
        with pytest.raises(FormatError, match=r"weights\.safetensors: missing or damaged"):
            load_map_tensors(folder)


class TestConfig:
    def test_round_trip_through_json(self) -> None:
        toy = Toy(words=3, sizes=(1, 2, 3), refine=False, solver="epnp")
        assert config_from_json(Toy, json.loads(json.dumps(config_to_json(toy)))) == toy

    def test_settings_that_were_added_since_have_their_defaults(self) -> None:
        assert config_from_json(Toy, {"words": 3}) == Toy(words=3)

    def test_unknown_settings_are_named(self) -> None:
        with pytest.raises(FormatError, match=r"unknown settings \['depth', 'trees'\] for Toy; build the map again"):
            config_from_json(Toy, {"words": 3, "trees": 5, "depth": 1})

    @pytest.mark.parametrize("words", [0, "many", None])
    def test_refused_settings_are_told(self, words: object) -> None:
        with pytest.raises(FormatError, match="settings that Toy refuses"):
            config_from_json(Toy, {"words": words})


class Constant:
    """The smallest localizer."""

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        return [Estimate.refusal(query.name, "knows nothing") for query in queries]

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        raise NotImplementedError


def test_the_protocol_is_asked_by_isinstance() -> None:
    assert isinstance(Constant(), Localizer)
    assert not isinstance(Toy(), Localizer)
