"""The two engines: the same answers, and one line where they cannot."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from placecell.errors import FormatError, MissingExtra
from placecell.runtime import engine as engine_module
from placecell.runtime.engine import Engines, OpenVino, engine_of

every_engine = pytest.mark.parametrize("kind", get_args(Engines))


@pytest.fixture(scope="module")
def model() -> bytes:
    """Means of the colours of pictures of any size, times two in a second output."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["mean", "mean"], ["twice"]),
    ]
    enters = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])
    leaves = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("mean", "twice")]
    made = helper.make_model(helper.make_graph(nodes, "g", [enters], leaves), ir_version=8)
    del made.opset_import[:]
    made.opset_import.append(helper.make_opsetid("", 17))
    content: bytes = made.SerializeToString()
    return content


def picture(seed: int, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@every_engine
class TestRun:
    def test_outputs_come_in_their_order_whatever_the_size(self, kind: Engines, model: bytes) -> None:
        engine = engine_of(model, "model", precision="fp32", kind=kind)
        assert engine.name == kind
        for index in range(7):  # more sizes than are kept
            drawn = picture(index, 2, 8 + index, 9, 3)
            mean, twice = engine.run(drawn)
            np.testing.assert_allclose(mean, drawn.mean(axis=(1, 2)), rtol=1e-5)
            np.testing.assert_allclose(twice, 2 * mean, rtol=1e-6)

    def test_what_it_said_stays_when_it_is_asked_again(self, kind: Engines, model: bytes) -> None:
        engine = engine_of(model, "model", precision="fp32", kind=kind)
        first = engine.run(picture(0, 1, 8, 8, 3))[0]
        kept = first.copy()
        engine.run(picture(1, 1, 8, 8, 3))
        np.testing.assert_array_equal(first, kept)

    def test_threads_may_share_it(self, kind: Engines, model: bytes) -> None:
        engine = engine_of(model, "model", precision="fp32", kind=kind)
        drawn = [picture(index, 1, 8, 8 + index % 3, 3) for index in range(30)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda image: engine.run(image)[0][0], drawn))
        for mean, image in zip(found, drawn, strict=True):
            np.testing.assert_allclose(mean, image[0].mean(axis=(0, 1)), rtol=1e-5)

    def test_views_go_in_too(self, kind: Engines, model: bytes) -> None:
        drawn = picture(0, 1, 20, 20, 3)[:, 3:11, ::-2]
        mean = engine_of(model, "model", precision="fp32", kind=kind).run(drawn)[0]
        np.testing.assert_allclose(mean, drawn.mean(axis=(1, 2)), rtol=1e-5)

    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x04"])
    def test_damage_is_told_in_one_line(self, kind: Engines, content: bytes) -> None:
        with pytest.raises(FormatError, match=r"model\.onnx: .*export the map again") as caught:
            engine_of(content, "model.onnx", precision="fp32", kind=kind)
        assert "\n" not in str(caught.value)


class TestChoice:
    def test_openvino_is_taken_where_it_is(self, model: bytes) -> None:
        assert isinstance(engine_of(model, "model", precision="fp32"), OpenVino)

    def test_onnx_runtime_where_it_is_not(self, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_module, "find_spec", lambda name: name == "onnxruntime" or None)
        assert engine_of(model, "model", precision="fp32").name == "onnxruntime"

    def test_without_any_the_extra_is_named(self, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_module, "find_spec", lambda name: None)
        with pytest.raises(MissingExtra, match=r"placecell\[serve\]"):
            engine_of(model, "model", precision="fp32")

    def test_only_as_many_sizes_are_kept_as_are_worth_it(self, model: bytes) -> None:
        engine = OpenVino(model, "fp32")
        for width in range(8, 20):
            engine.run(picture(0, 1, 8, width, 3))
        assert len(engine._requests) == engine_module._SHAPES


def test_an_unknown_map_is_not_an_export(room_map_folder: Callable[[str], Path]) -> None:
    from placecell.errors import MapError
    from placecell.runtime.exported import load_export

    with pytest.raises(MapError, match="not an exported map"):
        load_export(room_map_folder("structure"))
