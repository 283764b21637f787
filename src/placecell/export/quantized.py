"""Post-training quantisation to int8: ranges from pictures, a step for each output channel, and who cannot bear it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from placecell.errors import naming_extras
from placecell.log import Log

Pictures = Sequence[NDArray[np.uint8]]

_QUANTISED = ("Conv", "MatMul", "Gemm")
"""Layers that can be kept in floating point one by one."""
_BESIDE = ("Add", "Clip", "Relu", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")
"""What stands between them and would otherwise go to floating point and back."""
_JUDGED = 8
"""Pictures that tell how much a layer suffers."""


@dataclass(frozen=True, eq=False)
class Ranges:
    """A model in float32 and the ranges of its activations over some pictures."""

    model: Any
    """`onnx.ModelProto`, its shapes inferred."""
    ranges: Any

    @classmethod
    def over(cls, model: Any, pictures: Pictures) -> Self:
        """The least and the largest value of every activation.

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
            return cls(onnx.load(str(path)), calibrator.compute_data())

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
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        with _quiet():
            quantizer = QDQQuantizer(
                copied,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self.ranges,
                nodes_to_quantize=[] if only is None else [only],
                nodes_to_exclude=list(kept),
                op_types_to_quantize=[*_QUANTISED, *(_BESIDE if only is None else ())],
                extra_options={},
            )
            quantizer.quantize_model()
        return quantizer.model.model


def suffering(found: Ranges, pictures: Pictures, layers: Iterable[str], log: Log) -> dict[str, float]:
    """How much of the answer each layer costs when it alone is quantised: the mean square of the change of the outputs,
    each number of a cell in multiples of its variance over the pictures."""
    judged = [pictures[index] for index in np.unique(np.linspace(0, len(pictures) - 1, _JUDGED).astype(int))]
    exact = outputs_of(found.model, judged)
    scales = [np.maximum(part.reshape(-1, part.shape[-1]).std(axis=0), 1e-9) for part in exact]
    costs = {}
    names = list(layers)
    for name in log.track(names, "layers in eight bits", len(names)):
        moved = outputs_of(found.quantised((), only=name), judged)
        change = [((a - b) / scale) ** 2 for a, b, scale in zip(moved, exact, scales, strict=True)]
        costs[name] = float(np.mean([part.mean() for part in change]))
    return costs


def ladder(costs: dict[str, float]) -> Iterator[list[str]]:
    """Which layers to keep, step by step: so many of the worst that what is left costs a quarter of the step before."""
    ranked = sorted(costs, key=lambda name: -costs[name])
    left, count = sum(costs.values()), 0
    while count < len(ranked):
        allowed = left / 4
        while True:  # one more at least
            left -= costs[ranked[count]]
            count += 1
            if count == len(ranked) or left <= allowed:
                break
        yield ranked[:count]


def outputs_of(model: Any, pictures: Pictures) -> list[NDArray[np.float32]]:
    """What a model says of pictures that are all of one size."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    runs = [session.run(None, {name: picture}) for picture in pictures]
    return [np.concatenate(parts).astype(np.float32) for parts in zip(*runs, strict=True)]


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
