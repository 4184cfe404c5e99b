"""Sparse tensors come back sparse: untouched ones byte for byte, changed ones with new values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from io_canonical import canonical
from io_corpus import assert_identical, run
from io_models import gemm_relu, sparse_tensor
from onnx import TensorProto as T
from onnx import helper as h

from onnxprune import io
from onnxprune.errors import LoadError, UnsupportedError
from onnxprune.io import sparse

WEIGHT = np.array([[0, 1], [0, 0], [2, 3]], np.float32)


def sparse_model(linear: bool = True) -> onnx.ModelProto:
    model = gemm_relu()
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(sparse_tensor(WEIGHT, "w", linear))
    return model


def constant_model(linear: bool = True) -> onnx.ModelProto:
    model = gemm_relu()
    del model.graph.initializer[:]
    model.graph.node.insert(0, h.make_node("Constant", [], ["w"], name="c"))
    held = sparse_tensor(WEIGHT, "", linear)
    model.graph.node[0].attribute.append(h.make_attribute("sparse_value", held))
    return model


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("make", [sparse_model, constant_model])
def test_untouched(make: Any, linear: bool) -> None:
    model = make(linear)
    after = io.to_proto(io.load(model).model)
    assert canonical(model) == canonical(after)


def test_onnxruntime_computes_the_same() -> None:
    model = sparse_model()
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
    after = io.to_bytes(io.load(model).model)
    assert_identical(run(model.SerializeToString(), feeds), run(after, feeds))
    assert_identical(run(after, feeds), [np.maximum(feeds["x"] @ WEIGHT, 0)])


def test_passes_see_a_dense_initializer() -> None:
    value = io.load(sparse_model()).model.graph.initializers["w"]
    assert value.const_value is not None
    np.testing.assert_array_equal(value.const_value.numpy(), WEIGHT)
    assert list(value.shape or ()) == [3, 2]
    with pytest.raises(ValueError, match="read-only"):
        value.const_value.numpy()[0, 0] = 1
    node = io.load(constant_model()).model.graph[0]
    np.testing.assert_array_equal(node.attributes["value"].as_tensor().numpy(), WEIGHT)


@pytest.mark.parametrize("linear", [True, False])
def test_changed_values_and_shape(linear: bool) -> None:
    model = io.load(sparse_model(linear)).model
    kept = np.array([[0, 5, 0]], np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(kept, name="w")
    held = io.to_proto(model).graph.sparse_initializer[0]
    assert list(held.dims) == [1, 3]
    assert onnx.numpy_helper.to_array(held.values).tolist() == [5]
    indices = onnx.numpy_helper.to_array(held.indices)
    assert indices.tolist() == ([1] if linear else [[0, 1]])
    assert held.values.name == "w"


def test_changed_constant() -> None:
    model = io.load(constant_model()).model
    model.graph[0].attributes.add(ir.AttrTensor("value", ir.tensor(np.eye(3, dtype=np.float32))))
    attribute = io.to_proto(model).graph.node[0].attribute[0]
    assert attribute.name == "sparse_value"
    assert list(attribute.sparse_tensor.values.dims) == [3]


def test_survives_clone_and_a_second_load() -> None:
    model = sparse_model()
    again = io.load(io.load(io.load(model).model.clone()).model)
    assert canonical(io.to_proto(again.model)) == canonical(model)


def test_in_subgraph_and_function() -> None:
    held = sparse_tensor(WEIGHT, "ws")
    info = [h.make_tensor_value_info("o", T.FLOAT, None)]
    branch = h.make_graph(
        [h.make_node("MatMul", ["x", "ws"], ["o"])], "b", [], info, sparse_initializer=[held]
    )
    model = gemm_relu()
    model.graph.initializer.append(h.make_tensor("c", T.BOOL, [], [True]))
    model.graph.node.append(h.make_node("If", ["c"], ["f"], then_branch=branch, else_branch=branch))
    constant = h.make_node("Constant", [], ["k"], sparse_value=sparse_tensor(WEIGHT))
    body = [constant, h.make_node("MatMul", ["a", "k"], ["b"])]
    function = h.make_function("org.example", "F", ["a"], ["b"], body, [h.make_opsetid("", 18)])
    model.functions.append(function)
    model.graph.node.append(h.make_node("F", ["x"], ["z"], domain="org.example"))
    model.opset_import.append(h.make_opsetid("org.example", 1))
    loaded = io.load(model).model
    assert canonical(io.to_proto(loaded)) == canonical(model)
    inner = loaded.graph[2].attributes["then_branch"].as_graph().initializers["ws"]
    inner.const_value = ir.tensor(WEIGHT * 2, name="ws")
    branches = {a.name: a.g for a in io.to_proto(loaded).graph.node[2].attribute}
    changed = branches["then_branch"].sparse_initializer[0]
    assert onnx.numpy_helper.to_array(changed.values).tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 6], "outside"),
        ([-1, 2], "outside"),
        ([1, 1], "twice"),
        ([1], "2 values but 1 indices"),
        ([[0, 0], [0, 2]], "outside"),
        ([[0], [1]], r"shape \[2, 1\]"),
    ],
)
def test_broken_indices(indices: list[Any], message: str) -> None:
    model = sparse_model()
    held = model.graph.sparse_initializer[0]
    values = np.array([1, 2], np.float32)
    held.values.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    held.indices.CopyFrom(onnx.numpy_helper.from_array(np.array(indices, np.int64)))
    with pytest.raises(LoadError, match=message) as caught:
        io.load(model)
    assert "'w'" in str(caught.value)


def test_too_large_when_dense() -> None:
    model = sparse_model()
    held = model.graph.sparse_initializer[0]
    del held.dims[:]
    held.dims.extend([1 << 31, 1 << 31])
    with pytest.raises(UnsupportedError, match="too large"):
        io.load(model)


@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    density=st.floats(0, 1),
    linear=st.booleans(),
    dtype=st.sampled_from(["FLOAT", "BFLOAT16", "FLOAT8E4M3FN", "INT4", "INT64", "BOOL"]),
    seed=st.integers(0, 99),
)
def test_decode_then_encode(
    shape: list[int], density: float, linear: bool, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kind = ir.DataType[dtype]
    dense = (rng.integers(1, 7, shape) * (rng.random(shape) < density)).astype(kind.numpy())
    dense = np.asarray(dense)
    flags = dense != np.zeros((), dense.dtype)
    places = np.flatnonzero(flags) if linear else np.argwhere(flags)
    proto = onnx.SparseTensorProto(dims=shape)
    values = ir.Tensor(dense[flags], dtype=kind, name="t")
    proto.values.CopyFrom(ir.serde.serialize_tensor(values))
    proto.indices.CopyFrom(onnx.numpy_helper.from_array(places.astype(np.int64)))
    form = sparse.decode(proto, "t", "")
    assert form.dense.numpy().tobytes() == dense.tobytes()
    untouched = sparse.encode(form.dense, form, "t")
    assert untouched == proto
    encoded = sparse.encode(ir.Tensor(dense, dtype=kind, name="t"), form, "t")
    assert encoded == proto
