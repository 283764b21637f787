"""placecell build: a scene folder and the name of a family to a map folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Command, SceneMaker
from placecell.catalog import FAMILIES, load_map
from placecell.localizer import load_info
from placecell.scene import Scene
from placecell.synthetic import make_scene


@pytest.fixture(scope="module")
def closet(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A room small enough for maps that are only to be there."""
    return make_scene(tmp_path_factory.mktemp("closet") / "my scene", train=4, test=1, size=(320, 240))


def test_makes_a_map_with_the_settings_of_the_flags(closet: Scene, placecell: Command, tmp_path: Path) -> None:
    out = tmp_path / "a map"
    said = placecell("build", closet.root, out, "retrieval", "--top", "2", "--words", "16", "--seed", "3")
    assert (said.code, said.err) == (0, "")
    assert re.match(rf"{out}: retrieval map, \d+\.\d MB, built in \d+ s\n", said.out)
    info = load_info(out)
    assert (info.family, info.seed, info.config["top"], info.config["words"]) == ("retrieval", 3, 2, 16)
    assert info.scene_fingerprint == closet.fingerprint


def test_flags_may_come_first(closet: Scene, placecell: Command, tmp_path: Path) -> None:
    assert placecell("build", "--seed", 5, closet.root, tmp_path / "map", "retrieval").code == 0
    assert load_info(tmp_path / "map").seed == 5


def test_the_next_command_works_when_pasted(
    closet: Scene, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()  # so that another name has to be found
    following = placecell("build", closet.root, "map", "retrieval").following
    assert following == ["placecell", "localize", "map", str(closet.root), "run-2"]
    assert placecell(*following[1:]).code == 0


def test_the_next_command_works_on_a_scene_without_test_frames(
    closet: Scene, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    closet.split("train").save(tmp_path / "scene")
    following = placecell("build", "scene", "map", "retrieval").following
    assert following[-2:] == ["--split", "train"]
    assert placecell(*following[1:]).code == 0


def test_an_existing_map_is_replaced_only_when_asked(closet: Scene, placecell: Command, tmp_path: Path) -> None:
    words = ("build", closet.root, tmp_path / "map", "retrieval")
    assert placecell(*words).code == 0
    before = (tmp_path / "map" / "weights.safetensors").read_bytes()
    said = placecell(*words, "--top", "2")
    assert (said.code, said.out) == (1, "")
    assert said.err == f"placecell build: {tmp_path / 'map'} exists already; name another folder or pass --overwrite\n"
    assert (tmp_path / "map" / "weights.safetensors").read_bytes() == before
    assert placecell(*words, "--top", "2", "--overwrite").code == 0
    assert load_info(tmp_path / "map").config["top"] == 2
    load_map(tmp_path / "map")


def test_a_folder_that_cannot_be_is_found_out_before_the_work(
    scene_of: SceneMaker, placecell: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    said = placecell("build", tmp_path / "no scene", tmp_path / "file" / "map", "retrieval")
    assert said.code == 1 and "could not be written: Not a directory" in said.err


class TestFamilies:
    @pytest.mark.parametrize("words, code", [(("--help",), 0), (("-h",), 0), ((), 2), (("scene", "map"), 2)])
    def test_are_listed_when_none_is_named(self, words: tuple[str, ...], code: int, placecell: Command) -> None:
        said = placecell("build", *words)
        assert said.code == code
        text = said.out + said.err
        assert text.startswith("usage: placecell build SCENE MAP FAMILY")
        assert [name for name in FAMILIES if f"\n  {name} " not in text] == []
        assert (said.err == "") == (code == 0)

    def test_an_unknown_one_is_answered_with_the_known(self, placecell: Command) -> None:
        said = placecell("build", "scene", "map", "posenet")
        assert (said.code, said.out) == (1, "")
        assert said.err == f"placecell build: no family is called 'posenet'; known are {', '.join(FAMILIES)}\n"

    @pytest.mark.parametrize("name", FAMILIES)
    def test_their_settings_are_flags_with_their_defaults(self, name: str, placecell: Command) -> None:
        out = placecell("build", "scene", "map", name, "--help").out
        assert "usage: placecell build" in out and "SCENE MAP FAMILY" in out
        some = {
            "regression": "--hidden INT",
            "coordinates": "--hidden INT",
            "forest": "--trees INT",
            "dsac": "--width INT",
        }
        assert some.get(name, "--features INT") in out and re.search(r"\(default:\s+\d", out)


class TestSettingsThatCannotBe:
    @pytest.mark.parametrize("seed", ["-1", "2147483648"])
    def test_a_seed_out_of_range(self, seed: str, closet: Scene, placecell: Command, tmp_path: Path) -> None:
        said = placecell("build", closet.root, tmp_path / "map", "retrieval", "--seed", seed)
        told = f"placecell build: --seed {seed}: seeds count from 0 to 2147483647\n"
        assert (said.code, said.out, said.err) == (1, "", told)

    @pytest.mark.parametrize("flag", ["--top", "--words", "--dimensions", "--features"])
    def test_nothing_of_something(self, flag: str, closet: Scene, placecell: Command, tmp_path: Path) -> None:
        said = placecell("build", closet.root, tmp_path / "map", "retrieval", flag, "0")
        assert (said.code, said.out) == (2, "") and "count from 1" in said.err
        assert not (tmp_path / "map").exists()


class TestScenesThatMakeNoMap:
    def test_no_scene(self, placecell: Command, tmp_path: Path) -> None:
        said = placecell("build", tmp_path, tmp_path / "map", "structure")
        assert said.code == 1 and said.err.startswith(f"placecell build: {tmp_path} is not a scene (no scene.json)")

    def test_frames_without_poses(self, closet: Scene, placecell: Command, tmp_path: Path) -> None:
        frames = tuple(replace(frame, world_from_cam=None) for frame in closet.frames)
        replace(closet, frames=frames).save(tmp_path / "scene")
        for name in FAMILIES:
            said = placecell("build", tmp_path / "scene", tmp_path / "map", name)
            assert said.code == 1 and "posed training frame" in said.err
            assert said.err.count("\n") == 1 and not (tmp_path / "map").exists()


SMALL = ("--weights", "none", "--short-side", "48", "--hidden", "16", "--batch", "2", "--epochs", "2")


class TestPresets:
    def test_are_where_the_flags_begin(self, closet: Scene, placecell: Command, tmp_path: Path) -> None:
        words = ("--preset", "coupled", "--crop", "0", "--seed", "3", *SMALL)
        assert placecell("build", closet.root, tmp_path / "map", "regression", *words).code == 0
        config = load_info(tmp_path / "map").config
        assert (config["loss"], config["head"], config["rotation"]) == ("virtual-points", "posenet", "quaternion")
        assert (config["hidden"], config["crop"], config["short_side"]) == (16, 0, 48)

    def test_the_help_shows_them_and_their_values(self, placecell: Command) -> None:
        for flag in (("--preset", "lstm"), ("--preset=lstm",)):
            out = " ".join(
                placecell("build", "scene", "map", "regression", *flag, "--help").out.replace("│", " ").split()
            )
            assert "--preset NAME begins with: default, posenet-2015, posenet-2017" in out
            assert "--head {align,grid,posenet,lstm,hourglass}" in out and "(default: lstm)" in out
        assert "--preset" not in placecell("build", "scene", "map", "structure", "--help").out

    def test_an_unknown_one_is_answered_with_the_known(self, placecell: Command) -> None:
        said = placecell("build", "scene", "map", "regression", "--preset", "posenet-2031")
        assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
        assert "no preset is called 'posenet-2031'; known are default, posenet-2015" in said.err
        assert "known are default" in placecell("build", "scene", "map", "regression", "--preset").err

    def test_of_a_family_without_any(self, placecell: Command) -> None:
        said = placecell("build", "scene", "map", "structure", "--preset", "lstm")
        assert said.code == 1 and said.err.endswith("no preset is called 'lstm'; family structure has none\n")


class TestWork:
    """Long work keeps what lets it go on beside the map, until the map is whole."""

    def test_is_gone_with_the_map_made(self, closet: Scene, placecell: Command, tmp_path: Path) -> None:
        said = placecell("build", closet.root, tmp_path / "map", "regression", *SMALL)
        assert said.code == 0 and "trained from scratch" in said.err
        assert [path.name for path in tmp_path.iterdir()] == ["map"]
        assert sorted(path.name for path in (tmp_path / "map").iterdir()) == [
            *("map.json", "training.csv", "weights.safetensors")
        ]

    def test_an_interrupt_leaves_a_map_to_use_and_the_command_to_go_on(
        self, closet: Scene, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from placecell.families.regression.training import RegressionTask

        words = ("build", closet.root, tmp_path / "map", "regression", *SMALL, "--epochs", "4")
        batch = RegressionTask.batch

        def stopped(task: RegressionTask, step: int, rank: int, ranks: int) -> object:
            if step == 5:
                raise KeyboardInterrupt
            return batch(task, step, rank, ranks)

        with monkeypatch.context() as patch:
            patch.setattr(RegressionTask, "batch", stopped)
            said = placecell(*words)
        assert said.code == 130
        assert re.search(r"training stopped after step \d of \d+, the same command with --overwrite goes on", said.out)
        assert (tmp_path / "map.work").is_dir()
        run = placecell("localize", tmp_path / "map", closet.root, tmp_path / "run")
        assert run.code == 0 and "1 of 1 pictures placed" in run.out
        assert said.following == ["placecell", *map(str, words), "--overwrite"]
        again = placecell(*said.following[1:])
        assert again.code == 0 and "goes on after step" in again.err
        assert not (tmp_path / "map.work").exists()
        assert placecell(*words[:2], tmp_path / "whole", *words[3:]).code == 0
        for name in ("map.json", "training.csv", "weights.safetensors"):
            assert (tmp_path / "map" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    def test_a_folder_of_that_name_that_is_somebody_elses_is_left_alone(
        self, closet: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "map.work").mkdir()
        (tmp_path / "map.work" / "thesis.tex").touch()
        assert placecell("build", closet.root, tmp_path / "map", "retrieval").code == 0
        assert (tmp_path / "map.work" / "thesis.tex").exists()
        said = placecell("build", closet.root, tmp_path / "map", "regression", *SMALL, "--overwrite")
        assert said.code == 1 and "map.work is in the way" in said.err and said.err.count("\n") == 1
        assert (tmp_path / "map.work" / "thesis.tex").exists()
        (tmp_path / "other.work").touch()
        said = placecell("build", closet.root, tmp_path / "other", "regression", *SMALL)
        assert said.code == 1 and "other.work is in the way" in said.err and said.err.count("\n") == 1

    def test_of_another_scene_is_refused_before_any_work(
        self, closet: Scene, placecell: Command, tmp_path: Path
    ) -> None:
        from placecell.train.checkpoint import Checkpoint, write

        write(tmp_path / "map.work", Checkpoint(200, {}, {}), {"scene": "cellar 0123456789abcdef"})
        said = placecell("build", closet.root, tmp_path / "map", "regression", *SMALL)
        assert said.code == 1 and 'map.work holds another training: scene was "cellar' in said.err
        assert said.err.count("\n") == 1 and not (tmp_path / "map.work" / "pictures").exists()

    def test_a_failure_keeps_it(self, closet: Scene, placecell: Command, tmp_path: Path) -> None:
        flags = ("--learning-rate", "1e30", "--optimizer", "sgd", "--schedule", "constant", "--epochs", "20")
        said = placecell("build", closet.root, tmp_path / "map", "regression", *SMALL, *flags)
        assert said.code == 1 and "learning-rate" in said.err.splitlines()[-1]
        assert not (tmp_path / "map").exists() and (tmp_path / "map.work").is_dir()
