"""Post-training quantisation to int8: ranges from pictures, a step for each output channel, biases that make good what
rounded weights move, and who cannot bear it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from placecell.errors import naming_extras
from placecell.log import Log
from placecell.pose import Array

Pictures = Sequence[NDArray[np.uint8]]

_QUANTISED = ("Conv", "MatMul", "Gemm")
"""Layers that can be kept in floating point one by one."""
_BESIDE = ("Add", "Clip", "Relu", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")
"""What stands between them and would otherwise go to floating point and back."""
_LAYERS = {"Conv", "Relu", "Clip"}
"""What the numbers of a layer come from."""


@dataclass(frozen=True, eq=False)
class Ranges:
    """A model in float32 and the ranges of its activations over some pictures."""

    model: Any
    """`onnx.ModelProto`, its shapes inferred."""
    ranges: Any
    means: Mapping[str, Array]
    """(C,) of the channels of what enters each convolution, by its name."""

    @classmethod
    def over(cls, model: Any, pictures: Pictures) -> Self:
        """The least and the largest value of every activation, and the means of what enters convolutions.

        Raises:
            MissingExtra: onnxruntime is not installed.
        """
        with naming_extras():
            import onnx
            from onnxruntime.quantization import CalibrationMethod, calibrate
        with TemporaryDirectory() as folder, _quiet():
            path, augmented = Path(folder) / "model.onnx", Path(folder) / "augmented.onnx"
            onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
            calibrator = calibrate.create_calibrator(
                path,
                [*_QUANTISED, *_BESIDE],
                augmented_model_path=str(augmented),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(_Reader(pictures))
            inferred = onnx.load(str(path))
            return cls(inferred, calibrator.compute_data(), _means(inferred, pictures))

    @property
    def layers(self) -> list[str]:
        """Names of the nodes with weights, in the order they run."""
        return [node.name for node in self.model.graph.node if node.op_type in _QUANTISED]

    def quantised(self, kept: Collection[str], only: str | None = None) -> Any:
        """The `onnx.ModelProto` in int8, weights by output channel, with pairs of quantise and dequantise (QDQ).

        Args:
            kept: layers that stay in floating point.
            only: the one layer that is quantised, and nothing beside it.
        """
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        layers = self.layers if only is None else [only]
        copied = self._mended([name for name in layers if name not in kept])
        with _quiet():
            quantizer = QDQQuantizer(
                copied,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self.ranges,
                nodes_to_quantize=[] if only is None else [only],
                nodes_to_exclude=[*kept, *self._joins],
                op_types_to_quantize=[*_QUANTISED, *(_BESIDE if only is None else ())],
                extra_options={},
            )
            quantizer.quantize_model()
        return quantizer.model.model

    @property
    def _joins(self) -> list[str]:
        """Nodes that join what does not come straight from layers: OpenVINO 2026.4 dies of these in eight bits, where
        maps of several strides are among them."""
        made_by = {name: node.op_type for node in self.model.graph.node for name in node.output}
        return [
            node.name
            for node in self.model.graph.node
            if node.op_type == "Concat" and not {made_by.get(name, "") for name in node.input} <= _LAYERS
        ]

    def _mended(self, layers: Collection[str]) -> Any:
        """A copy of the model whose convolutions say in the mean what they say before their weights are rounded.

        A filter of edges adds up to nothing; rounded it does not, and what was flat and bright is moved. The bias takes
        it back: b + Σ (W - W̃) x̄, with x̄ the mean of what enters (Nagel et al. 2019, measured as they do with data).
        """
        from onnx import ModelProto, numpy_helper

        copied = ModelProto()
        copied.CopyFrom(self.model)
        stored = {item.name: item for item in copied.graph.initializer}
        for node in copied.graph.node:
            if node.name not in layers or node.name not in self.means or len(node.input) < 3:
                continue
            weight, bias = (numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input[1:3])
            lost = (weight - rounded(weight)).sum(axis=(2, 3))
            groups = len(self.means[node.name]) // weight.shape[1]
            entering = self.means[node.name].reshape(groups, -1).repeat(len(weight) // groups, axis=0)
            mended = (bias + (lost * entering).sum(axis=1)).astype(np.float32)
            stored[node.input[2]].CopyFrom(numpy_helper.from_array(mended, node.input[2]))
        return copied


def rounded(weight: Array) -> Array:
    """Weights (C, ...) as eight bits keep them, a step for each C."""
    steps = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
    steps = np.where(steps > 0, steps, 1.0).reshape(-1, *[1] * (weight.ndim - 1))
    kept: Array = np.round(weight / steps) * steps
    return kept


def _means(model: Any, pictures: Pictures) -> dict[str, Array]:
    """The mean of each channel of what enters each convolution."""
    from onnx import ModelProto, helper

    told = ModelProto()
    told.CopyFrom(model)
    entering = {node.name: node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    names = list(dict.fromkeys(entering.values()))
    del told.graph.output[:]
    told.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = _session(told)
    channels = [np.zeros(())] * len(names)
    for picture in pictures:
        found = session.run(None, {session.get_inputs()[0].name: picture})
        channels = [
            total + values.mean(axis=(0, 2, 3), dtype=np.float64) for total, values in zip(channels, found, strict=True)
        ]
    means = dict(zip(names, (total / len(pictures) for total in channels), strict=True))
    return {layer: means[name] for layer, name in entering.items()}


def suffering(found: Ranges, moved: Callable[[Any], float], layers: Sequence[str], log: Log) -> dict[str, float]:
    """How far answers move when each layer alone is quantised.

    Asked of answers, not of the network's numbers: what moves all cells of a picture alike moves its pose, what moves
    them here and there hardly does.

    Args:
        moved: a model to the mean square of the moves of its answers.
    """
    return {
        name: moved(found.quantised((), only=name)) for name in log.track(layers, "layers in eight bits", len(layers))
    }


def ladder(costs: dict[str, float]) -> Iterator[list[str]]:
    """Which layers to keep, step by step: so many of the worst that what is left costs half of the step before."""
    ranked = sorted(costs, key=lambda name: -costs[name])
    left, count = sum(costs.values()), 0
    while count < len(ranked):
        allowed = left / 2
        while True:  # one more at least
            left -= costs[ranked[count]]
            count += 1
            if count == len(ranked) or left <= allowed:
                break
        yield ranked[:count]


def _session(model: Any) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


class _Reader:
    """Pictures as ONNX Runtime's calibration takes them, one after the other."""

    def __init__(self, pictures: Pictures) -> None:
        self._left = iter(pictures)

    def _next(self) -> dict[str, NDArray[np.uint8]] | None:
        picture = next(self._left, None)
        return None if picture is None else {"images": picture}

    get_next = _next  # as ONNX Runtime calls it


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the quantizer says of steps that are done elsewhere here."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
