"""Post-training quantisation to int8: ranges from pictures, a step for each output channel, and who cannot bear it."""

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
from placecell.export.mending import WITH_WEIGHTS, Pictures, entering_means, in_eight_bits, mended
from placecell.log import Log
from placecell.pose import Array

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
                [*WITH_WEIGHTS, *_BESIDE],
                augmented_model_path=str(augmented),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(_Reader(pictures))
            inferred = onnx.load(str(path))
            return cls(inferred, calibrator.compute_data(), entering_means(inferred, pictures))

    @property
    def layers(self) -> list[str]:
        """Names of the nodes with weights, in the order they run."""
        return [node.name for node in self.model.graph.node if node.op_type in WITH_WEIGHTS]

    def quantised(self, kept: Collection[str], only: str | None = None) -> Any:
        """The `onnx.ModelProto` in int8, weights by output channel, with pairs of quantise and dequantise (QDQ).

        Args:
            kept: layers that stay in floating point.
            only: the one layer that is quantised, and nothing beside it.
        """
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        layers = self.layers if only is None else [only]
        copied = mended(self.model, self.means, [name for name in layers if name not in kept], in_eight_bits)
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
                op_types_to_quantize=[*WITH_WEIGHTS, *(_BESIDE if only is None else ())],
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
