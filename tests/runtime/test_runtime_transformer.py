"""Normalisation and attention inside regions, in the spellings that exporters write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_graphs import Net, assert_close, claimed_ops, compare, feed

from onnxprune import runtime


def linear(net: Net, x: str, inputs: int, outputs: int, sparsity: float = 0.8) -> str:
    """Add a sparse product and a bias."""
    weight = net.weight(inputs, outputs, sparsity=sparsity)
    return net.add("Add", net.add("MatMul", x, weight), net.vector(outputs))


def ints(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def index(net: Net, value: int) -> str:
    """Add a constant without axes."""
    name = f"index{len(net.constants)}"
    net.constants.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    return name


def scalar(net: Net, value: float) -> str:
    return net.constant(np.array(value, np.float32))


def spelled_norm(net: Net, x: str, size: int, form: str) -> str:
    """LayerNormalization or RMSNormalization as nodes."""
    gain, shift = net.vector(size), net.vector(size)
    if form == "node":
        return net.add("LayerNormalization", x, gain, shift, axis=-1, epsilon=1e-5)
    if form == "node without shift":
        return net.add("LayerNormalization", x, gain, axis=-1)
    two, eps = scalar(net, 2.0), scalar(net, 1e-5)
    if form.startswith("rms"):
        square = net.add("Pow", x, two) if "pow" in form else net.add("Mul", x, x)
        mean = net.add("ReduceMean", square, axes=[-1], keepdims=1)
        root = net.add("Sqrt", net.add("Add", mean, eps))
        if "reciprocal" in form:
            unit = net.add("Mul", x, net.add("Reciprocal", root))
        elif "one over" in form:
            unit = net.add("Mul", net.add("Div", scalar(net, 1.0), root), x)
        else:
            unit = net.add("Div", x, root)
        return net.add("Mul", gain, unit)
    centred = net.add("Sub", x, net.add("ReduceMean", x, axes=[-1], keepdims=1))
    again = centred
    if "twice" in form:
        again = net.add("Sub", x, net.add("ReduceMean", x, axes=[-1], keepdims=1))
    square = net.add("Pow", again, two) if "pow" in form else net.add("Mul", again, again)
    mean = net.add("ReduceMean", square, axes=[-1], keepdims=1)
    root = net.add("Sqrt", net.add("Add", mean, eps))
    unit = net.add("Div", centred, root)
    if "bare" in form:
        return unit
    return net.add("Add", net.add("Mul", unit, gain), shift)


NORMS = [
    "node", "node without shift", "pow", "mul", "pow twice", "pow bare", "rms pow reciprocal",
    "rms mul one over", "rms pow div",
]  # fmt: skip


@settings(max_examples=60)
@given(
    form=st.sampled_from(NORMS),
    tokens=st.integers(1, 70),
    batch=st.sampled_from([0, 1, 2]),
    size=st.integers(2, 40),
    dynamic=st.booleans(),
    offset=st.sampled_from([0.0, 30.0]),
    isa=st.sampled_from(["auto", "avx2", "scalar"]),
    threads=st.integers(1, 2),
)
def test_norm(
    form: str, tokens: int, batch: int, size: int, dynamic: bool, offset: float, isa: str,
    threads: int,
) -> None:  # fmt: skip
    net = Net(tokens * size)
    shape = ([batch] if batch else []) + [tokens, 12]
    named = (["b"] if batch else []) + ["t", 12]
    x = linear(net, net.input("x", named if dynamic else shape), 12, size)
    x = net.add("Add", x, scalar(net, offset))
    y = linear(net, spelled_norm(net, x, size, form), size, 9)
    session = compare(
        net.model(y), [feed(net.rng, {"x": shape})], force=True, isa=isa, threads=threads,
        # A mean of 30 leaves two digits fewer of what differs from it.
        reduction=size * (100000 if offset else 4),
    )  # fmt: skip
    assert len(claimed_ops(session)) == len(runtime.explain(session))
    assert any(d.kernel for d in runtime.explain(session))


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("bias", [False, True])
def test_fused_norms_of_onnxruntime(op: str, bias: bool) -> None:
    net = Net()
    x = net.input("x", [2, 9, 12])
    a, b = linear(net, x, 12, 20), linear(net, x, 12, 20)
    inputs = [net.add("Relu", a), net.add("Relu", b), net.vector(20)]
    if op == "SkipLayerNormalization":
        inputs.append(net.vector(20))
    if bias:
        inputs.append(net.vector(20))
    y = linear(net, net.add(op, *inputs, domain="com.microsoft", epsilon=1e-5), 20, 7)
    model = net.model(y)
    model.opset_import.add(domain="com.microsoft", version=1)
    session = compare(model, [feed(net.rng, {"x": [2, 9, 12]})], force=True, reduction=200)
    assert op in claimed_ops(session)


@dataclass(frozen=True)
class Form:
    """How an attention is spelled."""

    batch: int
    tokens: int
    keys: int  # tokens of keys and values, when those come from elsewhere
    heads: int
    groups: int  # heads of keys and values
    dim: int
    value_dim: int
    fused: str  # "", "split", "gather": q, k and v from one product
    scale: str
    mask: str
    flat: bool  # batch and heads as one axis
    dynamic: bool


FORMS = st.builds(
    Form,
    batch=st.integers(1, 3),
    tokens=st.sampled_from([1, 2, 7, 16, 33, 70]),
    keys=st.sampled_from([0, 0, 1, 5, 40]),
    heads=st.sampled_from([1, 2, 4]),
    groups=st.sampled_from([1, 2, 4]),
    dim=st.sampled_from([1, 3, 8]),
    value_dim=st.sampled_from([0, 0, 2, 9]),
    fused=st.sampled_from(["", "", "split", "gather"]),
    scale=st.sampled_from(["none", "scores", "q", "both", "after mask"]),
    mask=st.sampled_from(["none", "keys", "full", "heads", "causal", "infinite", "input per head"]),
    flat=st.booleans(),
    dynamic=st.booleans(),
)


def attention(net: Net, f: Form, x: str, other: str, mask: str, features: int) -> str:
    """Projections, attention and the reshape back to [batch, tokens, features]."""
    b = 0 if f.dynamic else f.batch  # 0 copies the size
    keys = f.keys or f.tokens
    value_dim = f.value_dim or f.dim

    def cut(y: str, heads: int, dim: int, tokens: int) -> str:
        count = ints(net, b, -1 if f.dynamic else tokens, heads, dim)
        return net.add("Reshape", y, count)

    if f.fused:
        width = f.heads * f.dim
        y = linear(net, x, features, 3 * width)
        if f.fused == "split":
            names = [f"part{i}_{len(net.nodes)}" for i in range(3)]
            split = onnx.helper.make_node(
                "Split", [y, ints(net, width, width, width)], names, axis=-1, name="split"
            )
            net.nodes.append(split)
            parts = [cut(n, f.heads, f.dim, f.tokens) for n in names]
            q, k, v = (net.add("Transpose", p, perm=[0, 2, 1, 3]) for p in parts)
        else:
            count = ints(net, b, -1 if f.dynamic else f.tokens, 3, f.heads, f.dim)
            y = net.add("Transpose", net.add("Reshape", y, count), perm=[2, 0, 3, 1, 4])
            q, k, v = (net.add("Gather", y, index(net, i), axis=0) for i in range(3))
        k = net.add("Transpose", k, perm=[0, 1, 3, 2])
        groups = f.heads
    else:
        groups = f.groups
        q = cut(linear(net, x, features, f.heads * f.dim), f.heads, f.dim, f.tokens)
        k = cut(linear(net, other, features, groups * f.dim), groups, f.dim, keys)
        v = cut(linear(net, other, features, groups * value_dim), groups, value_dim, keys)
        q = net.add("Transpose", q, perm=[0, 2, 1, 3])
        v = net.add("Transpose", v, perm=[0, 2, 1, 3])
        if groups == f.heads or groups == 1:
            k = net.add("Transpose", k, perm=[0, 2, 3, 1])
        else:  # each head of keys serves several of queries
            k = net.add("Transpose", k, perm=[0, 2, 1, 3])
            repeated = []
            for z, dim in ((k, f.dim), (v, value_dim)):
                times = f.heads // groups
                z = net.add("Unsqueeze", z, ints(net, 2))
                z = net.add("Expand", z, ints(net, 1, 1, times, 1, 1))
                repeated.append(net.add("Reshape", z, ints(net, 0, f.heads, keys, dim)))
            k, v = repeated
            k = net.add("Transpose", k, perm=[0, 1, 3, 2])
    half = scalar(net, f.dim**-0.25)
    if f.scale in ("q", "both"):
        q = net.add("Mul", q, half)
    if f.scale == "both":
        k = net.add("Mul", half, k)
    flat = f.flat and f.batch == 1 and not f.dynamic and groups == f.heads
    if flat:
        q, k, v = (net.add("Squeeze", z, ints(net, 0)) for z in (q, k, v))
    scores = net.add("MatMul", q, k)
    if f.scale == "scores":
        scores = net.add("Div", scores, scalar(net, math.sqrt(f.dim)))
    if mask and f.mask == "causal":
        scores = net.add("Where", mask, scores, scalar(net, -1e4))
    elif mask:
        scores = net.add("Add", mask, scores)
    if f.scale == "after mask":
        scores = net.add("Mul", scores, scalar(net, 0.5))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    back = net.add("Transpose", mixed, perm=[1, 0, 2] if flat else [0, 2, 1, 3])
    whole = f.heads * (value_dim if not f.fused else f.dim)
    shape = [1 if flat else b, -1 if f.dynamic else f.tokens, whole]
    joined = net.add("Reshape", back, ints(net, *shape))
    return linear(net, joined, whole, features)


def mask_of(net: Net, f: Form, feeds: dict[str, Any]) -> str:
    keys = f.tokens if f.fused else f.keys or f.tokens
    rng = net.rng
    if f.mask == "none" or (f.flat and f.mask in ("keys", "heads", "input per head")):
        return ""
    causal = np.tri(f.tokens, keys, max(0, keys - f.tokens), dtype=np.bool_)
    if f.mask == "causal":
        return net.constant(causal)
    if f.mask == "infinite":
        return net.constant(np.where(causal, 0, -np.inf).astype(np.float32))
    if f.mask == "full":
        return net.constant(rng.standard_normal((f.tokens, keys)).astype(np.float32))
    if f.mask == "heads":
        values = rng.standard_normal((1, f.heads, f.tokens, keys))
        return net.constant(values.astype(np.float32))
    shape = (f.batch, 1, 1, keys) if f.mask == "keys" else (f.batch, f.heads, f.tokens, keys)
    open_dims: list[int | str | None] = ["n", shape[1], shape[2], "m"]
    feeds["mask"] = (rng.random(shape) < 0.3).astype(np.float32) * -1e4
    return net.input("mask", open_dims if f.dynamic else list(shape))


@settings(max_examples=150)
@given(f=FORMS, isa=st.sampled_from(["auto", "avx2", "scalar"]), threads=st.integers(1, 2))
def test_attention(f: Form, isa: str, threads: int) -> None:
    if f.heads % f.groups or (f.fused and f.keys):
        return
    net = Net(f.tokens)
    features = 10
    dims: list[int | str | None] = (
        ["b", "t", features] if f.dynamic else [f.batch, f.tokens, features]
    )
    x = net.input("x", dims)
    feeds: dict[str, Any] = feed(net.rng, {"x": [f.batch, f.tokens, features]})
    other = x
    if f.keys and not f.fused:
        other_dims: list[int | str | None] = ["b", "s", features]
        other = net.input("other", other_dims if f.dynamic else [f.batch, f.keys, features])
        feeds |= feed(net.rng, {"other": [f.batch, f.keys, features]})
    y = attention(net, f, x, other, mask_of(net, f, feeds), features)
    session = compare(net.model(y), [feeds], force=True, isa=isa, threads=threads, reduction=4000)
    softmax = [d for d in runtime.explain(session) if d.op == "Softmax"]
    simple = not f.dynamic and (f.groups in (1, f.heads) or f.fused) and f.dim > 1
    if simple:
        assert [d.kernel for d in softmax] == ["planes"], [d.reason for d in softmax]


def test_scores_read_elsewhere_are_left_alone() -> None:
    net = Net()
    x = net.input("x", [1, 6, 8])
    q, k, v = (
        net.add("Transpose", net.add("Reshape", linear(net, x, 8, 8), ints(net, 1, 6, 2, 4)),
                perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )  # fmt: skip
    weights = net.add("Softmax", net.add("MatMul", q, k), axis=-1)
    mixed = net.add("Transpose", net.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = linear(net, net.add("Reshape", mixed, ints(net, 1, 6, 8)), 8, 8)
    session = compare(net.model(y, weights), [feed(net.rng, {"x": [1, 6, 8]})], force=True)
    assert "Softmax" not in claimed_ops(session)


@pytest.mark.parametrize("perm", [[0, 1, 2, 3], [1, 2, 0, 3], [2, 0, 1, 3]])
def test_other_orders_are_not_taken_for_attention(perm: list[int]) -> None:
    """Heads that end up elsewhere than beside their features are right, whoever computes them."""
    net = Net()
    x = net.input("x", [2, 6, 8])
    q, k, v = (
        net.add("Transpose", net.add("Reshape", linear(net, x, 8, 8), ints(net, 2, 6, 2, 4)),
                perm=p)
        for p in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )  # fmt: skip
    mixed = net.add("MatMul", net.add("Softmax", net.add("MatMul", q, k), axis=-1), v)
    y = net.add("Reshape", net.add("Transpose", mixed, perm=perm), ints(net, 2, 6, 8))
    compare(net.model(linear(net, y, 8, 8)), [feed(net.rng, {"x": [2, 6, 8]})], force=True)


def encoder(net: Net, x: str, tokens: int, mask: str = "") -> str:
    """Two small encoder layers."""
    size, heads, dim = 32, 4, 8
    count, whole = ints(net, 1, tokens, heads, dim), ints(net, 1, tokens, size)
    for _ in range(2):
        q, k, v = (
            net.add("Transpose", net.add("Reshape", linear(net, x, size, size), count), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = net.add("Mul", net.add("MatMul", q, k), scalar(net, dim**-0.5))
        if mask:
            scores = net.add("Add", scores, mask)
        mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
        mixed = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), whole)
        x = spelled_norm(net, net.add("Add", linear(net, mixed, size, size), x), size, "pow")
        inner = linear(net, x, size, 64)
        erf = net.add("Erf", net.add("Div", inner, scalar(net, math.sqrt(2))))
        gelu = net.add("Mul", net.add("Mul", inner, net.add("Add", erf, scalar(net, 1.0))),
                       scalar(net, 0.5))  # fmt: skip
        x = spelled_norm(net, net.add("Add", linear(net, gelu, 64, size), x), size, "mul")
    return x


def test_an_encoder_is_one_region() -> None:
    net = Net()
    x = net.input("x", [1, 40, 32])
    mask = net.input("mask", [1, 1, 1, 40])
    y = encoder(net, x, 40, mask)
    feeds = feed(net.rng, {"x": [1, 40, 32], "mask": [1, 1, 1, 40]})
    session = compare(net.model(y), [feeds], force=True, reduction=4000)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


def test_compiled_encoder(tmp_path: Any) -> None:
    """Attention and norms survive being saved."""
    from test_runtime_context import compile_to

    net = Net()
    y = encoder(net, net.input("x", [1, 17, 32]), 17)
    model = net.model(y)
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert [n.op_type for n in compiled.graph.node] == ["EPContext"]
    given = feed(net.rng, {"x": [1, 17, 32]})
    direct = runtime.session(model, 1, force=True).run(None, given)[0]
    loaded = runtime.session(compiled, 1)
    assert_close(loaded.run(None, given)[0], direct)


def test_masks_that_do_not_fit_are_errors_not_crashes() -> None:
    net = Net()
    x = net.input("x", ["b", "t", 32])
    mask = net.input("mask", ["b", 1, 1, "s"])
    q, k, v = (
        net.add("Transpose",
                net.add("Reshape", linear(net, x, 32, 32), ints(net, 0, -1, 4, 8)), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )  # fmt: skip
    scores = net.add("Add", net.add("MatMul", q, k), mask)
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    y = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), ints(net, 0, -1, 32))
    session = runtime.session(net.model(linear(net, y, 32, 8)), 1, force=True)
    good = {"x": np.zeros((1, 5, 32), np.float32), "mask": np.zeros((1, 1, 1, 5), np.float32)}
    assert session.run(None, good)[0].shape == (1, 5, 8)
    with pytest.raises(Exception, match=r"mask|shape|broadcast|dimension"):
        session.run(None, good | {"mask": np.zeros((1, 1, 1, 7), np.float32)})


@pytest.mark.parametrize("form", ["pow", "product", "product right", "fast"])
@pytest.mark.parametrize("half", ["first", "inner", "last"])
def test_gelu_by_tanh(form: str, half: str) -> None:
    """The approximation of GPT-2 (Hendrycks and Gimpel, 2016), as nodes and as one."""
    net = Net()
    x = linear(net, net.input("x", [1, 20, 12]), 12, 24)
    if form == "fast":
        y = net.add("FastGelu", x, domain="com.microsoft")
    else:
        small = scalar(net, 0.044715)
        if form == "pow":
            cube = net.add("Mul", small, net.add("Pow", x, scalar(net, 3.0)))
        elif form == "product":
            cube = net.add("Mul", net.add("Mul", net.add("Mul", x, small), x), x)
        else:
            cube = net.add("Mul", small, net.add("Mul", x, net.add("Mul", x, x)))
        inner = net.add("Mul", scalar(net, math.sqrt(2 / math.pi)), net.add("Add", x, cube))
        curve = net.add("Add", scalar(net, 1.0), net.add("Tanh", inner))
        if half == "first":
            y = net.add("Mul", net.add("Mul", scalar(net, 0.5), x), curve)
        elif half == "inner":
            y = net.add("Mul", x, net.add("Mul", curve, scalar(net, 0.5)))
        else:
            y = net.add("Mul", net.add("Mul", x, curve), scalar(net, 0.5))
    model = net.model(linear(net, y, 24, 8))
    model.opset_import.add(domain="com.microsoft", version=1)
    session = compare(model, [feed(net.rng, {"x": [1, 20, 12]})], force=True)
    curves = [d.kernel for d in runtime.explain(session) if d.op in ("Tanh", "FastGelu")]
    assert len(curves) == 1
    assert curves[0].startswith("spmm"), curves  # part of the product before it
    assert all(d.claimed for d in runtime.explain(session))


@pytest.mark.parametrize("computed_scale", [False, True])
def test_sizes_computed_in_the_graph(computed_scale: bool) -> None:
    """Shape, Gather, Concat and even the scale: as exported with open batch and length."""
    net = Net()
    x = net.input("x", ["batch", "length", 32])
    values = [linear(net, x, 32, 32) for _ in range(3)]

    def size(y: str, axis: int) -> str:
        return net.add("Unsqueeze", net.add("Gather", net.add("Shape", y), index(net, axis)),
                       ints(net, 0))  # fmt: skip

    def sizes(y: str, *rest: int) -> str:
        return net.add("Concat", size(y, 0), size(y, 1), ints(net, *rest), axis=0)

    q, k, v = (
        net.add("Transpose", net.add("Reshape", y, sizes(y, 4, 8)), perm=perm)
        for y, perm in zip(values, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    if computed_scale:
        last = net.add("Slice", net.add("Shape", q), ints(net, -1), ints(net, 2**62))
        root = net.add("Sqrt", net.add("Cast", last, to=onnx.TensorProto.FLOAT))
        q = net.add("Mul", q, net.add("Div", scalar(net, 1.0), root))
    mixed = net.add("MatMul", net.add("Softmax", net.add("MatMul", q, k), axis=-1), v)
    mixed = net.add("Transpose", mixed, perm=[0, 2, 1, 3])
    y = linear(net, net.add("Reshape", mixed, sizes(x, -1)), 32, 8)
    feeds = [feed(net.rng, {"x": s}) for s in ([1, 40, 32], [3, 7, 32])]
    session = compare(net.model(y), feeds, force=True, reduction=4000)
    softmax = [d for d in runtime.explain(session) if d.op == "Softmax"]
    assert [d.kernel for d in softmax] == ["planes"], [d.reason for d in softmax]
