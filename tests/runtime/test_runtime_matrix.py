"""Gemm and MatMul against the CPU provider."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_graphs import Net, claimed_ops, compare, feed

from onnxprune import runtime


@settings(max_examples=80)
@given(
    rows=st.integers(1, 40),
    inner=st.integers(1, 70),
    columns=st.integers(1, 70),
    transposed=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.0, 3.0]),
    term=st.sampled_from(["", "scalar", "row", "row2", "column", "full", "one"]),
    relu=st.booleans(),
    dynamic=st.booleans(),
    sparsity=st.sampled_from([0.0, 0.7, 1.0]),
    isa=st.sampled_from(["auto", "avx2", "scalar"]),
)
def test_gemm(
    rows: int,
    inner: int,
    columns: int,
    transposed: bool,
    alpha: float,
    beta: float,
    term: str,
    relu: bool,
    dynamic: bool,
    sparsity: float,
    isa: str,
) -> None:
    net = Net(rows + inner)
    x = net.input("x", ["m" if dynamic else rows, inner])
    shape = (columns, inner) if transposed else (inner, columns)
    inputs = [x, net.weight(*shape, sparsity=sparsity)]
    terms: dict[str, tuple[int, ...]] = {
        "scalar": (),
        "one": (1,),
        "row": (columns,),
        "row2": (1, columns),
        "column": (rows, 1),
        "full": (rows, columns),
    }
    if term:
        value = np.asarray(net.rng.standard_normal(terms[term]), np.float32)
        inputs.append(net.constant(value))
    y = net.add("Gemm", *inputs, alpha=alpha, beta=beta, transB=int(transposed))
    if relu:
        y = net.add("Relu", y)
    feeds = [feed(net.rng, {"x": [rows, inner]})]
    if dynamic and term not in ("column", "full"):
        feeds += [feed(net.rng, {"x": [r, inner]}) for r in (1, rows + 17)]
    session = compare(net.model(y), feeds, force=True, isa=isa, reduction=inner)
    # A term with a value for every row is beyond what is folded into the weighted sum.
    per_row = term in ("column", "full") and rows > 1 and beta != 0.0
    assert ("Gemm" in claimed_ops(session)) == (not per_row)


@settings(max_examples=80)
@given(
    lead=st.lists(st.integers(1, 4), max_size=3),
    rows=st.integers(1, 20),
    inner=st.integers(1, 50),
    columns=st.integers(1, 50),
    left=st.booleans(),
    ones=st.integers(0, 2),
    bias=st.booleans(),
    residual=st.booleans(),
    activation=st.sampled_from(["", "Relu", "Gelu", "Tanh"]),
    dynamic=st.booleans(),
    isa=st.sampled_from(["auto", "avx2", "scalar"]),
)
def test_matmul_of_any_rank(
    lead: list[int],
    rows: int,
    inner: int,
    columns: int,
    left: bool,
    ones: int,
    bias: bool,
    residual: bool,
    activation: str,
    dynamic: bool,
    isa: str,
) -> None:
    """Constant on either side; leading axes of the constant may only be 1."""
    net = Net(rows + inner)
    ones = min(ones, len(lead))
    if left:
        given_shape, weight = [*lead, inner, columns], (*(1,) * ones, rows, inner)
    else:
        given_shape, weight = [*lead, rows, inner], (*(1,) * ones, inner, columns)
    dims: list[int | str] = [*given_shape]
    if dynamic:
        dims = [f"d{i}" for i in range(len(given_shape))]
        dims[-2 if left else -1] = inner
    x = net.input("x", dims)
    w = net.weight(*weight)
    y = net.add("MatMul", w, x) if left else net.add("MatMul", x, w)
    if bias:
        y = net.add("Add", y, net.constant(sparse_bias(net, left, rows, columns)))
    if residual:
        other = net.weight(*weight)
        y = net.add("Add", net.add("MatMul", *((other, x) if left else (x, other))), y)
    if activation == "Gelu":
        y = gelu(net, y)
    elif activation:
        y = net.add(activation, y)
    feeds = [feed(net.rng, {"x": given_shape})]
    if dynamic:
        larger = [*given_shape]
        larger[-1 if left else -2] += 9
        feeds.append(feed(net.rng, {"x": larger}))
    session = compare(net.model(y), feeds, force=True, isa=isa, reduction=inner)
    assert "MatMul" in claimed_ops(session) or "Gemm" in claimed_ops(session)


def sparse_bias(net: Net, left: bool, rows: int, columns: int) -> Any:
    shape = (rows, 1) if left else (columns,)
    return net.rng.standard_normal(shape).astype(np.float32)


def gelu(net: Net, x: str) -> str:
    """GELU as exporters before opset 20 spell it."""
    root = net.constant(np.float32(math.sqrt(2)))
    erf = net.add("Erf", net.add("Div", x, root))
    one = net.add("Add", erf, net.constant(np.float32(1)))
    return net.add("Mul", net.add("Mul", x, one), net.constant(np.float32(0.5)))


def test_spelled_out_gelu_is_one_kernel() -> None:
    net = Net()
    x = net.input("x", [1, 16, 32])
    y = gelu(net, net.add("Add", net.add("MatMul", x, net.weight(32, 48)), net.vector(48)))
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 16, 32]})], force=True)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1
    # onnxruntime may wrap the product into reshapes, which move nothing.
    assert len({d.kernel for d in decisions} - {"planes"}) == 1


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17])
def test_gemm_forms_of_every_opset(opset: int) -> None:
    net = Net()
    x = net.input("x", [5, 12])
    y = net.add("Gemm", x, net.weight(12, 20), net.vector(20), alpha=0.5)
    session = compare(net.model(y, opset=opset), [feed(net.rng, {"x": [5, 12]})], force=True)
    assert claimed_ops(session) == ["Gemm"]


def test_left_alone_with_a_reason() -> None:
    cases = []
    net = Net()
    x = net.input("x", [12, 5])
    cases.append((net, net.add("Gemm", x, net.weight(12, 20), transA=1), [12, 5], "transA"))
    net = Net()
    x = net.input("x", [3, 5, 12])
    cases.append((net, net.add("MatMul", x, net.weight(3, 12, 20)), [3, 5, 12], "batch of"))
    net = Net()
    x = net.input("x", [12])
    cases.append((net, net.add("MatMul", x, net.weight(12, 20)), [12], "fewer axes"))
    net = Net()
    x = net.input("x", [5, 12])
    cases.append((net, net.add("MatMul", x, net.vector(12)), [5, 12], "vector"))
    for net, y, shape, reason in cases:
        session = compare(net.model(y), [feed(net.rng, {"x": shape})], force=True)
        assert claimed_ops(session) == []
        assert any(reason in d.reason for d in runtime.explain(session))


def test_one_weight_in_two_nodes() -> None:
    net = Net()
    x = net.input("x", [6, 24])
    w = net.weight(24, 24)
    y = net.add("MatMul", net.add("Relu", net.add("MatMul", x, w)), w)
    session = compare(net.model(y), [feed(net.rng, {"x": [6, 24]})], force=True)
    assert claimed_ops(session).count("MatMul") == 2


def test_weight_also_used_by_an_unclaimed_node() -> None:
    net = Net()
    x = net.input("x", [24, 24])
    w = net.weight(24, 24)
    y = net.add("MatMul", x, w)
    z = net.add("Mul", x, w)
    session = compare(net.model(y, z), [feed(net.rng, {"x": [24, 24]})], force=True)
    assert claimed_ops(session) == ["MatMul"]


def test_no_tokens() -> None:
    net = Net()
    x = net.input("x", ["b", "t", 12])
    y = net.add("Relu", net.add("MatMul", x, net.weight(12, 20)))
    shapes = [[2, 0, 12], [2, 3, 12], [0, 3, 12], [1, 1, 12]]
    compare(net.model(y), [feed(net.rng, {"x": s}) for s in shapes], force=True)
