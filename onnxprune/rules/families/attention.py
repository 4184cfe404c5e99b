"""Fused attention: heads pass as a whole."""

from __future__ import annotations

from onnxprune.rules.base import GiveUp, KeptOf, Sample, register
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

MS = "com.microsoft"


def _no_past(n: NodeView, *indices: int) -> None:
    if any(n.has(i) for i in indices):
        raise GiveUp(f"{n.op} with past state")


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
        "b s i, i (c h d), (c h d)? -> b s (h d)",
        lambda _: {"c": 3, "h": heads},
        weight=(1,),
        group_attr=("num_heads", "h"),
        keep=("c", "d", "s"),
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
    if n.has(3):
        raise GiveUp("MultiHeadAttention with a bias of its own")
    _no_past(n, 6, 7)
    TextRule(
        "b s (h d), b t (h d), b t (h e) -> b s (h e)",
        lambda _: {"h": heads},
        group_attr=("num_heads", "h"),
        keep=("d", "e", "s", "t"),
    )(n)


def grouped_query(n: NodeView) -> None:
    """State what GroupQueryAttention does: a key head lives and dies with its query heads."""
    heads, shared = int(n.attr("num_heads", 0)), int(n.attr("kv_num_heads", 0))
    if min(heads, shared) < 1 or heads % shared or not n.has(1) or not n.has(2):
        raise GiveUp("GroupQueryAttention with packed inputs")
    ratio = heads // shared
    text = "b s (k r d), b t (k d), b t (k d), b k p d?, b k p d? -> b s (k r d), b k u d, b k u d"
    TextRule(
        text,
        lambda _: {"k": shared, "r": ratio},
        group_attr=("kv_num_heads", "k"),
        keep=("d", "r", "s", "t", "p"),
    )(n)
    out = n.out_ids(2)

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        if out is not None:
            rw.set_attr("num_heads", heads * int(kept(out).sum()) // len(out))

    n.on_rewrite(patch)


def attention(n: NodeView) -> None:
    """State what ai.onnx Attention does, with heads as an axis or inside the last one."""
    _no_past(n, 4, 5)
    if n.n_outputs > 1:
        raise GiveUp("Attention with present state")
    if n.has(6):
        n.link(n.ids(0, 0), n.ids(6, 0))  # how much of each sequence counts
    if n.rank(0) == 4:
        dims, shared = n.dims(0) or [], n.dims(1) or []
        many, some = dims[1], shared[1]
        if not isinstance(many, int) or not isinstance(some, int) or many % some:
            raise GiveUp("an unknown number of heads")
        sizes = {"k": some, "r": many // some}
        TextRule(
            "b (k r) s d, b k t d, b k t e -> b (k r) s e",
            lambda _: sizes,
            keep=("r", "d", "e", "s", "t"),
        )(n)
        return
    heads, few = int(n.attr("q_num_heads", 0)), int(n.attr("kv_num_heads", 0))
    if min(heads, few) < 1 or heads % few:
        raise GiveUp("Attention without head counts")
    TextRule(
        "b s (k r d), b t (k d), b t (k e) -> b s (k r e)",
        lambda _: {"k": few, "r": heads // few},
        group_attr=("kv_num_heads", "k"),
        keep=("r", "d", "e", "s", "t"),
    )(n)
    whole = n.ids(0, 2)

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        if whole is not None:
            rw.set_attr("q_num_heads", heads * int(kept(whole).sum()) // len(whole))

    n.on_rewrite(patch)


def rotary(n: NodeView) -> None:
    """State what com.microsoft RotaryEmbedding does: heads pass, the inside of a head mixes."""
    heads = int(n.attr("num_heads", 0))
    if n.rank(0) == 4:
        TextRule("b h s d -> b h s d", keep=("d", "s"))(n)
    elif heads > 0:
        TextRule(
            "b s (h d) -> b s (h d)",
            lambda _: {"h": heads},
            group_attr=("num_heads", "h"),
            keep=("d", "s"),
        )(n)
    else:
        raise GiveUp("RotaryEmbedding without num_heads")


_TEXT = "heads pass whole"
register(
    "Attention",
    ms_attention,
    "b s i, i (3 h d), (3 h d) -> b s (h d)",
    [
        Sample(((2, 3, 8), (8, 24), (24,)), {"num_heads": 4}, {1: "rand", 2: "rand"}, opset=1),
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
    [Sample(((2, 3, 8), (2, 5, 8), (2, 5, 8)), {"num_heads": 4}, opset=1)],
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
    ],
    exact=_TEXT,
)
