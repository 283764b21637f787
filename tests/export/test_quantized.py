"""Quantisation: a step for each channel, layers that are kept, and the order in which they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest

from conftest import Remembering
from placecell.export.mending import in_bf16, in_eight_bits, mended, rounded_to_bf16
from placecell.export.quantized import Ranges, ladder, suffering
from placecell.runtime.engine import Engines, engine_of


def outputs_of(model: Any, pictures: list[Any]) -> list[Any]:
    """What a model says of pictures that are all of one size."""
    from onnxruntime import InferenceSession

    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [session.run(None, {"images": picture}) for picture in pictures]
    return [np.concatenate(parts).astype(np.float32) for parts in zip(*runs, strict=True)]


def model_of(weights: list[Any], *, biases: bool = False) -> Any:
    """Convolutions of 1x1 in a row, with ReLU between them, of uint8 pictures."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Transpose", ["images"], ["channels"], "enter", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["channels"], ["x0"], "cast", to=TensorProto.FLOAT),
    ]
    stored = []
    for index, weight in enumerate(weights):
        stored.append(numpy_helper.from_array(weight[:, :, None, None].astype(np.float32), f"w{index}"))
        last = index == len(weights) - 1
        enters_layer = [f"x{index}", f"w{index}"]
        if biases:
            stored.append(numpy_helper.from_array(np.zeros(len(weight), np.float32), f"b{index}"))
            enters_layer.append(f"b{index}")
        nodes.append(helper.make_node("Conv", enters_layer, ["out" if last else f"y{index}"], f"c{index}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"y{index}"], [f"x{index + 1}"], f"r{index}"))
    enters = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 4, 5, 3])
    leaves = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", len(weights[-1]), 4, 5])
    graph = helper.make_graph(nodes, "g", [enters], [leaves], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def pictures() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (1, 4, 5, 3)).astype(np.uint8) for _ in range(6)]


@pytest.fixture
def weights() -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(8, 3)), rng.normal(size=(8, 8)), rng.normal(size=(4, 8))]


def scales(model: Any, weight: str) -> Any:
    from onnx import numpy_helper

    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return next(value for name, value in values.items() if name.startswith(weight) and name.endswith("_scale"))


def test_every_output_channel_has_its_own_step(pictures: list[Any], weights: list[Any]) -> None:
    weights[1][2] *= 1000  # would leave nothing of the others if they shared it
    found = Ranges.over(model_of(weights), pictures)
    assert found.layers == ["c0", "c1", "c2"]
    steps = scales(found.quantised(()), "w1")
    np.testing.assert_allclose(steps, np.abs(weights[1]).max(axis=1) / 127, rtol=0.02)


def test_it_says_nearly_what_the_model_says(pictures: list[Any], weights: list[Any]) -> None:
    found = Ranges.over(model_of(weights), pictures)
    (exact,), (rounded,) = outputs_of(found.model, pictures), outputs_of(found.quantised(()), pictures)
    error = np.abs(rounded - exact).mean() / np.abs(exact).mean()
    assert 1e-5 < error < 0.05


def test_weights_are_rounded_as_the_quantizer_does(pictures: list[Any], weights: list[Any]) -> None:
    from onnx import numpy_helper

    model = Ranges.over(model_of(weights), pictures).quantised(())
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    kept = stored["w1_quantized"].astype(float) * stored["w1_scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(in_eight_bits(weights[1][:, :, None, None].astype(np.float32)), kept, atol=1e-6)


def test_biases_make_good_what_rounding_moves(pictures: list[Any]) -> None:
    # One weight sets the step, the others are less than half of it: rounded, they are gone.
    weights = [np.diag([1.0, 1.0, 1.0]), np.array([[1.0, 3e-3, 3e-3], [0.5, -1.0, 0.5]])]
    model = model_of(weights, biases=True)
    found = Ranges.over(model, pictures)
    np.testing.assert_allclose(found.means["c0"], np.mean(pictures, axis=(0, 1, 2, 3)), rtol=1e-5)
    (exact,), (made_good,) = outputs_of(found.model, pictures), outputs_of(found.quantised(()), pictures)
    plain = replace(found, means={})
    (moved,) = outputs_of(plain.quantised(()), pictures)
    assert abs((moved - exact)[:, 0].mean()) > 0.5
    assert abs((made_good - exact)[:, 0].mean()) < 0.1
    (kept,) = outputs_of(found.quantised(["c0", "c1"]), pictures)
    np.testing.assert_allclose(kept, exact, rtol=1e-5)


def test_channels_of_depthwise_convolutions_have_their_own_means() -> None:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(2)
    weight = rng.normal(size=(6, 1, 3, 3)).astype(np.float32)
    weight[:, 0, 1, 1] -= weight.sum(axis=(1, 2, 3))  # edges
    nodes = [
        helper.make_node("Transpose", ["images"], ["channels"], "enter", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["channels"], ["x"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w", "b"], ["out"], "deep", group=3),
    ]
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(6, np.float32), "b")]
    enters = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 12, 12, 3])
    leaves = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 6, 10, 10])
    graph = helper.make_graph(nodes, "g", [enters], [leaves], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    bright = [rng.integers(low, low + 20, (1, 12, 12, 3)).astype(np.uint8) * np.uint8([1, 2, 1]) for low in (100, 80)]
    found = Ranges.over(model, bright)
    made_good = mended(found.model, found.means, ["deep"], in_eight_bits)
    expected = (weight - in_eight_bits(weight)).sum(axis=(1, 2, 3)) * np.mean(bright, axis=(0, 1, 2, 3)).repeat(2)
    bias = next(numpy_helper.to_array(item) for item in made_good.graph.initializer if item.name == "b")
    np.testing.assert_allclose(bias, expected, rtol=1e-4, atol=1e-4)


def test_bf16_is_the_nearest_of_its_kind() -> None:
    import torch

    values = np.random.default_rng(3).normal(size=1000).astype(np.float32) * np.float32(10) ** np.arange(-4, 6).repeat(
        100
    )
    values[:3] = [1 + 2**-8, 1 + 3 * 2**-8, -0.0]  # two ties, to even
    expected = torch.from_numpy(values).bfloat16().double().numpy()
    np.testing.assert_array_equal(in_bf16(values), expected)


def test_bf16_says_in_the_mean_what_was_said(pictures: list[Any]) -> None:
    from onnx import numpy_helper

    # The first layer adds up what cancels; its sum is small beside what bf16 rounds, and passes to the next.
    weights = [np.array([[101.3, -50.2, -51.4], [0.37, 0.21, 0.43], [33.3, 33.4, -66.9]]), np.ones((2, 3)) / 3]
    model = model_of(weights, biases=True)
    made = rounded_to_bf16(model, pictures, 0)
    for item in made.graph.initializer:
        values = numpy_helper.to_array(item)
        np.testing.assert_array_equal(values, in_bf16(values))
    plain = rounded_to_bf16(model_of(weights), pictures, 0)  # without biases nothing is made good
    (exact,), (good,), (moved,) = (outputs_of(each, pictures) for each in (model, made, plain))
    assert np.abs((moved - exact).mean(axis=(0, 2, 3))).max() > 2.0
    assert np.abs((good - exact).mean(axis=(0, 2, 3))).max() < 0.1


def test_the_last_layers_keep_their_weights_in_bf16(pictures: list[Any], weights: list[Any]) -> None:
    from onnx import numpy_helper

    model = model_of(weights, biases=True)
    made = rounded_to_bf16(model, pictures, 1)
    before, after = (
        {item.name: numpy_helper.to_array(item) for item in each.graph.initializer} for each in (model, made)
    )
    np.testing.assert_array_equal(after["w2"], before["w2"])
    for name in ("w0", "w1", "b0", "b1"):
        np.testing.assert_array_equal(after[name], in_bf16(after[name]))
    assert np.abs(after["b2"] - in_bf16(after["b2"])).max() > 0
    (exact,), (found,) = outputs_of(model, pictures), outputs_of(made, pictures)
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), exact.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-4)


def test_layers_that_are_kept_are_kept(pictures: list[Any], weights: list[Any]) -> None:
    found = Ranges.over(model_of(weights), pictures)
    kept = found.quantised(["c1"])
    names = {item.name for item in kept.graph.initializer}
    assert "w1" in names and "w0" not in names and "w2" not in names
    everything = found.quantised(found.layers)
    assert {"w0", "w1", "w2"} <= {item.name for item in everything.graph.initializer}


@pytest.mark.parametrize("kind", get_args(Engines))
def test_engines_keep_what_is_kept(kind: Engines, pictures: list[Any], weights: list[Any]) -> None:
    """ONNX Runtime by itself takes the layer between two others in eight bits, too, with one step for all of it."""
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    weights[1][2] *= 1000
    weights[2][:, 2] *= 1e-4
    made = Ranges.over(model_of(weights), pictures).quantised(["c1"])
    content = made.SerializeToString()
    plain = SessionOptions()
    plain.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = InferenceSession(content, plain, providers=["CPUExecutionProvider"])
    engine = engine_of(content, "model", precision="int8", kind=kind)
    for picture in pictures:
        (exact,) = session.run(None, {"images": picture})
        np.testing.assert_allclose(engine.run(picture)[0], exact, atol=0.02 * np.std(exact))


def test_who_suffers_most_is_found(pictures: list[Any], weights: list[Any]) -> None:
    # One channel between c1 and c2 is huge and hardly read: the step of what passes there drowns the others.
    weights[1][0] = 300 * np.abs(weights[1][0])
    weights[2][:, 0] *= 1e-4
    found = Ranges.over(model_of(weights), pictures)
    (exact,) = outputs_of(found.model, pictures)
    spread = exact.std(axis=(0, 2, 3), keepdims=True)

    def moved(model: Any) -> float:
        return float((((outputs_of(model, pictures)[0] - exact) / spread) ** 2).mean())

    costs = suffering(found, moved, found.layers, Remembering())
    assert list(costs) == ["c0", "c1", "c2"]
    assert min(costs["c1"], costs["c2"]) > 10 * costs["c0"] > 0


def test_the_ladder_keeps_the_worst_first_and_ends_with_all() -> None:
    costs = {"a": 1.0, "b": 16.0, "c": 4.0, "d": 0.01}
    rungs = list(ladder(costs))
    assert rungs[0] == ["b"]  # 5.01 of 21.01 is left, less than half
    assert rungs[-1] == ["b", "c", "a", "d"]
    assert all(one == other[: len(one)] and len(one) < len(other) for one, other in pairwise(rungs))
    assert list(ladder({})) == []
