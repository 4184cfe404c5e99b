"""Decoders inside regions: rotary embeddings as exporters spell them, and key-value caches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_graphs import Array, Dims, Net, assert_close, claimed_ops, compare, feed

from onnxprune import runtime

FEATURES = 12


def ints(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def scalar(net: Net, value: float) -> str:
    return net.constant(np.array(value, np.float32))


def index(net: Net, value: int) -> str:
    """Add a constant without axes."""
    name = f"index{len(net.constants)}"
    net.constants.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    return name


def linear(net: Net, x: str, inputs: int, outputs: int, sparsity: float = 0.8) -> str:
    """Add a sparse product."""
    return net.add("MatMul", x, net.weight(inputs, outputs, sparsity=sparsity))


@dataclass(frozen=True)
class Form:
    """How the attention of a decoder is spelled."""

    batch: int
    tokens: int
    heads: int
    groups: int  # heads of keys and values
    dim: int  # even
    spelling: str
    turned: bool  # rotated after the transposition
    table: str  # "constant", "shared", "batch", "cut"
    cache: str  # "", "heads first", "tokens first", "turned"
    past: int
    shown: bool  # keys and values are outputs too
    mask: str
    dynamic: bool


SPELLINGS = ["half", "half split", "halves", "pairs", "pairs gather", "partial", "none"]
FORMS = st.builds(
    Form,
    batch=st.integers(1, 2),
    tokens=st.sampled_from([1, 1, 2, 3, 7, 17, 40]),
    heads=st.sampled_from([1, 2, 4]),
    groups=st.sampled_from([1, 2, 4]),
    dim=st.sampled_from([4, 8, 16]),
    spelling=st.sampled_from(SPELLINGS),
    turned=st.booleans(),
    table=st.sampled_from(["constant", "shared", "batch", "cut"]),
    cache=st.sampled_from(["", "heads first", "tokens first", "turned"]),
    past=st.sampled_from([1, 5, 33]),
    shown=st.booleans(),
    mask=st.sampled_from(["none", "input"]),
    dynamic=st.booleans(),
)


def part(net: Net, x: str, start: int, stop: int, step: int = 1, axis: int = -1) -> str:
    bounds = [ints(net, value) for value in (start, stop, axis, step)]
    return net.add("Slice", x, *bounds)


def rotated(net: Net, x: str, f: Form, cos: str, sin: str, rank: int = 4) -> str:
    """Rotate ``x`` [..., dim]; tables end with as many features as the spelling wants."""
    half = f.dim // 2
    if f.spelling == "none":
        return x
    if f.spelling in ("half", "half split"):
        if f.spelling == "half":
            low, high = part(net, x, 0, half), part(net, x, half, 2**62)
        else:
            low, high = (f"half{i}_{len(net.nodes)}" for i in range(2))
            net.nodes.append(
                onnx.helper.make_node("Split", [x, ints(net, half, half)], [low, high], axis=-1)
            )
        turned = net.add("Concat", net.add("Neg", high), low, axis=-1)
        return net.add("Add", net.add("Mul", x, cos), net.add("Mul", turned, sin))
    if f.spelling == "partial":
        some, rest = part(net, x, 0, half), part(net, x, half, f.dim)
        low, high = part(net, some, 0, half // 2), part(net, some, half // 2, half)
        turned = net.add("Concat", net.add("Neg", high), low, axis=-1)
        done = net.add("Add", net.add("Mul", some, cos), net.add("Mul", turned, sin))
        return net.add("Concat", done, rest, axis=-1)
    if f.spelling == "pairs gather":
        pairs = net.add("Reshape", x, ints(net, *[0] * (rank - 1), half, 2))
        even, odd = (net.add("Gather", pairs, index(net, i), axis=rank) for i in range(2))
    elif f.spelling == "pairs":
        even, odd = part(net, x, 0, 2**62, 2), part(net, x, 1, 2**62, 2)
    else:
        even, odd = part(net, x, 0, half), part(net, x, half, f.dim)
    first = net.add("Sub", net.add("Mul", even, cos), net.add("Mul", odd, sin))
    second = net.add("Add", net.add("Mul", even, sin), net.add("Mul", cos, odd))
    if f.spelling == "halves":
        return net.add("Concat", first, second, axis=-1)
    last = ints(net, -1)
    both = net.add("Concat", net.add("Unsqueeze", first, last), net.add("Unsqueeze", second, last),
                   axis=-1)  # fmt: skip
    return net.add("Reshape", both, ints(net, *[0] * (rank - 1), f.dim))


def tables(net: Net, f: Form, feeds: dict[str, Array], length: str) -> tuple[str, str]:
    """Cosines and sines that broadcast to [batch, heads, tokens, ...], or as it is unturned."""
    width = f.dim if f.spelling in ("half", "half split") else f.dim // 2
    batch = f.batch if f.table == "batch" else 1
    out = []
    for name in ("cos", "sin"):
        values = net.rng.standard_normal((batch, f.tokens, width)).astype(np.float32)
        if f.table == "constant":
            x = net.constant(values)
        elif f.table == "cut":  # from a table of all places, as far as there are tokens
            whole = net.rng.standard_normal((64, width)).astype(np.float32)
            x = net.add("Slice", net.constant(whole), ints(net, 0), length, ints(net, 0))
            x = net.add("Unsqueeze", x, ints(net, 0))
        else:
            open_batch: int | str = "b" if batch > 1 else 1
            dims: Dims = [open_batch, "t", width] if f.dynamic else [batch, f.tokens, width]
            x = net.input(name, dims)
            feeds[name] = values
        out.append(net.add("Unsqueeze", x, ints(net, 1 if f.turned else 2)))
    return out[0], out[1]


def decoder_attention(net: Net, f: Form, x: str, feeds: dict[str, Array]) -> tuple[str, list[str]]:
    """Projections, rotation, cache and attention of [batch, tokens, FEATURES]; also outputs."""
    sizes = net.add("Shape", x)
    length = net.add("Slice", sizes, ints(net, 1), ints(net, 2))
    if not f.dynamic:
        length = ints(net, f.tokens)
    cos, sin = ("", "") if f.spelling == "none" else tables(net, f, feeds, length)
    outputs: list[str] = []

    def cut(y: str, heads: int) -> str:
        tokens = 0 if f.dynamic else f.tokens
        return net.add("Reshape", y, ints(net, 0, tokens, heads, f.dim))

    def projected(heads: int, turn: bool) -> str:
        y = cut(linear(net, x, FEATURES, heads * f.dim), heads)
        if turn and not f.turned:
            y = rotated(net, y, f, cos, sin)
        if f.cache == "tokens first" and not turn:
            return y
        return y if f.cache == "tokens first" else net.add("Transpose", y, perm=[0, 2, 1, 3])

    def remembered(y: str, name: str, turned: bool) -> str:
        """Put behind what was before, along tokens."""
        shape = [f.batch, f.groups, f.past, f.dim]
        dims: list[int | str | None] = ["b", f.groups, "p", f.dim]
        axis = 2
        if turned:
            shape, dims, axis = [*shape[:2], f.dim, f.past], [*dims[:2], f.dim, "p"], 3
        elif f.cache == "tokens first":
            shape = [f.batch, f.past, f.groups, f.dim]
            dims, axis = ["b", "p", f.groups, f.dim], 1
        past = net.input(name, dims if f.dynamic else [*shape])
        feeds.update(feed(net.rng, {name: shape}))
        y = net.add("Concat", past, y, axis=axis)
        outputs.append(y)
        return y

    q = projected(f.heads, True)
    if f.cache == "tokens first":
        q = net.add("Transpose", q, perm=[0, 2, 1, 3])
    k, v = projected(f.groups, True), projected(f.groups, False)
    after = f.turned and f.spelling != "none"
    if after:
        q = rotated(net, q, f, cos, sin)
        if f.cache == "tokens first":
            k = net.add("Transpose", k, perm=[0, 2, 1, 3])
        k = rotated(net, k, f, cos, sin)
        if f.cache == "tokens first":
            k = net.add("Transpose", k, perm=[0, 2, 1, 3])
    if f.cache == "turned":
        k = remembered(net.add("Transpose", k, perm=[0, 1, 3, 2]), "past_k", True)
        k = net.add("Transpose", k, perm=[0, 1, 3, 2])
        v = remembered(v, "past_v", False)
    elif f.cache:
        k, v = remembered(k, "past_k", False), remembered(v, "past_v", False)
        if f.cache == "tokens first":
            k, v = (net.add("Transpose", z, perm=[0, 2, 1, 3]) for z in (k, v))
    elif f.shown:
        outputs += [k, v]
    times = f.heads // f.groups
    if times > 1:
        repeated = []
        for z in (k, v):
            z = net.add("Unsqueeze", z, ints(net, 2))
            z = net.add("Expand", z, ints(net, 1, 1, times, 1, 1))
            repeated.append(net.add("Reshape", z, ints(net, 0, f.heads, -1, f.dim)))
        k, v = repeated
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.add("Mul", scores, scalar(net, f.dim**-0.5))
    if f.mask == "input":
        keys = f.tokens + (f.past if f.cache else 0)
        mask = net.input("mask", [1, 1, "t", "k"] if f.dynamic else [1, 1, f.tokens, keys])
        causal = np.tri(f.tokens, keys, keys - f.tokens, dtype=np.float32)
        feeds["mask"] = ((1 - causal) * -1e4)[None, None]
        scores = net.add("Add", scores, mask)
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    joined = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]),
                     ints(net, 0, 0 if f.dynamic else f.tokens, f.heads * f.dim))  # fmt: skip
    return linear(net, joined, f.heads * f.dim, FEATURES), outputs


def skipped(f: Form) -> bool:
    return f.heads % f.groups != 0 or (f.table == "constant" and f.dynamic)


@settings(max_examples=250)
@given(f=FORMS, isa=st.sampled_from(["auto", "avx2", "scalar"]), threads=st.integers(1, 2))
def test_attention_of_a_decoder(f: Form, isa: str, threads: int) -> None:
    if skipped(f):
        return
    net = Net(f.tokens)
    dims: Dims = ["b", "t", FEATURES] if f.dynamic else [f.batch, f.tokens, FEATURES]
    x = net.input("x", dims)
    feeds: dict[str, Array] = feed(net.rng, {"x": [f.batch, f.tokens, FEATURES]})
    y, more = decoder_attention(net, f, x, feeds)
    session = compare(
        net.model(y, *more), [feeds, feeds], force=True, isa=isa, threads=threads, reduction=4000
    )
    if not f.dynamic:
        softmax = [d for d in runtime.explain(session) if d.op == "Softmax"]
        assert [d.kernel for d in softmax] == ["planes"], [d.reason for d in softmax]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("cache", ["", "heads first", "tokens first", "turned"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_nothing_is_left_between_the_products(spelling: str, cache: str, dynamic: bool) -> None:
    """Every spelling of the rotation is taken with any cache, with open sizes too."""
    f = Form(2, 7, 4, 2, 8, spelling, True, "shared", cache, 5, False, "input", dynamic)
    net = Net(1)
    x = net.input("x", ["b", "t", FEATURES] if dynamic else [2, 7, FEATURES])
    feeds: dict[str, Array] = feed(net.rng, {"x": [2, 7, FEATURES]})
    y, more = decoder_attention(net, f, x, feeds)
    session = compare(net.model(y, *more), [feeds], force=True, reduction=4000)
    decisions = runtime.explain(session)
    left = {d.op for d in decisions if not d.claimed}
    assert left <= {"Shape", "Slice", "Unsqueeze"}, left
    assert len({d.group for d in decisions if d.claimed}) == 1


def rms_norm(net: Net, x: str, size: int) -> str:
    mean = net.add("ReduceMean", net.add("Pow", x, scalar(net, 2.0)), axes=[-1], keepdims=1)
    root = net.add("Sqrt", net.add("Add", mean, scalar(net, 1e-5)))
    return net.add("Mul", net.vector(size), net.add("Mul", x, net.add("Reciprocal", root)))


def decoder(net: Net, f: Form, x: str, feeds: dict[str, Array]) -> tuple[str, list[str]]:
    """A whole layer."""
    y, more = decoder_attention(net, f, rms_norm(net, x, FEATURES), feeds)
    x = net.add("Add", x, y)
    inner = rms_norm(net, x, FEATURES)
    gate, up = linear(net, inner, FEATURES, 40), linear(net, inner, FEATURES, 40)
    gated = net.add("Mul", net.add("Mul", gate, net.add("Sigmoid", gate)), up)
    return net.add("Add", x, linear(net, gated, 40, FEATURES)), more


@pytest.mark.parametrize("tokens", [1, 19])
@pytest.mark.parametrize("cache", ["", "heads first"])
def test_a_decoder_layer_is_one_region(tokens: int, cache: str) -> None:
    f = Form(1, tokens, 4, 2, 8, "half", True, "shared", cache, 6, False, "none", False)
    net = Net(2)
    x = net.input("x", [1, tokens, FEATURES])
    feeds: dict[str, Array] = feed(net.rng, {"x": [1, tokens, FEATURES]})
    y, more = decoder(net, f, x, feeds)
    session = compare(net.model(y, *more), [feeds], force=True, reduction=4000)
    decisions = [d for d in runtime.explain(session) if d.op not in ("Shape", "Slice", "Unsqueeze")]
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


def test_compiled_decoder(tmp_path: Path) -> None:
    """Rotations and caches survive being saved."""
    from test_runtime_context import compile_to

    f = Form(1, 5, 4, 2, 8, "half", True, "constant", "heads first", 6, False, "input", False)
    net = Net(3)
    x = net.input("x", [1, 5, FEATURES])
    feeds: dict[str, Array] = feed(net.rng, {"x": [1, 5, FEATURES]})
    y, more = decoder(net, f, x, feeds)
    model = net.model(y, *more)
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert "EPContext" in [n.op_type for n in compiled.graph.node]
    direct = runtime.session(model, 1, force=True).run(None, feeds)
    loaded = runtime.session(compiled, 1).run(None, feeds)
    for a, e in zip(loaded, direct, strict=True):
        assert_close(a, e)


def test_a_cache_grows_from_nothing() -> None:
    """Steps of one token after each other, the first behind an empty cache."""
    f = Form(1, 1, 4, 2, 8, "half", True, "shared", "heads first", 0, False, "none", True)
    net = Net(4)
    x = net.input("x", ["b", "t", FEATURES])
    feeds: dict[str, Array] = {}
    y, more = decoder_attention(net, f, x, feeds)
    data = net.model(y, *more).SerializeToString()
    ours, cpu = runtime.session(data, 1, force=True), runtime.session(data, 1, provider="cpu")
    assert "Softmax" in claimed_ops(ours)
    past = [np.zeros((1, 2, 0, 8), np.float32)] * 2
    for step in range(6):
        given = feed(net.rng, {"x": [1, 1, FEATURES], "cos": [1, 1, 8], "sin": [1, 1, 8]})
        given |= {"past_k": past[0], "past_v": past[1]}
        actual, expected = ours.run(None, given), cpu.run(None, given)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, 4000, f"step {step}")
        past = list(actual[1:])


def test_tables_that_do_not_fit_are_errors_not_crashes() -> None:
    f = Form(1, 4, 2, 2, 8, "half", True, "shared", "", 0, False, "none", True)
    net = Net(5)
    x = net.input("x", ["b", "t", FEATURES])
    feeds: dict[str, Array] = {}
    y, _ = decoder_attention(net, f, x, feeds)
    session = runtime.session(net.model(y), 1, force=True)
    good: dict[str, Any] = {"x": np.zeros((1, 4, FEATURES), np.float32), **feeds}
    assert session.run(None, good)[0].shape == (1, 4, FEATURES)
    wrong = {"cos": np.zeros((1, 3, 8), np.float32), "sin": np.zeros((1, 3, 8), np.float32)}
    with pytest.raises(Exception, match=r"operands|shape|broadcast|dimension"):
        session.run(None, good | wrong)


def test_scores_keep_their_scale() -> None:
    """Queries scaled before they are rotated, keys after."""
    f = Form(1, 9, 4, 4, 8, "half", True, "shared", "", 0, False, "none", False)
    net = Net(6)
    x = net.input("x", [1, 9, FEATURES])
    feeds: dict[str, Array] = feed(net.rng, {"x": [1, 9, FEATURES]})
    cos, sin = tables(net, f, feeds, "")
    shape = ints(net, 1, 9, 4, 8)
    q, k, v = (
        net.add("Transpose", net.add("Reshape", linear(net, x, FEATURES, 32), shape),
                perm=[0, 2, 1, 3])
        for _ in range(3)
    )  # fmt: skip
    q = rotated(net, net.add("Mul", q, scalar(net, math.sqrt(0.3))), f, cos, sin)
    k = net.add("Div", rotated(net, k, f, cos, sin), scalar(net, -2.0))
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    joined = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), ints(net, 1, 9, 32))
    session = compare(net.model(linear(net, joined, 32, 8)), [feeds], force=True, reduction=4000)
    assert "Softmax" in claimed_ops(session)


def flat_product(net: Net, x: str, inputs: int, outputs: int) -> str:
    """A product of rows as GPT-2 is exported, between reshapes by sizes from the graph."""
    sizes = net.add("Shape", x)
    lead = net.add("Slice", sizes, ints(net, 0), ints(net, -1))
    back = net.add("Concat", lead, ints(net, outputs), axis=0)
    flat = net.add("Reshape", x, ints(net, -1, inputs))
    weight, bias = net.weight(inputs, outputs, sparsity=0.8), net.vector(outputs)
    return net.add("Reshape", net.add("Gemm", flat, weight, bias), back)


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("dynamic", [False, True])
def test_products_between_reshapes(rank: int, dynamic: bool) -> None:
    net = Net(7)
    shape = [*[2, 3, 5][: rank - 1], FEATURES]
    names: list[int | str | None] = [*["a", "b", "c"][: rank - 1], FEATURES]
    x = net.input("x", names if dynamic else [*shape])
    y = net.add("Relu", flat_product(net, x, FEATURES, 20))
    y = net.add("Add", flat_product(net, y, 20, FEATURES), x)
    other = [1, *shape[1:]]
    feeds = [feed(net.rng, {"x": s}) for s in ([shape, other] if dynamic else [shape])]
    session = compare(net.model(y), feeds, force=True, reduction=200)
    decisions = runtime.explain(session)
    assert claimed_ops(session).count("Gemm") == 2
    assert len({d.group for d in decisions if d.claimed}) == 1


def test_flattened_rows_with_tables_of_one_sequence() -> None:
    """Tokens of all sequences on one axis, as torch exports products with a bias: tables repeat."""
    f = Form(3, 9, 2, 2, 8, "half", True, "constant", "", 0, False, "none", False)
    net = Net(9)
    x = net.input("x", [27, FEATURES])
    feeds: dict[str, Array] = feed(net.rng, {"x": [27, FEATURES]})
    cos, sin = tables(net, f, feeds, "")
    q, k, v = (
        net.add(
            "Transpose",
            net.add("Reshape", linear(net, x, FEATURES, 16), ints(net, 3, 9, 2, 8)),
            perm=[0, 2, 1, 3],
        )
        for _ in range(3)
    )
    q, k = (rotated(net, z, f, cos, sin) for z in (q, k))
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    joined = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), ints(net, 27, 16))
    y = linear(net, joined, 16, FEATURES)
    session = compare(net.model(y), [feeds], force=True, reduction=4000)
    assert "Softmax" in claimed_ops(session)


def test_a_flat_product_read_elsewhere_is_left_alone() -> None:
    net = Net(8)
    x = net.input("x", ["a", "b", FEATURES])
    y = flat_product(net, x, FEATURES, 20)
    rows = net.nodes[-1].input[0]
    compare(net.model(y, rows), [feed(net.rng, {"x": [2, 3, FEATURES]})], force=True, reduction=200)
