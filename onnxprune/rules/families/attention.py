"""Fused attention: heads pass as a whole."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnxprune.rules.base import GiveUp, KeptOf, Sample, register
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

MS = "com.microsoft"


def _no_past(n: NodeView, *indices: int) -> None:
    if any(n.has(i) for i in indices):
        raise GiveUp(f"{n.op} with past state")


def _scores(n: NodeView, index: int, heads: str) -> str:
    """Return the axes of what is added to the scores, which repeats along axes of size one.

    Args:
        n: the node.
        index: the input.
        heads: the heads as factors.
    """
    if not n.has(index):
        return "x?"
    dims = n.dims(index) or []
    names = ["b", heads, "s", "t"][-len(dims) :] if dims else []
    return " ".join("1" if dim == 1 else x for x, dim in zip(names, dims, strict=True)) + "?"


_PLACES = ("s", "t", "t2", "t3")


def _padding(n: NodeView, index: int) -> str:
    """Return the axes of a mask that knows no heads: of the batch, then of positions."""
    return " ".join(("b", *_PLACES[1:])[: n.rank(index)]) + "?" if n.has(index) else "x?"


def ms_attention(n: NodeView) -> None:
    """State what com.microsoft Attention does: one weight makes query, key and value."""
    heads = int(n.attr("num_heads", 0))
    sizes = n.attr("qkv_hidden_sizes")
    if sizes and len(set(sizes)) > 1:
        raise GiveUp("Attention whose query, key and value differ in size")
    if heads < 1:
        raise GiveUp("Attention without num_heads")
    _no_past(n, 4)
    rule = TextRule(
        f"b s i, i (c h d), (c h d)?, {_padding(n, 3)}, x?, {_scores(n, 5, 'h')} -> b s (h d)",
        lambda _: {"c": 3, "h": heads},
        weight=(1,),
        group_attr=("num_heads", "h"),
        keep=("c", "d", *_PLACES),
        marks=("h",),
    )
    rule(n)
    if sizes:
        out = n.out_ids(2)

        def patch(rw: Rewriter, kept: KeptOf) -> None:
            if out is not None and not kept(out).all():
                rw.set_attr("qkv_hidden_sizes", [int(kept(out).sum())] * 3)

        n.on_rewrite(patch)


def multi_head(n: NodeView) -> None:
    """State what MultiHeadAttention does with separate query, key and value."""
    heads = int(n.attr("num_heads", 0))
    if heads < 1 or not n.has(1) or not n.has(2) or n.rank(0) != 3 or n.rank(1) != 3:
        raise GiveUp("MultiHeadAttention with packed inputs")
    past = "b h p d?, b h p e?"
    rule = TextRule(
        f"b s (h d), b t (h d), b t (h e), z?, {_padding(n, 4)}, {_scores(n, 5, 'h')}, {past} "
        "-> b s (h e), b h u d, b h u e",
        lambda _: {"h": heads},
        group_attr=("num_heads", "h"),
        keep=("d", "e", "p", "z", *_PLACES),
        marks=("h",),
    )
    if not n.has(3):
        rule(n)
        return
    # The bias is that of query, key and value one after the other.
    joint = n.ids(3, 0)
    parts = [n.ids(i, 2) for i in range(3)]
    rule = dataclasses.replace(rule, keep=tuple(k for k in rule.keep if k != "z"))
    rule(n)
    if joint is None or any(part is None for part in parts):
        n.freeze(joint, "is split into parts of unknown size")
        return
    start = 0
    for part in parts:
        assert part is not None
        n.space.link(joint[start : start + len(part)], part)
        start += len(part)


def grouped_query(n: NodeView) -> None:
    """State what GroupQueryAttention does: a key head lives and dies with its query heads."""
    heads, shared = int(n.attr("num_heads", 0)), int(n.attr("kv_num_heads", 0))
    if min(heads, shared) < 1 or heads % shared or not n.has(1) or not n.has(2):
        raise GiveUp("GroupQueryAttention with packed inputs")
    if any(n.has(i) for i in range(9, n.n_inputs)):
        raise GiveUp("GroupQueryAttention with a bias, sinks or positions of its own")
    ratio = heads // shared
    text = (
        "b s (k r d), b t (k d), b t (k d), b k p d?, b k p d?, b? -> b s (k r d), b k u d, b k u d"
    )
    TextRule(
        text,
        lambda _: {"k": shared, "r": ratio},
        group_attr=("kv_num_heads", "k"),
        keep=("d", "r", "s", "t", "p"),
        marks=("k",),
    )(n)
    _query_heads(n, "num_heads", heads)


def _query_heads(n: NodeView, attr: str, heads: int) -> None:
    """Keep the number of query heads in step with the width of the query."""
    whole = n.ids(0, 2)

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        if whole is not None:
            rw.set_attr(attr, heads * int(kept(whole).sum()) // len(whole))

    n.on_rewrite(patch)


def attention(n: NodeView) -> None:
    """State what ai.onnx Attention does, with heads as an axis or inside the last one."""
    flat = n.rank(0) == 3
    if flat:
        heads, few = int(n.attr("q_num_heads", 0)), int(n.attr("kv_num_heads", 0))
    else:
        many, some = (n.dims(0) or [])[1], (n.dims(1) or [])[1]
        if not isinstance(many, int) or not isinstance(some, int):
            raise GiveUp("an unknown number of heads")
        heads, few = many, some
    if min(heads, few) < 1 or heads % few:
        raise GiveUp("Attention without head counts")
    query = "(k r)" if heads > few else "k"
    mask = _scores(n, 3, query)
    past = "b k p d?, b k p e?"
    more = f"b k u d, b k u e, b {query} s v"
    q = query.strip("()")
    if flat:
        text = f"b s ({q} d), b t (k d), b t (k e), {mask}, {past} -> b s ({q} e), {more}"
    else:
        text = f"b {query} s d, b k t d, b k t e, {mask}, {past} -> b {query} s e, {more}"
    TextRule(
        text,
        lambda _: {"k": few, "r": heads // few} if heads > few else {"k": few},
        group_attr=("kv_num_heads", "k") if flat else None,
        keep=("b", "r", "d", "e", "s", "t", "p"),  # lengths, one for each of b, may be given
        marks=("k",),
    )(n)
    if flat:
        _query_heads(n, "q_num_heads", heads)


def rotary(n: NodeView) -> None:
    """State what RotaryEmbedding does: heads pass, the inside of a head mixes."""
    heads = int(n.attr("num_heads", 0))
    for index in range(1, n.n_inputs):
        # Positions of every sample, or the angles themselves, have the batch axis too.
        ranked = 3 if n.node.domain != MS and index < 3 else 2
        if n.has(index) and n.rank(index) == ranked and (n.node.domain != MS or index == 1):
            n.link(n.ids(index, 0), n.ids(0, 0))
    if n.rank(0) == 4:
        TextRule("b h s d -> b h s d", keep=("d", "s"))(n)
        return
    cosines = (n.dims(2 if n.node.domain == MS else 1) or [None])[-1]
    width = (n.dims(0) or [])[-1]
    if heads < 1 and isinstance(cosines, int) and isinstance(width, int):
        heads = width // (2 * cosines)
    if heads < 1:
        raise GiveUp("RotaryEmbedding of an unknown number of heads")
    TextRule(
        "b s (h d) -> b s (h d)",
        lambda _: {"h": heads},
        group_attr=("num_heads", "h") if n.attr("num_heads", 0) else None,
        keep=("d", "s"),
    )(n)


_TEXT = "heads pass whole"
register(
    "Attention",
    ms_attention,
    "b s i, i (3 h d), (3 h d) -> b s (h d)",
    [
        Sample(((2, 3, 8), (8, 24), (24,)), {"num_heads": 4}, {1: "rand", 2: "rand"}, opset=1),
        Sample(
            ((2, 3, 8), (8, 24), (24,), (2, 3), None, (2, 4, 3, 3)),
            {"num_heads": 4},
            {1: "rand", 2: "rand", 3: [[1, 1, 1], [1, 1, 0]]},
            opset=1,
            dtypes={3: "int32"},
        ),
        Sample(
            ((2, 3, 8), (8, 24), (24,)),
            {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 8]},
            {1: "rand", 2: "rand"},
            opset=1,
        ),
    ],
    domain=MS,
    exact=_TEXT,
)
register(
    "MultiHeadAttention",
    multi_head,
    "b s (h d), b t (h d), b t (h e) -> b s (h e)",
    [
        Sample(((2, 3, 8), (2, 5, 8), (2, 5, 8)), {"num_heads": 4}, opset=1),
        Sample(
            ((2, 3, 8), (2, 5, 8), (2, 5, 8), (24,), None, (1, 4, 3, 5)),
            {"num_heads": 4},
            {3: "rand"},
            opset=1,
        ),
    ],
    domain=MS,
    exact=_TEXT,
)
register(
    "Attention",
    attention,
    "b (k r) s d, b k t d, b k t e -> b (k r) s e",
    [
        Sample(((2, 4, 3, 5), (2, 2, 6, 5), (2, 2, 6, 5)), opset=23),
        Sample(
            ((2, 3, 20), (2, 6, 10), (2, 6, 10)), {"q_num_heads": 4, "kv_num_heads": 2}, opset=23
        ),
        Sample(((2, 4, 3, 5), (2, 4, 6, 5), (2, 4, 6, 5), (4, 3, 6)), opset=23),
        Sample(
            ((2, 3, 20), (2, 3, 20), (2, 3, 20), (3, 7), (2, 4, 4, 5), (2, 4, 4, 5)),
            {"q_num_heads": 4, "kv_num_heads": 4},
            opset=23,
            outputs=3,
        ),
    ],
    exact=_TEXT,
)
_ROTARY = "b s (h d), positions, cos, sin -> b s (h d)"
register(
    "RotaryEmbedding",
    rotary,
    _ROTARY,
    [
        Sample(
            ((2, 3, 24), (2, 3), (5, 4), (5, 4)),
            {"num_heads": 3},
            {1: [[0, 1, 2], [1, 2, 3]]},
            opset=1,
            dtypes={1: "int64"},
        ),
        Sample(
            ((2, 3, 4, 8), (1,), (6, 4), (6, 4)),
            {"interleaved": 1},
            {1: [1]},
            opset=1,
            dtypes={1: "int64"},
        ),
    ],
    domain=MS,
    exact=_TEXT,
)
register(
    "RotaryEmbedding",
    rotary,
    _ROTARY,
    [
        Sample(((2, 3, 24), (2, 3, 4), (2, 3, 4)), {"num_heads": 3}, opset=23),
        Sample(((2, 3, 4, 8), (2, 4, 4), (2, 4, 4)), {"interleaved": 1}, opset=23),
    ],
    exact=_TEXT,
)
_GQA: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2}
register(
    "GroupQueryAttention",
    grouped_query,
    "b s (k r d), b t (k d), b t (k d), b k p d?, b k p d? -> b s (k r d), b k u d, b k u d",
    [
        Sample(
            ((2, 3, 32), (2, 3, 16), (2, 3, 16), None, None, (2,), ()),
            _GQA,
            {5: [2, 2], 6: 3},
            opset=1,
            outputs=3,
            dtypes={5: "int32", 6: "int32"},
        ),
    ],
    domain=MS,
    exact=_TEXT,
)
