"""Unfolding against onnxruntime: W X is what the operator computes, for every geometry."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration.operands import Operand, find_operand
from onnxprune.planning import find_layers
from onnxprune.proof.equivalence import open_session
from onnxprune.rules.analysis import analyze
from onnxprune.rules.shapes import infer_shapes


def model_of(op, x, weight, bias=None, *, weight_first=False, tail=(), **attributes):
    """One layer whose data operand is a graph input."""
    names = ["w", "x"] if weight_first else ["x", "w"]
    held = [numpy_helper.from_array(weight, "w")]
    if bias is not None:
        names.append("b")
        held.append(numpy_helper.from_array(bias, "b"))
    node = helper.make_node(op, names, ["y"], "layer", **attributes)
    nodes = [node, *tail]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def operand_of(proto: onnx.ModelProto) -> Operand:
    model = ir.from_proto(proto)
    infer_shapes(model)
    analyzer = analyze(model)
    (layer,) = find_layers(analyzer)
    found = find_operand(analyzer, layer)
    assert isinstance(found, Operand), found
    return found


def outputs(proto, x):
    return open_session(proto.SerializeToString()).run(None, {"x": x})[0]


def check(proto, x, weight, flatten):
    """The matrix form computes what onnxruntime computes."""
    operand = operand_of(proto)
    columns = operand.columns(x, None)
    assert columns.shape[2] == operand.count(x)
    product = np.matmul(operand.matrix(weight), columns)
    got = outputs(proto, x)
    np.testing.assert_allclose(product, flatten(got), rtol=1e-4, atol=1e-4)
    assert np.array_equal(operand.unmatrix(operand.matrix(weight)), weight)


@settings(max_examples=60)
@given(st.data())
def test_convolutions_of_every_geometry(data):
    draw = data.draw
    rank = draw(st.integers(1, 3))
    groups, outs, ins = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    axis = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides, dilations = draw(axis), draw(axis), draw(axis)
    sizes = draw(st.lists(st.integers(1, 7), min_size=rank, max_size=rank))
    transposed = draw(st.booleans())
    auto = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    attributes = {"group": groups, "strides": strides, "dilations": dilations,
                  "kernel_shape": kernel}  # fmt: skip
    if auto == "NOTSET":
        attributes["pads"] = pads
        room = [n + pads[i] + pads[i + rank] - s for i, (n, s) in
                enumerate(zip(sizes, spans, strict=True))]  # fmt: skip
        if transposed:
            room = [(n - 1) * t + s - pads[i] - pads[i + rank] - 1 for i, (n, t, s) in
                    enumerate(zip(sizes, strides, spans, strict=True))]  # fmt: skip
        assume(min(room) >= 0)
    else:
        attributes["auto_pad"] = auto
        if auto == "VALID" and not transposed:
            assume(all(n >= s for n, s in zip(sizes, spans, strict=True)))
        if transposed:
            assume(auto == "VALID" or all(s >= t for s, t in zip(spans, strides, strict=True)))
        elif auto != "VALID":
            assume(all(d == 1 for d in dilations))  # onnxruntime refuses the others
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.standard_normal((2, groups * ins, *sizes)).astype(np.float32)
    shape = (groups * ins, outs) if transposed else (groups * outs, ins)
    weight = rng.standard_normal((*shape, *kernel)).astype(np.float32)
    proto = model_of("ConvTranspose" if transposed else "Conv", x, weight, **attributes)

    def flatten(y):
        return y.reshape(2, groups, outs, -1).transpose(1, 2, 0, 3).reshape(groups, outs, -1)

    check(proto, x, weight, flatten)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("weight_first", [False, True])
def test_gemm(turned, weight_first):
    rng = np.random.default_rng(1)
    shape, other = ((5, 3), (4, 5)) if weight_first == turned else ((3, 5), (5, 4))
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in (shape, other))
    if weight_first:
        x = rng.standard_normal((5, 3) if not turned else (3, 5)).astype(np.float32)
        weight = rng.standard_normal((4, 5)).astype(np.float32)
        attributes = {"transB": int(turned)}
    else:
        x = rng.standard_normal((3, 5)).astype(np.float32)
        weight = rng.standard_normal((4, 5) if turned else (5, 4)).astype(np.float32)
        attributes = {"transB": int(turned)}
    proto = model_of("Gemm", x, weight, weight_first=weight_first, **attributes)
    check(proto, x, weight, (lambda y: y[None]) if weight_first else (lambda y: y.T[None]))


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_matmul_of_any_rank(shape):
    rng = np.random.default_rng(2)
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal((5, 4)).astype(np.float32)
    proto = model_of("MatMul", x, weight)
    check(proto, x, weight, lambda y: y.reshape(-1, 4).T[None])


def test_drawn_columns_are_columns():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 4, 9, 9)).astype(np.float32)
    weight = rng.standard_normal((6, 4, 3, 3)).astype(np.float32)
    operand = operand_of(model_of("Conv", x, weight, pads=[1, 1, 1, 1]))
    every = operand.columns(x, None)[0].T
    some = operand.columns(x, operand.positions(x, 30, np.random.default_rng(5)))[0].T
    again = operand.columns(x, operand.positions(x, 30, np.random.default_rng(5)))[0].T
    assert len(some) == 30 and np.array_equal(some, again)
    known = {row.tobytes() for row in every}
    assert all(row.tobytes() in known for row in some)


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_a_bias_site_moves_the_output_by_what_was_asked(op):
    rng = np.random.default_rng(4)
    by = np.arange(6, dtype=np.float64)
    if op == "Conv":
        x = rng.standard_normal((2, 4, 5, 5)).astype(np.float32)
        weight = rng.standard_normal((6, 4, 3, 3)).astype(np.float32)
        proto, column = model_of(op, x, weight), 1
    else:
        x = rng.standard_normal((3, 4)).astype(np.float32)
        weight = rng.standard_normal((4, 6)).astype(np.float32)
        bias = rng.standard_normal(6).astype(np.float32)
        column = -1
        if op == "Gemm":
            proto = model_of(op, x, weight, bias, alpha=0.5, beta=3.0)
        else:
            proto = model_of(op, x, weight, tail=[helper.make_node("Add", ["y", "b"], ["z"])])
            proto.graph.initializer.append(numpy_helper.from_array(bias, "b"))
    site = operand_of(proto).bias
    assert site is not None
    before = outputs(proto, x)
    vector = numpy_helper.from_array(site.moved(by).astype(np.float32), "b")
    node = proto.graph.node[-1] if op == "MatMul" else proto.graph.node[0]
    if op == "Conv":
        node.input.append("b")
    kept = [t for t in proto.graph.initializer if t.name != "b"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, vector])
    moved = np.moveaxis(outputs(proto, x) - before, column, -1)
    factor = 0.5 if op == "Gemm" else 1.0
    np.testing.assert_allclose(moved, np.broadcast_to(by * factor, moved.shape), atol=1e-4)


def fused(op, x, weight, bias, **attributes):
    proto = model_of(op, x, weight, bias, domain="com.microsoft", **attributes)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def test_layers_that_onnxruntime_fused_with_what_follows():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 4, 6, 5)).astype(np.float32)
    weight, bias = rng.standard_normal((6, 2, 3, 3)), rng.standard_normal(6)
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    proto = fused("FusedConv", x, weight, bias, activation="Relu", group=2, strides=[2, 1])
    operand = operand_of(proto)
    assert operand.bias is not None and np.array_equal(operand.bias.old, bias)
    product = np.matmul(operand.matrix(weight), operand.columns(x, None))
    got = outputs(proto, x)
    flat = got.reshape(2, 2, 3, -1).transpose(1, 2, 0, 3).reshape(2, 3, -1)
    np.testing.assert_allclose(np.maximum(product + bias.reshape(2, 3, 1), 0), flat, atol=1e-4)

    x, weight = x.reshape(20, 12), weight.reshape(9, 12)
    bias = rng.standard_normal(9).astype(np.float32)
    proto = fused("FusedGemm", x, weight, bias, activation="Relu", transB=1)
    operand = operand_of(proto)
    assert operand.bias is not None and np.array_equal(operand.bias.old, bias)
    product = np.matmul(operand.matrix(weight), operand.columns(x, None))[0]
    np.testing.assert_allclose(np.maximum(product.T + bias, 0), outputs(proto, x), atol=1e-4)


def test_weights_of_fused_attention():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)
    weight = rng.standard_normal((8, 24)).astype(np.float32)
    bias = rng.standard_normal(24).astype(np.float32)
    proto = fused("Attention", x, weight, bias, num_heads=2)
    operand = operand_of(proto)
    assert operand.bias is not None and np.array_equal(operand.bias.old, bias)
    product = np.matmul(operand.matrix(weight), operand.columns(x, None))[0].T + bias
    q, k, v = np.moveaxis(product.reshape(2, 3, 3, 2, 4), [2, 3], [0, 2])
    scores = np.exp(q @ k.swapaxes(-1, -2) / 2.0)
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    want = mixed.transpose(0, 2, 1, 3).reshape(2, 3, 8)
    np.testing.assert_allclose(outputs(proto, x), want, atol=1e-4)
