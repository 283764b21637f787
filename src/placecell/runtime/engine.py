"""What runs an ONNX file: OpenVINO where it is installed, ONNX Runtime otherwise."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell.errors import FormatError, MissingExtra, naming_extras

Precision = Literal["int8", "bf16", "fp32"]
Engines = Literal["openvino", "onnxruntime"]
Floats = NDArray[np.float32]

_SHAPES = 4
"""Sizes of pictures that OpenVINO keeps a compiled model for: it is fastest when sizes are fixed."""
_DISABLED = ["WeightBiasQuantization"]
"""Of ONNX Runtime's changes: it would take layers in eight bits, too, that the file keeps in floating point between
others that are not."""


class Engine(Protocol):
    """A model ready to run, on as many threads as OpenCV had been given when it was made; safe to share by threads."""

    name: Engines

    def run(self, images: NDArray[np.uint8]) -> list[Floats]:
        """The outputs, in their order, of pictures (B, H, W, 3), RGB uint8."""
        ...


def engines() -> list[Engines]:
    """Those that are installed, the fastest first.

    Raises:
        MissingExtra: there is none.
    """
    found = [name for name in get_args(Engines) if find_spec(name)]
    if not found:
        raise MissingExtra("onnxruntime", "serve")
    return found


def engine_of(model: bytes, where: str, *, precision: Precision, kind: Engines | None = None) -> Engine:
    """The engine of an ONNX file's content; `where` names it in errors.

    Args:
        precision: of what the file leaves in floating point. bf16 is kept where the engine and the processor have it.
        kind: which engine; None takes OpenVINO where it is installed.

    Raises:
        MissingExtra: neither engine is installed, or not the one that was asked for.
        FormatError: the engine cannot read the file.
    """
    chosen = kind or engines()[0]
    made: type[OpenVino] | type[OnnxRuntime] = OpenVino if chosen == "openvino" else OnnxRuntime
    with naming_extras():
        try:
            return made(model, precision)
        except (RuntimeError, ValueError) as error:
            brief = " ".join(str(error).split())[:160]
            raise FormatError(f"{where}: {chosen} cannot read it ({brief}); export the map again") from error
        except Exception as error:  # ONNX Runtime's own exceptions have no public base
            if type(error).__module__.partition(".")[0] != "onnxruntime":
                raise
            raise FormatError(f"{where}: damaged or of another version; export the map again") from error


class OpenVino:
    """OpenVINO on the processor, a compiled model for each size of pictures."""

    name: Engines = "openvino"

    def __init__(self, model: bytes, precision: Precision) -> None:
        import openvino

        self._core = openvino.Core()
        self._model = self._core.read_model(model=model, weights=b"")
        # int8 files too: without a word OpenVINO takes bf16 for the rest, where the processor has it.
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": max(1, cv2.getNumThreads()),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> list[Floats]:
        """See `Engine`."""
        with self._lock:
            request = self._request(images.shape)
            request.infer([images], share_inputs=True)
            outputs = range(len(self._model.outputs))
            return [np.array(request.get_output_tensor(index).data, np.float32) for index in outputs]

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._requests:
            self._model.reshape(list(shape))
            compiled = self._core.compile_model(self._model, "CPU", self._settings)
            self._requests[shape] = compiled.create_infer_request()
            while len(self._requests) > _SHAPES:
                self._requests.popitem(last=False)
        self._requests.move_to_end(shape)
        return self._requests[shape]


class OnnxRuntime:
    """ONNX Runtime on the processor."""

    name: Engines = "onnxruntime"

    def __init__(self, model: bytes, precision: Precision) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = max(1, cv2.getNumThreads())
        settings.log_severity_level = 3
        # Threads that spin between pictures take the cores from whoever decodes the next one.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            model, settings, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
        )
        self._input = self._session.get_inputs()[0].name

    def run(self, images: NDArray[np.uint8]) -> list[Floats]:
        """See `Engine`."""
        found: Sequence[Any] = self._session.run(None, {self._input: np.ascontiguousarray(images)})
        return [np.asarray(output, np.float32) for output in found]
