"""A graph as the content of an ONNX file that says how pictures enter it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch

from placecell.errors import MapError, naming_extras
from placecell.export.graphs import Graph, example
from placecell.runtime.coordinates import WHOLE_PX

_OPSET = 18


def onnx_of(graph: Graph) -> Any:
    """The `onnx.ModelProto` of a graph, in float32.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        MapError: torch cannot express the network in ONNX.
    """
    with naming_extras():
        import onnx
        import onnxscript  # noqa: F401  torch asks for it only half way
    batch = torch.export.Dim("batch", min=1, max=1024)
    sizes: dict[int, Any] = {0: batch}
    if graph.free:
        sizes |= {1: WHOLE_PX * torch.export.Dim("rows", max=1024), 2: WHOLE_PX * torch.export.Dim("columns", max=1024)}
    told: dict[str, Any] = {"dynamic_shapes": ({**sizes, 3: None},), "opset_version": _OPSET, "dynamo": True}
    names: dict[str, Any] = {"input_names": ["images"], "output_names": list(graph.outputs)}
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(graph.network, (example(graph),), **names, **told, verbose=False)
        except Exception as error:  # torch's exporter raises what its many passes raise
            brief = " ".join(str(error).split())[:200]
            raise MapError(f"torch cannot write this network as ONNX ({brief}); choose another --backbone") from error
    model = onnx.load_model_from_string(_bytes_of(program))
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise MapError("torch writes this network for one number of pictures only; choose another --backbone or --head")
    model.producer_name = "placecell"
    _forget(model)
    return model


def _forget(model: Any) -> None:
    """Drop what torch writes beside the network: stack traces with the paths of this machine, and names of objects."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


def _bytes_of(program: Any) -> bytes:
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def described(model: Any, graph: Graph, told: Mapping[str, str]) -> bytes:
    """The content of the file, with what enters and what leaves in its metadata, and `told` beside it."""
    width, height = graph.size
    enters = {
        "name": "images",
        "layout": "NHWC",
        "type": "uint8",
        "colour": "RGB, upright",
        "values": "0 to 255; normalised inside",
        "size": f"any, multiples of {WHOLE_PX}" if graph.free else [width, height],
    }
    del model.metadata_props[:]
    for key, value in {"input": json.dumps(enters), "reads": graph.reads, **told}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"placecell.{key}", value
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter prints and warns of itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
