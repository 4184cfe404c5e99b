"""Every kind of model goes in, the same kind comes out, and the caller's object stays as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from io_canonical import canonical
from io_corpus import assert_identical, run
from io_models import gemm_relu, layers
from onnx import TensorProto as T
from onnx import helper as h

from onnxprune import io
from onnxprune.errors import UnsupportedError

WIDTHS = [5, 4, 3]
FEEDS = {"h0": np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)}


def given_as(kind: str, tmp_path: Path) -> Any:
    proto = layers(WIDTHS)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return {
        "path": path,
        "str": str(path),
        "bytes": proto.SerializeToString(),
        "proto": proto,
        "ir": ir.from_proto(proto),
        "gs": gs.import_onnx(proto),
    }[kind]


def snapshot(source: Any) -> bytes:
    """Return what an object holds as bytes, without changing it."""
    if isinstance(source, Path | str):
        return Path(source).read_bytes()
    if isinstance(source, bytes):
        return source
    if isinstance(source, onnx.ModelProto):
        return source.SerializeToString()
    if isinstance(source, ir.Model):
        names = [t.name for t in (v.const_value for v in source.graph.initializers.values()) if t]
        return ir.to_proto(source).SerializeToString() + repr(names).encode()
    return gs.export_onnx(source).SerializeToString()


KINDS = {
    "path": ir.Model,
    "str": ir.Model,
    "bytes": bytes,
    "proto": onnx.ModelProto,
    "ir": ir.Model,
    "gs": gs.Graph,
}


@pytest.mark.parametrize("kind", KINDS)
def test_private_copy_and_same_kind_back(kind: str, tmp_path: Path) -> None:
    source = given_as(kind, tmp_path)
    before = snapshot(source)
    loaded = io.load(source)
    assert loaded.kind == {"str": "path"}.get(kind, kind)
    graph = loaded.model.graph
    value = graph.initializers["w0"]
    assert value.const_value is not None
    with pytest.raises(ValueError, match="read-only"):
        value.const_value.numpy()[:] = 0
    value.const_value = ir.tensor(np.zeros((5, 4), np.float32), name="w0")
    value.name = "renamed"
    graph.initializers["w1"].name = "other"
    graph[0].name = "first"
    graph[0].metadata_props["k"] = "v"
    graph.inputs[0].shape = ir.Shape([7, 5])
    loaded.model.producer_name = "onnxprune"
    loaded.model.metadata_props["k"] = "v"
    result = loaded.restore()
    assert isinstance(result, KINDS[kind])
    assert snapshot(source) == before
    after = io.load(result)
    assert set(after.model.graph.initializers) == {"renamed", "other"}
    out = run(io.to_bytes(after.model), FEEDS | {"h0": np.resize(FEEDS["h0"], (7, 5))})
    assert_identical(out, [np.zeros((7, 3), np.float32)])


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged_model_gives_the_same_outputs(kind: str, tmp_path: Path) -> None:
    source = given_as(kind, tmp_path)
    io.save(io.load(source), tmp_path / "out.onnx")
    wanted = run(layers(WIDTHS).SerializeToString(), FEEDS)
    assert_identical(wanted, run(str(tmp_path / "out.onnx"), FEEDS))
    again = io.load(io.load(source).restore())
    assert_identical(wanted, run(io.to_bytes(again.model), FEEDS))


def test_restore_of_another_model() -> None:
    loaded = io.load(layers(WIDTHS))
    other = loaded.model.clone()
    other.graph.name = "other"
    assert loaded.restore(other).graph.name == "other"
    assert loaded.with_model(other).model is other


def test_load_of_a_loaded_is_another_copy() -> None:
    first = io.load(layers(WIDTHS))
    second = io.load(first)
    second.model.graph.name = "second"
    second.model.graph.initializers["w0"].name = "v"
    assert first.model.graph.name == "layers"
    assert list(first.model.graph.initializers) == ["w0", "w1"]
    assert first.model.graph.initializers["w0"].const_value.name == "w0"  # type: ignore[union-attr]


def test_ir_model_shares_arrays_without_letting_them_be_written() -> None:
    array = np.ones((3, 2), np.float32)
    model = ir.from_proto(gemm_relu())
    model.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    held = io.load(model).model.graph.initializers["w"].const_value
    assert held is not None
    assert np.shares_memory(held.numpy(), array)
    assert not held.numpy().flags.writeable
    assert array.flags.writeable


def test_ir_model_out_of_order_is_an_error_with_the_remedy() -> None:
    proto = gemm_relu()
    nodes = [copy.deepcopy(n) for n in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    model = ir.from_proto(proto)
    with pytest.raises(UnsupportedError, match=r"graph\.sort"):
        io.load(model)
    model.graph.sort()
    io.load(model)
    assert canonical(proto) == canonical(io.to_proto(io.load(proto).model))


def test_graphsurgeon_graph_with_a_subgraph_and_a_function() -> None:
    info = [h.make_tensor_value_info("o", T.FLOAT, None)]
    branches = [
        h.make_graph([h.make_node(op, ["y"], ["o"])], op, [], info) for op in ("Relu", "Neg")
    ]
    model = gemm_relu()
    model.graph.initializer.append(h.make_tensor("c", T.BOOL, [], [False]))
    model.graph.node.append(
        h.make_node("If", ["c"], ["f"], then_branch=branches[0], else_branch=branches[1])
    )
    model.graph.node.append(h.make_node("Twice", ["f"], ["t"], domain="org.example"))
    model.functions.append(
        h.make_function(
            "org.example",
            "Twice",
            ["a"],
            ["b"],
            [h.make_node("Add", ["a", "a"], ["b"])],
            [h.make_opsetid("", 18)],
        )
    )
    model.opset_import.append(h.make_opsetid("org.example", 1))
    del model.graph.output[:]
    model.graph.output.append(h.make_tensor_value_info("t", T.FLOAT, ["batch", 2]))
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
    back = io.load(gs.import_onnx(model)).restore()
    assert isinstance(back, gs.Graph)
    assert_identical(
        run(model.SerializeToString(), feeds),
        run(gs.export_onnx(back).SerializeToString(), feeds),
    )


def test_four_bit_weights_through_graphsurgeon() -> None:
    loaded = io.load(gs.import_onnx(gemm_relu()))
    kind = ir.DataType.INT4
    tensor = ir.Tensor(np.array([1, -2, 3], kind.numpy()), dtype=kind, name="four")
    four = ir.Value(name="four", type=ir.TensorType(kind), const_value=tensor)
    loaded.model.graph.register_initializer(four)
    loaded.model.graph.append(ir.node("Cast", [four], {"to": 1}, name="c"))
    back = io.load(loaded.restore()).model.graph.initializers["four"].const_value
    assert back is not None
    assert back.numpy().tolist() == [1, -2, 3]


def test_graphsurgeon_graph_that_cannot_be_exported() -> None:
    graph = gs.import_onnx(gemm_relu())
    graph.nodes[0].domain = "org.example"
    graph.inputs[0].dtype = None
    domains = [d.domain for d in graph.import_domains]
    with pytest.raises(UnsupportedError, match="cannot export the given graph"):
        io.load(graph)
    graph.inputs[0].dtype = np.float32
    io.load(graph)
    assert [d.domain for d in graph.import_domains] == domains
