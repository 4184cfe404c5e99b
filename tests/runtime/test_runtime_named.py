"""What optimisers write by name: rotations, attention with its weights, activations, norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from runtime_graphs import Array, Dims, Net, claimed_ops, compare, feed
from test_runtime_attention import FEATURES, ISAS, finish, ints, linear

from onnxprune import runtime

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """An attention whose queries and keys are rotated by a node."""

    domain: str
    batch: int
    tokens: int
    heads: int
    groups: int
    dim: int  # even
    partial: bool
    pairs: bool  # interleaved
    split: bool  # heads on an axis of their own
    table: str  # "positions", "constant positions", "offset", "values"
    past: bool
    dynamic: bool


FORMS = st.builds(
    Form,
    domain=st.sampled_from(["", MICROSOFT]),
    batch=st.sampled_from([1, 3]),
    tokens=st.sampled_from([1, 2, 17]),
    heads=st.sampled_from([1, 4]),
    groups=st.sampled_from([1, 2, 4]),
    dim=st.sampled_from([4, 8]),
    partial=st.booleans(),
    pairs=st.booleans(),
    split=st.booleans(),
    table=st.sampled_from(["positions", "constant positions", "offset", "values"]),
    past=st.booleans(),
    dynamic=st.booleans(),
)


def possible(f: Form) -> bool:
    if f.heads % f.groups or (f.dynamic and f.table in ("constant positions", "offset")):
        return False
    return f.table != ("offset" if f.domain == "" else "values")


def rotary_attention(net: Net, f: Form, feeds: dict[str, Array]) -> tuple[str, list[str]]:
    dims: Dims = ["b", "t", FEATURES] if f.dynamic else [f.batch, f.tokens, FEATURES]
    x = net.input("x", dims)
    feeds.update(feed(net.rng, {"x": [f.batch, f.tokens, FEATURES]}))
    turned = f.dim // 2 if f.partial else f.dim
    angles = net.rng.standard_normal((40, turned // 2))
    tables = [g(angles).astype(np.float32) for g in (np.cos, np.sin)]
    positions = net.rng.integers(0, 40, (f.batch, f.tokens))
    place = ""
    if f.table == "values":
        names: Dims = ["b", "t", turned // 2]
        shape = [f.batch, f.tokens, turned // 2]
        cos, sin = (net.input(n, names if f.dynamic else shape) for n in ("cos", "sin"))
        feeds |= {"cos": tables[0][positions], "sin": tables[1][positions]}
    else:
        cos, sin = (net.constant(t) for t in tables)
        if f.table == "positions":
            place = net.input("place", ["b", "t"] if f.dynamic else [f.batch, f.tokens],
                              TensorProto.INT64)  # fmt: skip
            feeds["place"] = positions
        else:
            place = ints(net, 5) if f.table == "offset" else net.constant(positions)

    def operand(heads: int, rotate: bool) -> str:
        z = linear(net, x, FEATURES, heads * f.dim)
        if f.split:
            z = net.add("Reshape", z, ints(net, 0, 0, heads, f.dim))
            z = net.add("Transpose", z, perm=[0, 2, 1, 3])
        if not rotate:
            return z
        options: dict[str, Any] = {"interleaved": int(f.pairs)}
        if f.partial:
            options["rotary_embedding_dim"] = turned
        if f.partial or f.domain == "":
            options["num_heads"] = heads
        inputs = [z, place, cos, sin] if f.domain else [z, cos, sin, place]
        while not inputs[-1]:
            inputs.pop()
        return net.add("RotaryEmbedding", *inputs, domain=f.domain, **options)

    q, k, v = operand(f.heads, True), operand(f.groups, True), operand(f.groups, False)
    inputs, outputs = [q, k, v], ["mixed"]
    if f.past:
        names = ["b", f.groups, "p", f.dim]
        shape = [f.batch, f.groups, 5, f.dim]
        inputs += [""] + [net.input(n, names if f.dynamic else shape) for n in ("pk", "pv")]
        feeds |= feed(net.rng, {"pk": shape, "pv": shape})
        outputs += ["present_k", "present_v"]
    node = helper.make_node("Attention", inputs, outputs, "attention", is_causal=1)
    if not f.split:
        node.attribute.append(helper.make_attribute("q_num_heads", f.heads))
        node.attribute.append(helper.make_attribute("kv_num_heads", f.groups))
    net.nodes.append(node)
    y = "mixed"
    if f.split:
        y = net.add("Transpose", y, perm=[0, 2, 1, 3])
        y = net.add("Reshape", y, ints(net, 0, 0, f.heads * f.dim))
    return linear(net, y, f.heads * f.dim, FEATURES), outputs[1:]


@settings(max_examples=200)
@given(f=FORMS, isa=st.sampled_from(ISAS), threads=st.integers(1, 2))
def test_rotations_by_name(f: Form, isa: str, threads: int) -> None:
    if not possible(f):
        return
    net = Net(f.tokens)
    feeds: dict[str, Array] = {}
    y, more = rotary_attention(net, f, feeds)
    session = compare(
        finish(net, y, *more), [feeds, feeds], force=True, isa=isa, threads=threads, reduction=4000
    )
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions), {d.op: d.reason for d in decisions if not d.claimed}
    assert len({d.group for d in decisions}) == 1


def test_positions_without_a_row_are_errors_not_crashes() -> None:
    f = Form("", 1, 3, 2, 2, 4, False, False, False, "positions", False, True)
    net = Net(1)
    feeds: dict[str, Array] = {}
    y, _ = rotary_attention(net, f, feeds)
    session = runtime.session(finish(net, y), 1, force=True)
    assert session.run(None, feeds)[0].shape == (1, 3, FEATURES)
    for wrong in (-1, 40):
        with pytest.raises(Exception, match="position"):
            session.run(None, feeds | {"place": np.full((1, 3), wrong, np.int64)})


def test_compiled_rotations(tmp_path: Any) -> None:
    from test_runtime_context import compile_to

    f = Form("", 2, 3, 2, 1, 4, True, True, False, "positions", True, False)
    net = Net(1)
    feeds: dict[str, Array] = {}
    y, more = rotary_attention(net, f, feeds)
    model = finish(net, y, *more)
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert [n.op_type for n in compiled.graph.node] == ["EPContext"]
    direct = runtime.session(model, 1, force=True, timing=False).run(None, feeds)
    for a, e in zip(
        runtime.session(compiled, 1, timing=False).run(None, feeds), direct, strict=True
    ):
        assert np.array_equal(a, e)


@settings(max_examples=100)
@given(
    batch=st.sampled_from([1, 3]),
    tokens=st.sampled_from([1, 2, 17]),
    heads=st.sampled_from([1, 4]),
    value_dim=st.sampled_from([0, 5]),
    mask=st.sampled_from(["", "keys", "queries", "added"]),
    causal=st.booleans(),
    bias=st.booleans(),
    dynamic=st.booleans(),
    isa=st.sampled_from(ISAS),
)
def test_attention_with_its_weights(
    batch: int, tokens: int, heads: int, value_dim: int, mask: str, causal: bool, bias: bool,
    dynamic: bool, isa: str,
) -> None:  # fmt: skip
    """Attention of onnxruntime: its weight is a sparse product."""
    net = Net(tokens)
    dim = 3
    x = net.input("x", ["b", "t", FEATURES] if dynamic else [batch, tokens, FEATURES])
    feeds = feed(net.rng, {"x": [batch, tokens, FEATURES]})
    width = heads * (2 * dim + (value_dim or dim))
    inputs = [x, net.weight(FEATURES, width, sparsity=0.8), net.vector(width) if bias else ""]
    if mask in ("keys", "queries"):
        names: Dims = ["b", "t"] if mask == "keys" else ["b", "t", "t"]
        shape = [batch, tokens] if mask == "keys" else [batch, tokens, tokens]
        inputs.append(net.input("mask", names if dynamic else shape, TensorProto.INT32))
        feeds["mask"] = net.rng.integers(0, 2, shape).astype(np.int32)
        feeds["mask"][0] = 0
    elif mask:
        shape = [batch, heads, tokens, tokens]
        names = ["b", heads, "t", "t"]
        inputs += ["", "", net.input("mask", names if dynamic else shape)]
        feeds |= feed(net.rng, {"mask": shape})
    while not inputs[-1]:
        inputs.pop()
    options: dict[str, Any] = {"num_heads": heads, "unidirectional": int(causal)}
    if value_dim:
        options["qkv_hidden_sizes"] = [heads * dim, heads * dim, heads * value_dim]
    y = net.add("Attention", *inputs, domain=MICROSOFT, **options)
    y = linear(net, y, heads * (value_dim or dim), FEATURES)
    session = compare(finish(net, y), [feeds], force=True, isa=isa, reduction=4000)
    named = next(d for d in runtime.explain(session) if d.op == "Attention")
    assert named.claimed, named.reason
    assert named.sparsity is not None
    assert named.sparsity > 0.5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("op", "domain", "options", "bias"),
    [
        ("Gelu", "", {}, False),
        ("Gelu", "", {"approximate": "tanh"}, False),
        ("Gelu", MICROSOFT, {}, False),
        ("FastGelu", MICROSOFT, {}, False),
        ("FastGelu", MICROSOFT, {}, True),
        ("BiasGelu", MICROSOFT, {}, True),
        ("QuickGelu", MICROSOFT, {}, False),
        ("QuickGelu", MICROSOFT, {"alpha": 1.0}, False),
        ("QuickGelu", MICROSOFT, {"alpha": 0.5}, False),
        ("Swish", "", {}, False),
        ("Swish", "", {"alpha": 1.5}, False),
    ],
)
def test_activations_by_name(
    op: str, domain: str, options: dict[str, Any], bias: bool, isa: str
) -> None:
    net = Net()
    x = linear(net, net.input("x", ["b", "t", FEATURES]), FEATURES, 20)
    inputs = [x, net.vector(20)] if bias else [x]
    y = linear(net, net.add(op, *inputs, domain=domain, **options), 20, FEATURES)
    feeds = [feed(net.rng, {"x": [b, t, FEATURES]}) for b, t in ((1, 1), (3, 17))]
    model = finish(net, y, opset=24 if op == "Swish" else 23)
    session = compare(model, feeds, force=True, isa=isa, reduction=200)
    assert op in claimed_ops(session)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("isa", ISAS)
def test_norms_that_show_their_sum(op: str, bias: bool, isa: str) -> None:
    """As the residual of the next layer, and as a result."""
    net = Net()
    x = net.input("x", ["b", "t", FEATURES])
    a, b = linear(net, x, FEATURES, 20), linear(net, x, FEATURES, 20)
    inputs = [a, b, net.vector(20)]
    if op == "SkipLayerNormalization":
        inputs.append(net.vector(20))
    if bias:
        inputs.append(net.vector(20))
    net.nodes.append(
        helper.make_node(op, inputs, ["norm", "", "", "sum"], domain=MICROSOFT, epsilon=1e-5)
    )
    y = net.add("Add", linear(net, "norm", 20, 20), "sum")
    feeds = [feed(net.rng, {"x": [b, t, FEATURES]}) for b, t in ((1, 1), (3, 17))]
    session = compare(finish(net, y, "sum"), feeds, force=True, isa=isa, reduction=400)
    assert op in claimed_ops(session)


def test_results_of_a_norm_that_nobody_reads() -> None:
    net = Net()
    x = linear(net, net.input("x", [2, 9, FEATURES]), FEATURES, 20)
    inputs = [x, net.vector(20), net.vector(20)]
    net.nodes.append(helper.make_node("LayerNormalization", inputs, ["norm", "mean", "inverse"]))
    y = linear(net, "norm", 20, FEATURES)
    session = compare(finish(net, y), [feed(net.rng, {"x": [2, 9, FEATURES]})], force=True,
                      reduction=200)  # fmt: skip
    assert "LayerNormalization" in claimed_ops(session)


@pytest.mark.parametrize("isa", ISAS)
def test_root_mean_square_norms(isa: str) -> None:
    net = Net()
    x = linear(net, net.input("x", ["b", "t", FEATURES]), FEATURES, 20)
    y = linear(net, net.add("RMSNormalization", x, net.vector(20), axis=-1), 20, FEATURES)
    feeds = [feed(net.rng, {"x": [b, t, FEATURES]}) for b, t in ((1, 1), (3, 17))]
    session = compare(finish(net, y), feeds, force=True, isa=isa, reduction=200)
    assert "RMSNormalization" in claimed_ops(session)
