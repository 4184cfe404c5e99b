"""Attention as one node, as torch writes it, and under masks that hide everything."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from runtime_graphs import Array, Dims, Net, assert_close, claimed_ops, compare, feed

from onnxprune import runtime

FEATURES = 12
ISAS = ["auto", "avx2", "scalar"]


def ints(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def scalar(net: Net, value: float) -> str:
    return net.constant(np.array(value, np.float32))


def linear(net: Net, x: str, inputs: int, outputs: int) -> str:
    """Add a sparse product."""
    return net.add("MatMul", x, net.weight(inputs, outputs, sparsity=0.8))


def dense(net: Net, x: str, inputs: int) -> str:
    """Add a product without zeros: those are skipped, where the CPU provider makes NaN of them."""
    return net.add("MatMul", x, net.weight(inputs, FEATURES, sparsity=0))


def finish(net: Net, y: str, *outputs: str, opset: int = 23) -> onnx.ModelProto:
    model = net.model(y, *outputs, opset=opset)
    model.opset_import.add(domain="com.microsoft", version=1)
    model.ir_version = 10
    return model


@dataclass(frozen=True)
class Form:
    """A safe softmax as torch's exporter spells it, with a mask."""

    batch: int
    tokens: int
    keys: int
    heads: int
    mask: str  # "float", "bool", "where", "where other way", "constant"
    by_key: bool  # the mask is the same for all queries
    safe: bool
    dynamic: bool


FORMS = st.builds(
    Form,
    batch=st.sampled_from([1, 3]),
    tokens=st.sampled_from([1, 2, 17]),
    keys=st.sampled_from([0, 1, 2, 17]),  # 0: of the queries
    heads=st.sampled_from([1, 4]),
    mask=st.sampled_from(["float", "bool", "where", "where other way", "constant"]),
    by_key=st.booleans(),
    safe=st.booleans(),
    dynamic=st.booleans(),
)


def operands(net: Net, f: Form | Named, feeds: dict[str, Array]) -> tuple[str, str]:
    """What queries are made of, and what keys and values: the same where ``f`` has no keys."""
    dims: Dims = ["b", "t", FEATURES] if f.dynamic else [f.batch, f.tokens, FEATURES]
    x = other = net.input("x", dims)
    feeds.update(feed(net.rng, {"x": [f.batch, f.tokens, FEATURES]}))
    if f.keys:
        other = net.input("y", ["b", "s", FEATURES] if f.dynamic else [f.batch, f.keys, FEATURES])
        feeds.update(feed(net.rng, {"y": [f.batch, f.keys, FEATURES]}))
    return x, other


def safe_attention(net: Net, f: Form, feeds: dict[str, Array]) -> str:
    """Projections and an attention some of whose rows are hidden altogether."""
    dim, keys = 3, f.keys or f.tokens
    x, other = operands(net, f, feeds)

    def heads(z: str, perm: list[int]) -> str:
        z = net.add("Reshape", linear(net, z, FEATURES, f.heads * dim),
                    ints(net, 0, 0, f.heads, dim))  # fmt: skip
        return net.add("Transpose", z, perm=perm)

    root = scalar(net, dim**-0.25)
    q = net.add("Mul", heads(x, [0, 2, 1, 3]), root)
    k = net.add("Mul", heads(other, [0, 2, 3, 1]), root)
    v = heads(other, [0, 2, 1, 3])
    scores = net.add("MatMul", q, k)
    shown = net.rng.random((f.batch, 1, 1 if f.by_key else f.tokens, keys)) < 0.6
    shown[0, :, 0] = False  # a row, or all of a batch
    names: Dims = ["b", 1, 1 if f.by_key else "t", "s" if f.keys else "t"]
    kind = TensorProto.FLOAT if f.mask == "float" else TensorProto.BOOL
    numbers = np.where(shown, 0, -np.inf).astype(np.float32)
    if f.mask == "constant":
        scores = net.add("Add", scores, net.constant(numbers[:1]))
    else:
        mask = net.input("mask", names if f.dynamic else list(shown.shape), kind)
        feeds["mask"] = numbers if f.mask == "float" else shown
        if f.mask == "where":
            scores = net.add("Where", mask, scores, scalar(net, -math.inf))
        elif f.mask == "where other way":
            feeds["mask"] = ~shown
            scores = net.add("Where", mask, scalar(net, -1e9), scores)
        else:
            if f.mask == "bool":
                mask = net.add("Where", mask, scalar(net, 0.0), scalar(net, -math.inf))
            scores = net.add("Add", scores, mask)
    weights = net.add("Softmax", scores, axis=-1)
    if f.safe:
        weights = net.add("Where", net.add("IsNaN", weights), scalar(net, 0.0), weights)
    mixed = net.add("Transpose", net.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    joined = net.add("Reshape", mixed, ints(net, 0, 0, f.heads * dim))
    return dense(net, joined, f.heads * dim)


@settings(max_examples=200)
@given(f=FORMS, isa=st.sampled_from(ISAS), threads=st.integers(1, 2))
def test_rows_that_are_masked_altogether(f: Form, isa: str, threads: int) -> None:
    net = Net(f.tokens)
    feeds: dict[str, Array] = {}
    y = safe_attention(net, f, feeds)
    session = compare(net.model(y), [feeds], force=True, isa=isa, threads=threads, reduction=4000)
    softmax = [d for d in runtime.explain(session) if d.op == "Softmax"]
    assert [d.kernel for d in softmax] == ["planes"], [d.reason for d in softmax]


def test_safe_softmax_forgives_numbers_that_are_none() -> None:
    """What is written as the test of NaN is one: also of a query that holds one."""
    net = Net(3)
    feeds: dict[str, Array] = {}
    y = safe_attention(net, Form(1, 17, 0, 4, "float", False, True, False), feeds)
    feeds["x"][0, 4] = np.nan
    session = compare(net.model(y), [feeds], force=True, reduction=4000)
    assert "IsNaN" in claimed_ops(session)


@pytest.mark.parametrize("keys", [0, 5])
@pytest.mark.parametrize("hidden", [-np.inf, float(np.finfo(np.float32).min)])
def test_a_causal_mask_computed_in_the_graph(keys: int, hidden: float) -> None:
    """As torch writes it where the length is open: from sizes of the operands themselves."""
    net = Net(4)
    x = other = net.input("x", ["b", "t", FEATURES])
    if keys:
        other = net.input("y", ["b", "s", FEATURES])

    def heads(z: str, perm: list[int]) -> str:
        z = net.add("Reshape", linear(net, z, FEATURES, 8), ints(net, 0, 0, 2, 4))
        return net.add("Transpose", z, perm=perm)

    q, k, v = heads(x, [0, 2, 1, 3]), heads(other, [0, 2, 1, 3]), heads(other, [0, 2, 1, 3])
    sizes = [net.add("Slice", net.add("Shape", z), ints(net, -2), ints(net, -1)) for z in (q, k)]
    ones = net.add("Expand", scalar(net, 1.0), net.add("Concat", *sizes, axis=0))
    above = net.add("Equal", net.add("Trilu", ones, upper=0), scalar(net, 0.0))
    mask = net.add("Where", above, scalar(net, hidden), scalar(net, 0.0))
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net.add("Softmax", net.add("Add", scores, mask), axis=-1)
    mixed = net.add("Transpose", net.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = linear(net, net.add("Reshape", mixed, ints(net, 0, 0, 8)), 8, 8)
    feeds = []
    for b, t, s in ((1, 1, 1), (3, 17, 5), (2, 70, 90)):
        feeds.append(feed(net.rng, {"x": [b, t, FEATURES]}))
        if keys:
            feeds[-1] |= feed(net.rng, {"y": [b, s, FEATURES]})
    session = compare(net.model(y), feeds, force=True, reduction=4000)
    assert "Trilu" in claimed_ops(session)
    assert "Softmax" in claimed_ops(session)


@dataclass(frozen=True)
class Named:
    """An attention as one node."""

    op: str  # "Attention" or "MultiHeadAttention"
    batch: int
    tokens: int
    keys: int  # 0: of the queries
    heads: int
    groups: int  # heads of keys and values
    dim: int
    value_dim: int
    split: bool  # heads on an axis of their own
    mask: str  # "", "bool", "float", "per head", "keys"
    causal: bool
    past: int  # -1: no cache
    shown: bool  # keys and values are outputs
    scale: float
    bias: bool
    dynamic: bool


NAMED = st.builds(
    Named,
    op=st.sampled_from(["Attention", "MultiHeadAttention"]),
    batch=st.sampled_from([1, 3]),
    tokens=st.sampled_from([1, 2, 17]),
    keys=st.sampled_from([0, 0, 1, 40]),
    heads=st.sampled_from([1, 4]),
    groups=st.sampled_from([1, 2, 4]),
    dim=st.sampled_from([1, 3, 8]),
    value_dim=st.sampled_from([0, 5]),
    split=st.booleans(),
    mask=st.sampled_from(["", "bool", "float", "per head", "keys"]),
    causal=st.booleans(),
    past=st.sampled_from([-1, -1, 1, 5, 33]),
    shown=st.booleans(),
    scale=st.sampled_from([0.0, 0.3]),
    bias=st.booleans(),
    dynamic=st.booleans(),
)


def possible(f: Named) -> bool:
    """Whether there is such a node."""
    if f.heads % f.groups or (f.past >= 0 and f.keys):
        return False
    if f.op == "Attention":
        return not f.bias and f.mask != "keys"
    return f.groups == f.heads and not f.split and f.mask != "bool"


def named_mask(net: Net, f: Named, feeds: dict[str, Array]) -> str:
    if not f.mask:
        return ""
    keys = max(f.past, 0) + (f.keys or f.tokens)
    rng = net.rng
    heads = f.heads if f.mask == "per head" else 1
    shape = [f.batch, keys] if f.mask == "keys" else [f.batch, heads, f.tokens, keys]
    shown = rng.random(shape) < 0.6
    names: Dims = ["b", "all"] if f.mask == "keys" else ["b", heads, "t", "all"]
    if f.mask == "keys":
        feeds["mask"] = np.where(shown, 1, 0).astype(np.int32)
        kind = TensorProto.INT32
    elif f.mask == "bool":
        shown[0, :, 0] = False
        feeds["mask"], kind = shown, TensorProto.BOOL
    else:
        hidden = np.where(rng.random(shape) < 0.5, -np.inf, -3.0)
        feeds["mask"], kind = np.where(shown, 0.5, hidden).astype(np.float32), TensorProto.FLOAT
        if not f.causal:
            feeds["mask"][0, :, 0] = -np.inf
        else:  # hidden by both is hidden in onnxruntime's own way
            feeds["mask"][..., 0] = 0
    return net.input("mask", names if f.dynamic else shape, kind)


def named_attention(net: Net, f: Named, feeds: dict[str, Array]) -> tuple[str, list[str]]:
    value_dim = f.value_dim or f.dim
    x, other = operands(net, f, feeds)

    def operand(z: str, heads: int, dim: int) -> str:
        z = linear(net, z, FEATURES, heads * dim)
        if not f.split:
            return z
        z = net.add("Reshape", z, ints(net, 0, 0, heads, dim))
        return net.add("Transpose", z, perm=[0, 2, 1, 3])

    q = operand(x, f.heads, f.dim)
    k, v = operand(other, f.groups, f.dim), operand(other, f.groups, value_dim)
    mask = named_mask(net, f, feeds)
    past = ["", ""]
    if f.past >= 0:
        for i, dim in enumerate((f.dim, value_dim)):
            shape = [f.batch, f.groups, f.past, dim]
            names: Dims = ["b", f.groups, "p", dim]
            past[i] = net.input(f"past{i}", names if f.dynamic else shape)
            feeds.update(feed(net.rng, {past[i]: shape}))
    presents = [f"present{i}" for i in range(2)] if f.past >= 0 or f.shown else []
    if f.op == "Attention":
        inputs = [q, k, v, mask, *past]
        options: dict[str, float | int] = {"is_causal": int(f.causal)}
        if not f.split:
            options |= {"q_num_heads": f.heads, "kv_num_heads": f.groups}
    else:
        width = f.heads * (2 * f.dim + value_dim)
        by_key = f.mask == "keys"
        inputs = [q, k, v, net.vector(width) if f.bias else "", mask if by_key else "",
                  "" if by_key else mask, *past]  # fmt: skip
        options = {"unidirectional": int(f.causal), "num_heads": f.heads}
    if f.scale:
        options["scale"] = f.scale
    while not inputs[-1]:
        inputs.pop()
    domain = "" if f.op == "Attention" else "com.microsoft"
    node = helper.make_node(f.op, inputs, ["mixed", *presents], "attention", domain=domain,
                            **options)  # fmt: skip
    net.nodes.append(node)
    y = "mixed"
    if f.split:
        y = net.add("Transpose", y, perm=[0, 2, 1, 3])
        y = net.add("Reshape", y, ints(net, 0, 0, f.heads * value_dim))
    return dense(net, y, f.heads * value_dim), presents if f.shown else []


@settings(max_examples=300)
@given(f=NAMED, isa=st.sampled_from(ISAS), threads=st.integers(1, 2))
def test_attention_by_name(f: Named, isa: str, threads: int) -> None:
    if not possible(f):
        return
    net = Net(f.tokens)
    feeds: dict[str, Array] = {}
    y, more = named_attention(net, f, feeds)
    session = compare(
        finish(net, y, *more), [feeds, feeds], force=True, isa=isa, threads=threads, reduction=4000
    )
    named = [d for d in runtime.explain(session) if d.op == f.op]
    assert [d.kernel for d in named] == ["planes"], [d.reason for d in named]


NODE = Named("Attention", 2, 7, 0, 4, 2, 3, 5, False, "float", True, 5, True, 0.0, False, True)


@pytest.mark.parametrize("split", [False, True])
def test_a_compiled_node(split: bool, tmp_path: object) -> None:
    from pathlib import Path

    from test_runtime_context import compile_to

    net = Net(1)
    feeds: dict[str, Array] = {}
    y, more = named_attention(net, replace(NODE, split=split, mask="bool", dynamic=False), feeds)
    model = finish(net, y, *more)
    compiled = compile_to(Path(str(tmp_path)) / "compiled.onnx", model)
    assert "EPContext" in [n.op_type for n in compiled.graph.node]
    direct = runtime.session(model, 1, force=True).run(None, feeds)
    for a, e in zip(runtime.session(compiled, 1).run(None, feeds), direct, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [({"softcap": 5.0}, "capped"), ({"softmax_precision": 11}, "another type")],
)
def test_what_a_node_computes_otherwise(attribute: dict[str, float], reason: str) -> None:
    """It stays with the CPU provider, and the log says why."""
    net = Net(2)
    feeds: dict[str, Array] = {}
    y, more = named_attention(net, replace(NODE, past=-1, shown=False), feeds)
    node = next(n for n in net.nodes if n.op_type == "Attention")
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attribute.items())
    session = compare(finish(net, y, *more), [feeds], force=True, reduction=4000)
    reasons = [d.reason for d in runtime.explain(session) if d.op == "Attention"]
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_a_node_whose_heads_stay_apart_is_left_alone() -> None:
    net = Net(5)
    feeds: dict[str, Array] = {}
    named_attention(net, replace(NODE, split=True, past=-1, shown=False), feeds)
    session = compare(finish(net, "mixed"), [feeds], force=True, reduction=4000)
    reasons = [d.reason for d in runtime.explain(session) if d.op == "Attention"]
    assert "nothing joins them" in reasons[0]
