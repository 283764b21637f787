"""Weights as fewer bits keep them, and biases that make good what rounding moves.

A filter of edges adds up to nothing; rounded it does not, and what was flat and bright is moved, in every picture
alike. Of MobileNetV2 in bf16 nine tenths of what answers move by come from that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Array

Pictures = Sequence[NDArray[np.uint8]]
Rounding = Callable[[Array], Array]

WITH_WEIGHTS = ("Conv", "MatMul", "Gemm")
"""Layers that can be kept in floating point one by one."""


def in_eight_bits(weight: Array) -> Array:
    """Weights (C, ...) as int8 keeps them, a step for each C."""
    steps = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
    steps = np.where(steps > 0, steps, 1.0).reshape(-1, *[1] * (weight.ndim - 1))
    kept: Array = np.round(weight / steps) * steps
    return kept


def in_bf16(weight: Array) -> Array:
    """Weights as bfloat16 keeps them: the upper half of a float32, ties to even."""
    bits = np.asarray(weight, np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


def rounded_to_bf16(model: Any, pictures: Pictures, last: int) -> Any:
    """A copy of an `onnx.ModelProto` whose convolutions lose nothing when an engine keeps them in bf16, and say in the
    mean over some pictures what they said before.

    From the first to the last: weights are rounded, what the layer says in the mean then, after all that is rounded
    before it, is made good by its bias, and the bias is rounded; what that loses is the next layer's to make good.

    Args:
        last: so many at the end keep their weights, and biases as they are made good: nothing follows them.
    """
    from onnx import ModelProto, numpy_helper

    copied = ModelProto()
    copied.CopyFrom(model)
    stored = {item.name: item for item in copied.graph.initializer}

    def keep(name: str, values: Array) -> None:
        stored[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    layers = [node for node in model.graph.node if node.op_type in WITH_WEIGHTS]
    inner = {node.name for node in layers[: len(layers) - last]}
    convolutions = [node for node in layers if node.op_type == "Conv"]
    said = _means(model, [node.output[0] for node in convolutions], pictures)
    for node in convolutions:
        rounding = in_bf16 if node.name in inner else np.asarray
        keep(node.input[1], rounding(numpy_helper.to_array(stored[node.input[1]])))
        if len(node.input) > 2:
            now = _means(copied, node.output, pictures)[node.output[0]]
            bias = numpy_helper.to_array(stored[node.input[2]]).astype(np.float64)
            keep(node.input[2], rounding(bias + said[node.output[0]] - now))
    return copied


def mended(model: Any, means: Mapping[str, Array], layers: Collection[str], rounding: Rounding) -> Any:
    """A copy of an `onnx.ModelProto` whose convolutions say in the mean, once rounded, what they say now.

    The bias takes back what rounding moves: b + Σ (W - W̃) x̄, with x̄ the mean of what enters (Nagel et al. 2019,
    measured as they do with data). Weights are left to whoever rounds them.

    Args:
        means: those of `entering_means`.
        layers: which are rounded; others of them than convolutions with a bias are passed over.
    """
    from onnx import ModelProto, numpy_helper

    copied = ModelProto()
    copied.CopyFrom(model)
    stored = {item.name: item for item in copied.graph.initializer}
    for node in copied.graph.node:
        if node.name not in layers or node.name not in means or len(node.input) < 3:
            continue
        weight, bias = (numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input[1:3])
        lost = (weight - rounding(weight)).sum(axis=(2, 3))
        groups = len(means[node.name]) // weight.shape[1]
        entering = means[node.name].reshape(groups, -1).repeat(len(weight) // groups, axis=0)
        kept = (bias + (lost * entering).sum(axis=1)).astype(np.float32)
        stored[node.input[2]].CopyFrom(numpy_helper.from_array(kept, node.input[2]))
    return copied


def entering_means(model: Any, pictures: Pictures) -> dict[str, Array]:
    """(C,) means of the channels of what enters each convolution, by its name."""
    entering = {node.name: node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    means = _means(model, list(dict.fromkeys(entering.values())), pictures)
    return {layer: means[name] for layer, name in entering.items()}


def _means(model: Any, names: Sequence[str], pictures: Pictures) -> dict[str, Array]:
    """(C,) means of the channels of some maps (B, C, H, W), by their names."""
    from onnx import ModelProto, helper

    told = ModelProto()
    told.CopyFrom(model)
    del told.graph.output[:]
    told.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = _session(told)
    channels = [np.zeros(())] * len(names)
    for picture in pictures:
        found = session.run(None, {session.get_inputs()[0].name: picture})
        channels = [
            total + values.mean(axis=(0, 2, 3), dtype=np.float64) for total, values in zip(channels, found, strict=True)
        ]
    return dict(zip(names, (total / len(pictures) for total in channels), strict=True))


def _session(model: Any) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
