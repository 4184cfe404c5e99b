"""Fused attention: heads pass as a whole, and what is inside them where nothing turns it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.axes import Ids
from onnxprune.rules.base import GiveUp, KeptOf, Sample, register
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

MS = "com.microsoft"


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


def _scale(n: NodeView, width: Ids | None) -> None:
    """Write down the factor of the scores, one over the root of a head's width, before that goes.

    Args:
        n: the node.
        width: the coordinates of queries and keys inside a head.
    """
    if width is None or n.attr("scale"):  # 0 means the default
        return

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        if not kept(width).all():
            rw.set_attr("scale", 1 / math.sqrt(len(width)))

    n.on_rewrite(patch)


def _parts(n: NodeView, joint: Ids | None, parts: Sequence[Ids | None]) -> None:
    """State that an axis is that of several parts, one after the other."""
    if joint is None or any(part is None for part in parts):
        for ids in (joint, *parts):
            n.freeze(ids, "is split into parts of unknown size")
        return
    start = 0
    for part in parts:
        assert part is not None
        n.space.link(joint[start : start + len(part)], part)
        start += len(part)


def _joint(n: NodeView, heads: int, rotates: bool, weight: str, more: str) -> None:
    """State what an attention does of which one weight makes query, key and value.

    Args:
        n: the node.
        heads: how many.
        rotates: it turns pairs of coordinates inside a head, which then stay.
        weight: the operands up to the bias.
        more: those behind, and the results.
    """
    factors = TextRule(
        f"{weight}, {more}, y b h u d",
        lambda _: {"c": 3, "h": heads},
        weight=(1,),
        size_attrs={"num_heads": "h"},
        keep=("c", "y", "p", *_PLACES, *(("d",) if rotates else ())),
        marks=("h",),
    )(n)
    _scale(n, factors.get("d"))
    _zero_counts(n, (1, n.rank(1) - 1), *([(2, 0)] if n.has(2) else []))


def _zero_counts(n: NodeView, *places: tuple[int, int]) -> None:
    """State that zeros in all of these axes, query's among them, leave a coordinate out of scores.

    Args:
        n: the node.
        places: (input, axis) of each.
    """
    for index, axis in places:
        ids = n.ids(index, axis)
        if ids is not None:
            n.contract((index, axis, ids))


def ms_attention(n: NodeView) -> None:
    """State what com.microsoft Attention does: one weight makes query, key and value."""
    heads = int(n.attr("num_heads", 0))
    sizes = n.attr("qkv_hidden_sizes")
    if sizes and len(set(sizes)) > 1:
        raise GiveUp("Attention whose query, key and value differ in size")
    if heads < 1:
        raise GiveUp("Attention without num_heads")
    if n.attr("past_present_share_buffer", 0):
        raise GiveUp("Attention with one buffer for past and present")
    weight = "b s i, i (c h d), (c h d)?"
    more = f"{_padding(n, 3)}, y b h p d?, {_scores(n, 5, 'h')} -> b s (h d)"
    _joint(n, heads, bool(n.attr("do_rotary", 0)), weight, more)
    if sizes:
        out = n.out_ids(2)

        def patch(rw: Rewriter, kept: KeptOf) -> None:
            if out is not None and not kept(out).all():
                rw.set_attr("qkv_hidden_sizes", [int(kept(out).sum())] * 3)

        n.on_rewrite(patch)


def qattention(n: NodeView) -> None:
    """State what QAttention does: com.microsoft Attention on integers."""
    heads = int(n.attr("num_heads", 0))
    if heads < 1:
        raise GiveUp("QAttention without num_heads")
    if n.attr("past_present_share_buffer", 0):
        raise GiveUp("QAttention with one buffer for past and present")
    n.quantised(0, 3, 6)
    n.quantised(1, 4, 7, axis=1)

    def per(index: int) -> str:
        if not n.has(index) or n.rank(index) == 0:
            return "?"
        return "1?" if n.dims(index) == [1] else "(c h d)?"

    weight = f"b s i, i (c h d), (c h d), {per(3)}, {per(4)}"
    more = f"{_padding(n, 5)}, {per(6)}, {per(7)}, y b h p d? -> b s (h d)"
    n.typed_like(2)
    _joint(n, heads, bool(n.attr("do_rotary", 0)), weight, more)


def multi_head(n: NodeView) -> None:
    """State what MultiHeadAttention does with separate query, key and value."""
    heads = int(n.attr("num_heads", 0))
    if heads < 1 or not n.has(1) or not n.has(2) or n.rank(0) != 3:
        # onnxruntime has these forms on other devices only, where nothing here could judge them.
        raise GiveUp("MultiHeadAttention with packed inputs")
    # Of rank 4: the keys and values of an encoder, as a cache holds them.
    held = n.rank(1) == 4
    e = "d" if held or n.has(6) or n.has(7) else "e"  # kernels want caches of one width
    rest = f"b h t d, b h t {e}" if held else f"b t (h d), b t (h {e})"
    factors = TextRule(
        f"b s (h d), {rest}, z?, {_padding(n, 4)}, {_scores(n, 5, 'h')}, b h p d?, b h p {e}? "
        f"-> b s (h {e}), b h u d, b h u {e}",
        lambda _: {"h": heads},
        size_attrs={"num_heads": "h"},
        keep=("p", *_PLACES),
        marks=("h",),
    )(n)
    _scale(n, factors.get("d"))
    _zero_counts(n, (0, 2))
    if n.has(3):
        _zero_counts(n, (3, 0))
        # The bias is that of query, key and value one after the other.
        _parts(n, n.ids(3, 0), [_product(n, factors, ("h", x)) for x in ("d", "d", e)])


def _product(n: NodeView, factors: Mapping[str, Ids], names: Sequence[str]) -> Ids | None:
    """Return coordinates of a product of factors; None where one is of unknown size."""
    blocks = [factors.get(name) for name in names]
    sizes = [len(ids) for ids in blocks if ids is not None]
    if len(sizes) < len(blocks):
        return None
    whole = n.space.new(math.prod(sizes))
    n.product(whole, blocks)
    return whole


def grouped_query(n: NodeView) -> None:
    """State what GroupQueryAttention does: a key head lives and dies with its query heads."""
    heads, shared = int(n.attr("num_heads", 0)), int(n.attr("kv_num_heads", 0))
    if min(heads, shared) < 1 or heads % shared or n.has(1) != n.has(2):
        raise GiveUp("GroupQueryAttention without head counts")
    if any(n.has(i) for i in range(9, n.n_inputs)):
        raise GiveUp("GroupQueryAttention with a bias, sinks or positions of its own")
    ratio, together = heads // shared, not n.has(1)
    bound = {"k": shared, "r": ratio}
    if together:  # query, key and value side by side
        width = (n.dims(0) or [None])[-1]
        if not isinstance(width, int) or width % (heads + 2 * shared):
            raise GiveUp("GroupQueryAttention of an unknown width")
        bound["d"] = width // (heads + 2 * shared)
        parts = "b s q, ?, ?"
    else:
        parts = "b s (k r d), b t (k d), b t (k d)"
    factors = TextRule(
        f"{parts}, b k p d?, b k p d?, b? -> b s (k r d), b k u d, b k u d",
        lambda _: bound,
        size_attrs={"kv_num_heads": "k", "num_heads": "k r"},
        keep=("r", "d", "s", "t", "p"),  # kernels want a width of whole eights
        marks=("k",),
        fed=("k", "d"),
    )(n)
    if together:
        shapes = [("k", "r", "d"), ("k", "d"), ("k", "d")]
        _parts(n, n.ids(0, 2), [_product(n, factors, names) for names in shapes])


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
    factors = TextRule(
        text,
        lambda _: {"k": few, "r": heads // few} if heads > few else {"k": few},
        size_attrs={"kv_num_heads": "k", "q_num_heads": q} if flat else {},
        keep=("b", "r", "s", "t", "p"),  # lengths, one for each of b, may be given
        marks=("k",),
    )(n)
    _scale(n, factors.get("d"))
    _zero_counts(n, (0, n.rank(0) - 1))


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
        size_attrs={"num_heads": "h"} if n.attr("num_heads", 0) else {},
        keep=("d", "s"),
    )(n)


_TEXT = "heads and the width inside them"
_PAST: dict[str, Any] = {"num_heads": 4, "unidirectional": 1}
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
        Sample(
            ((2, 3, 8), (8, 24), (24,), None, (2, 2, 4, 5, 2)),
            _PAST,
            {1: "rand", 2: "rand"},
            opset=1,
            outputs=2,
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
        Sample(((2, 3, 12), (2, 3, 5, 4), (2, 3, 5, 4)), {"num_heads": 3}, opset=1),
        Sample(
            ((2, 3, 12), (2, 3, 12), (2, 3, 12), None, None, None, (2, 3, 4, 4), (2, 3, 4, 4)),
            {"num_heads": 3, "scale": 0.3},
            opset=1,
            outputs=3,
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
        Sample(
            ((2, 3, 64), None, None, None, None, (2,), ()),
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
register(
    "QAttention",
    qattention,
    "b s i, i (3 h d), (3 h d), scales and zero points -> b s (h d)",
    [
        Sample(
            ((2, 3, 8), (8, 24), (24,), (), (), None, (), ()),
            {"num_heads": 4},
            {
                1: [(7 + 37 * i) % 251 for i in range(192)],
                2: "rand",
                3: 0.05,
                4: 0.01,
                6: 1,
                7: 120,
            },
            opset=1,
            dtypes={0: "uint8", 1: "uint8", 6: "uint8", 7: "uint8"},
        ),
        Sample(
            ((2, 3, 8), (8, 24), (24,), (), (24,), (2,), (), (24,)),
            {"num_heads": 2},
            {
                **{
                    1: [(7 + 37 * i) % 251 for i in range(192)],
                    2: "rand",
                    3: 0.05,
                    5: [3, 2],
                    6: 1,
                },
                **{4: [0.01 * (1 + i % 5) for i in range(24)], 7: range(100, 124)},
            },
            opset=1,
            dtypes={0: "uint8", 1: "uint8", 5: "int32", 6: "uint8", 7: "uint8"},
        ),
    ],
    domain=MS,
    exact=_TEXT,
)
