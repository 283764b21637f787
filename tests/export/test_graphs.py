"""What is exported says what the map says, in both engines and for any number of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export import small
from placecell.backbones import picture_tensor
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.export.graphs import Normalised, example, graph_of
from placecell.export.onnx_file import described, onnx_of
from placecell.families.coordinates.cells import asked_cells
from placecell.families.coordinates.decoding import SPREAD, points_of
from placecell.families.coordinates.sight import described as cells_described
from placecell.runtime.engine import engine_of
from placecell.scene import Scene

pytestmark = [pytest.mark.usefixtures("patches"), pytest.mark.slow]


def test_pictures_enter_as_in_training() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)
    np.testing.assert_allclose(Normalised()(torch.from_numpy(drawn)), picture_tensor(drawn), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["align", "lstm", "one-pass", "passes"])
def test_both_engines_say_what_torch_says(kind: str, room_scene: Scene) -> None:
    graph = graph_of(small.regression(room_scene, kind))
    content = described(onnx_of(graph), graph, {})
    for count in (1, 3):
        pictures = example(graph, count)
        with torch.inference_mode():
            found = graph.network(pictures)
        expected = found if isinstance(found, tuple) else (found,)
        for engine in ("openvino", "onnxruntime"):
            made = engine_of(content, "model", precision="fp32", kind=engine).run(pictures.numpy())
            assert len(made) == len(expected) == len(graph.outputs)
            for ours, theirs in zip(made, expected, strict=True):
                assert ours.shape == theirs.shape
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("context", [False, True])
def test_coordinates_of_any_size_are_those_of_the_head(context: bool, room_scene: Scene) -> None:
    built = small.coordinates(room_scene, context=context)
    graph = graph_of(built)
    content = described(onnx_of(graph), graph, {})
    for height, width in ((112, 160), (96, 48)):
        drawn = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
        features = torch.from_numpy(cells_described(built.encoder, drawn, "fp32"))
        whole = features[:, -built.encoder.coarse :].mean(dim=0, keepdim=True) if context else None
        with torch.inference_mode():
            guess = built.head(features[asked_cells(Camera.from_focal(width, height, 100.0))], whole)
        for engine in ("openvino", "onnxruntime"):
            (numbers,) = engine_of(content, "model", precision="fp32", kind=engine).run(drawn[None])
            assert numbers.shape == (1, height * width // 128, 5 + built.family.clusters)
            points = points_of(numbers[0], graph.tensors["centres"], float(graph.tensors["size"]))
            np.testing.assert_allclose(points, guess.points_N3, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(numbers[0][:, SPREAD], guess.spread_N, rtol=1e-3, atol=1e-3)


def test_the_file_says_how_pictures_enter(room_scene: Scene) -> None:
    import onnx

    graph = graph_of(small.regression(room_scene, "align"))
    model = onnx.load_model_from_string(described(onnx_of(graph), graph, {"scene": "room"}))
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert '"layout": "NHWC"' in told["placecell.input"] and '"RGB, upright"' in told["placecell.input"]
    assert told["placecell.reads"] == "align" and told["placecell.scene"] == "room"
    assert not [node.op_type for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # any number of pictures


@pytest.mark.parametrize("flaw", ["structure", "depth", "experts"])
def test_what_is_not_exported_is_said_in_one_line(flaw: str, room_scene: Scene) -> None:
    if flaw == "structure":
        found: object = object()
    elif flaw == "depth":
        found = small.regression(room_scene, "posenet", depth=True)
    else:
        from dataclasses import replace

        from placecell.families.coordinates.experts import Gate

        found = replace(small.coordinates(room_scene), gate=Gate(11, 2))
    with pytest.raises(MapError, match=r"not exported|only maps") as caught:
        graph_of(found)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
