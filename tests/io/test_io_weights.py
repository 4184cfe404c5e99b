from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from io_models import gemm_relu
from onnx import helper as h

from onnxprune import io

F32 = np.float32


def named(model: onnx.ModelProto) -> list[str]:
    return io.nonfinite_weights(io.load(model).model)


def with_weight(values: np.ndarray) -> onnx.ModelProto:
    model = gemm_relu()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    return model


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5])
def test_weight(bad: float, place: int) -> None:
    values = np.arange(6, dtype=F32)
    assert named(with_weight(values.reshape(3, 2))) == []
    values[place] = bad
    assert named(with_weight(values.reshape(3, 2))) == ["w"]


@pytest.mark.parametrize("dtype", ["FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "DOUBLE"])
def test_every_float_type(dtype: str) -> None:
    kind = ir.DataType[dtype]
    values = np.array([[1, 2], [3, np.nan], [5, 6]]).astype(kind.numpy())
    model = io.load(gemm_relu()).model
    model.graph.initializers["w"].const_value = ir.Tensor(values, dtype=kind, name="w")
    assert io.nonfinite_weights(model) == ["w"]


def test_last_of_many_pieces() -> None:
    values = np.ones(((1 << 22) + 5, 1), F32)
    values[-1] = np.inf
    model = io.load(gemm_relu()).model
    model.graph.initializers["w"].const_value = ir.tensor(values, name="w")
    assert io.nonfinite_weights(model) == ["w"]


def test_infinite_masks_and_bounds_are_meant() -> None:
    model = gemm_relu()
    mask = np.where(np.tri(2), 0, -np.inf).astype(F32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(np.inf, F32), "most"))
    model.graph.node.append(h.make_node("Add", ["y", "mask"], ["a"]))
    model.graph.node.append(h.make_node("Clip", ["a", "", "most"], ["b"]))
    assert named(model) == []
    model.graph.initializer[1].CopyFrom(
        onnx.numpy_helper.from_array(np.full((2, 2), np.nan, F32), "mask")
    )
    assert named(model) == ["mask"]


def test_behind_a_cast_and_in_a_constant_of_a_branch() -> None:
    half = onnx.numpy_helper.from_array(np.full((3, 2), np.inf, np.float16))
    nodes = [
        h.make_node("Constant", [], ["half"], value=half),
        h.make_node("Cast", ["half"], ["full"], to=1),
        h.make_node("MatMul", ["x", "full"], ["o"]),
    ]
    info = [h.make_tensor_value_info("o", 1, None)]
    branch = h.make_graph(nodes, "b", [], info)
    model = gemm_relu()
    model.graph.initializer.append(h.make_tensor("c", 9, [], [True]))
    model.graph.node.append(h.make_node("If", ["c"], ["f"], then_branch=branch, else_branch=branch))
    assert named(model) == ["half"]
