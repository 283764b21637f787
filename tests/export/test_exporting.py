"""An export answers as its map does, says how well, and is refused where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Remembering
from export import small
from placecell.catalog import load_map
from placecell.errors import MapError, PlacecellError
from placecell.estimate import Query
from placecell.export import exporting
from placecell.export.exporting import export_map
from placecell.export.mending import rounded_to_bf16
from placecell.localizer import Coarse, Localizer, PoseFeatures, SeenAtOnce, load_info, map_fingerprint
from placecell.pose import pose_error
from placecell.scene import Scene
from test_contract import said, unplaceable

Folder = Callable[[str], Path]

pytestmark = [pytest.mark.usefixtures("patches"), pytest.mark.slow]


@pytest.mark.parametrize("kind", ["align", "posenet", "dense", "one-pass", "passes", "align-passes"])
def test_an_export_answers_as_its_map(
    kind: str, small_map: Folder, small_export: Folder, room_queries: list[Query]
) -> None:
    ours, theirs = load_map(small_export(kind)), load_map(small_map(kind))
    assert isinstance(ours, Localizer) and isinstance(ours, Coarse)
    for found, expected in zip(ours.localize(room_queries), theirs.localize(room_queries), strict=True):
        assert found.name == expected.name and found.world_from_cam is not None
        error = pose_error(found.world_from_cam, expected.world_from_cam)
        assert error.distance < 1e-3 and error.angle_deg < 0.02
        assert found.covariance is not None and expected.covariance is not None
        scale = np.sqrt(np.outer(*[np.diag(expected.covariance)] * 2))
        np.testing.assert_allclose(found.covariance / scale, expected.covariance / scale, atol=5e-3)


@pytest.mark.parametrize("kind", ["align", "posenet", "dense", "passes"])
def test_it_sees_pictures_by_the_vectors_of_its_map(
    kind: str, small_map: Folder, small_export: Folder, room_queries: list[Query]
) -> None:
    ours, theirs = load_map(small_export(kind)), load_map(small_map(kind))
    assert isinstance(ours, SeenAtOnce) and isinstance(theirs, PoseFeatures)
    blind = replace(room_queries[0], image=np.zeros_like(room_queries[0].image))
    answers, found = ours.localize_seen([*room_queries, blind])
    assert [said(answer) for answer in answers[:-1]] == [said(answer) for answer in ours.localize(room_queries)]
    assert answers[-1].reason is not None and np.isnan(found[-1]).all()
    assert ours.pose_features([blind]).shape == (1, found.shape[1])
    expected = theirs.pose_features(room_queries)
    if kind in ("align", "posenet"):
        np.testing.assert_allclose(found[:-1], expected, rtol=1e-3, atol=1e-4)
    else:  # the mean over passes or windows, near what the map sees without
        assert found[:-1].shape == expected.shape
        together = np.corrcoef(found[:-1].ravel(), expected.ravel())[0, 1]
        assert together > 0.8


def test_a_map_without_a_covariance_has_none(room_scene: Scene, room_queries: list[Query], tmp_path: Path) -> None:
    small.regression(room_scene, "posenet", covariance="none").save(tmp_path / "bare.map")
    export_map(tmp_path / "bare.map", tmp_path / "out", scene=None, precision="fp32", log=Remembering())
    assert all(answer.covariance is None for answer in load_map(tmp_path / "out").localize(room_queries))


def test_what_it_refuses_it_refuses_in_the_same_words(small_map: Folder, small_export: Folder) -> None:
    for kind, refused in (("align", 12), ("coordinates", 14)):
        ours, theirs = load_map(small_export(kind)), load_map(small_map(kind))
        queries = unplaceable(ours.sight.resized(480, 360))  # type: ignore[attr-defined]
        reasons = [[answer.reason for answer in map.localize(queries)] for map in (ours, theirs)]
        assert reasons[0] == reasons[1]
        assert sum(reason is not None for reason in reasons[0]) >= refused


def test_it_says_how_it_was_made(small_map: Folder, small_export: Folder) -> None:
    told = load_info(small_export("align")).extra["export"]
    assert (told["precision"], told["reads"], told["of"]) == ("fp32", "align", map_fingerprint(small_map("align")))
    parity = told["parity"]
    assert parity["frames"] == 12 and parity["moved"] < 1e-3 and abs(parity["loss"]) < 0.01
    assert 0 <= parity["sigma_moved"] < 1e-3 and 0 <= parity["sigma_moved_deg"] < 1e-3
    assert load_info(small_export("align")).config == load_info(small_map("align")).config


def test_it_runs_where_there_is_no_torch(small_export: Folder, room_scene: Scene, tmp_path: Path) -> None:
    code = f"""
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning_fabric"):
            raise ModuleNotFoundError(f"no {{name}}", name=name)

sys.meta_path.insert(0, NoTorch())
from pathlib import Path
from placecell.catalog import load_map
from placecell.images import load_query
from placecell.scene import Scene
scene = Scene.load(Path({str(room_scene.root)!r}))
query = load_query(scene, scene.split("test").frames[0])
for folder in ({str(small_export("align"))!r}, {str(small_export("coordinates"))!r}):
    (answer,) = load_map(Path(folder)).localize([query])
    print(answer.reason or "placed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert (first == "placed" and "coordinates agree" in second) or second == "placed"


def test_eight_bits_keep_what_hurts_and_say_so(small_map: Folder, room_scene: Scene, tmp_path: Path) -> None:
    log = Remembering()
    found = export_map(small_map("align"), tmp_path / "out", scene=room_scene, frames=4, force=True, log=log)
    exact = export_map(
        small_map("align"), tmp_path / "fp32", scene=room_scene, precision="fp32", frames=4, log=Remembering()
    )
    assert found.told["precision"] == "int8" and found.told["calibrated_on"] == 4
    assert found.told["kept"], "the layer that says the numbers stays"
    assert len(found.model) < len(exact.model)
    assert 0 < found.told["parity"]["moved"] < 0.5 * found.told["parity"]["reference_distance"] + 0.5
    assert load_map(tmp_path / "out").localize([]) == []


def test_eight_bits_are_judged_in_the_engine_that_answers_worse(
    small_map: Folder, room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = export_map(small_map("align"), tmp_path / "out", scene=room_scene, frames=4, force=True, log=Remembering())
    evidence = exporting._evidence(load_map(small_map("align")), room_scene, 4, Remembering())
    same: dict[str, Any] = {"moved_deg": 0.0, "distance": 0.0, "angle_deg": 0.0}
    close, far = (replace(evidence.parity(found), moved=moved, **same) for moved in (0.0, 9e9))
    for openvino, onnxruntime, worse in ((close, far, far), (far, close, far), (close, close, close)):
        told = {"openvino": openvino, "onnxruntime": onnxruntime}
        monkeypatch.setattr(exporting.Evidence, "_parity", lambda _, exported, kind, told=told: told[kind])
        assert evidence.parity(found) is worse


def test_biases_of_sixteen_bits_are_made_good_where_that_helps(
    small_map: Folder, room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import numpy_helper

    told: dict[str, Any] = {"scene": room_scene, "precision": "bf16", "frames": 4, "force": True, "log": Remembering()}
    found = export_map(small_map("align"), tmp_path / "out", **told)
    assert found.told["parity"]["moved"] < 0.1 * found.told["parity"]["reference_distance"]

    def spoiled(model: Any, pictures: Any, last: int) -> Any:
        made = rounded_to_bf16(model, pictures, last)
        for item in made.graph.initializer:
            if item.name == "numbers.bias":
                item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) + 1, item.name))
        return made

    monkeypatch.setattr(exporting, "rounded_to_bf16", spoiled)
    plain = export_map(small_map("align"), tmp_path / "plain", **told)
    assert plain.told["calibrated_on"] == 0
    assert plain.told["parity"]["moved"] < 0.1 * plain.told["parity"]["reference_distance"]


def test_one_that_loses_too_much_is_refused_unless_forced(
    small_map: Folder, room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "ALLOWED", -2.0)
    told = {"scene": room_scene, "precision": "fp32", "frames": 2, "log": Remembering()}
    with pytest.raises(MapError, match=r"loses .* --force"):
        export_map(small_map("align"), tmp_path / "out", **told)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    export_map(small_map("align"), tmp_path / "out", force=True, **told)  # type: ignore[arg-type]
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_what_cannot_be_done_is_said_before_the_work(
    small_map: Folder, small_export: Folder, room_scene: Scene, tmp_path: Path
) -> None:
    def refused(folder: Path, scene: Scene | None, out: str = "out") -> str:
        with pytest.raises(PlacecellError) as caught:
            export_map(folder, tmp_path / out, scene=scene, log=Remembering())
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    other = replace(room_scene, name="another")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    assert "--scene" in refused(small_map("align"), None)
    assert "another scene" in refused(small_map("align"), other)
    assert "export already" in refused(small_export("align"), room_scene)
    assert "exists already" in refused(small_map("align"), room_scene, "full")


def test_what_it_is_calibrated_on_is_not_what_it_is_judged_on(room_scene: Scene) -> None:
    found = exporting._evidence(small.regression(room_scene, "align"), room_scene, 5, Remembering())
    judged, asked = ({item.name for item in items} for items in (found.judged, found.asked))
    assert (len(judged), len(asked), len(found.pictures), len(found.reference)) == (20, 5, 5, 20)
    assert judged | asked <= {frame.name for frame in room_scene.split("train").frames} and not judged & asked
    assert all(picture.shape == (1, 64, 85, 3) for picture in found.pictures), found.pictures[0].shape


def test_equal_exports_are_equal_files(small_map: Folder, room_scene: Scene, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_map(small_map("posenet"), tmp_path / name, scene=None, precision="fp32", log=Remembering())
    for name in ("map.json", "model.onnx", "weights.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert json.loads((tmp_path / "one" / "map.json").read_text())["extra"]["export"]["parity"] is None
