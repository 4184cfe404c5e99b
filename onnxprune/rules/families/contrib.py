"""Operators that onnxruntime's own optimizer writes (domain com.microsoft): all but attention."""

from __future__ import annotations

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.families.matmul import gemm
from onnxprune.rules.families.norm import HIDDEN, normalise
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

MS = "com.microsoft"
_CONV = "n (g i) *s, (g o) i *k, (g o)?, n (g o) *t? -> n (g o) *t"
_BIASED = "*d h, h -> *d h"


def _group(n: NodeView) -> dict[str, int]:
    return {"g": int(n.attr("group", 1))}


def fused_matmul(n: NodeView) -> None:
    """State what FusedMatMul does: MatMul after optional transposes of the last two axes."""
    if n.attr("transBatchA", 0) or n.attr("transBatchB", 0):
        raise GiveUp("FusedMatMul with transposed batch axes")
    if n.rank(0) < 2 or n.rank(1) < 2:
        raise GiveUp("FusedMatMul of a vector")
    a = "*b k m" if n.attr("transA", 0) else "*b m k"
    b = "*b n k" if n.attr("transB", 0) else "*b k n"
    TextRule(f"{a}, {b} -> *b m n", weight=(1, 0), heads=True)(n)


def embed_norm(n: NodeView) -> None:
    """State what EmbedLayerNormalization does: tables are looked up, added and normalised."""
    ids, words = n.dims(0), n.dims(2)
    if ids is None or words is None or len(ids) != 2:
        raise GiveUp("a rank that cannot be inferred")
    rank, hidden = 3, words[1]
    outs = [0]
    if n.out_dims(0) is None:
        n.learn(0, [*ids, hidden], like=2)
    summed = 2
    if n.n_outputs > summed and n.node.outputs[summed].name:
        if n.out_dims(summed) is None:
            n.learn(summed, [*ids, hidden], like=2)
        outs.append(summed)
    for index in (0, 1, 7):
        if n.has(index):
            n.passes(0, 0, index)
            n.freeze(n.ids(index, 1), "is a position")
    for out in outs:
        n.link(n.out_ids(0, out), n.out_ids(0))
        n.freeze(n.out_ids(1, out), "is a position")
    met = []
    for index in (2, 3, 4, 5, 6):
        if not n.has(index):
            continue
        last = n.rank(index) - 1
        if last:
            n.freeze(n.ids(index, 0), "is indexed by data")
            n.produces(index, last)
        n.link(n.ids(index, last), n.out_ids(rank - 1))
        met.append((index, last))
    for out in outs[1:]:
        n.link(n.out_ids(rank - 1, out), n.out_ids(rank - 1))
    if n.n_outputs > 1 and n.node.outputs[1].name and n.out_dims(1) is None:
        n.learn(1, ids[:1], like=0)
    if n.n_outputs > 1 and n.out_dims(1) is not None:
        n.link(n.out_ids(0, 1), n.out_ids(0))
    n.normalises(met, [(out, rank - 1) for out in outs])


def bias_gelu(n: NodeView) -> None:
    """State what BiasGelu and FastGelu do; the bias is optional."""
    TextRule(_BIASED if n.has(1) else "*d -> *d")(n)


def skip_norm(n: NodeView) -> None:
    """State what SkipLayerNormalization does: the streams join, their last axis mixes."""
    rank = n.rank(0)
    n.like_input()
    outs = [0]
    joined = 3
    if n.n_outputs > joined and n.node.outputs[joined].name:
        if n.out_dims(joined) is None:
            n.learn(joined, n.dims(0) or [])
        outs.append(joined)
    normalise(n, rank - 1, rank, data=(0, 1), weights=(2, 3, 4), outs=tuple(outs))


def simplified(n: NodeView) -> None:
    """State what SimplifiedLayerNormalization does."""
    rank = n.rank(0)
    n.like_input()
    normalise(n, n.axis(int(n.attr("axis", -1)), rank), rank)


register(
    "FusedConv",
    TextRule(_CONV, _group, weight=(1,), size_attrs={"group": "g"}, mixed=("*t",)),
    _CONV,
    [
        Sample(
            ((2, 6, 5, 5), (8, 6, 3, 3), (8,)), {"activation": "Relu"}, opset=1, result=(2, 8, 3, 3)
        ),
        Sample(((2, 6, 5, 5), (8, 6, 1, 1), (8,), (2, 8, 5, 5)), {"activation": "Relu"}, opset=1),
        Sample(
            ((1, 8, 5, 5), (12, 2, 3, 3)),
            {"group": 4, "activation": "Relu"},
            opset=1,
            result=(1, 12, 3, 3),
        ),
    ],
    domain=MS,
)
_GEMM_SAMPLES = [
    Sample(((3, 5), (5, 4), (4,)), {"activation": "Tanh"}, opset=1, result=(3, 4)),
    Sample(((3, 5), (4, 5)), {"transB": 1, "activation": "Relu"}, opset=1, result=(3, 4)),
]
register("FusedGemm", gemm, "as Gemm, then an activation", _GEMM_SAMPLES, domain=MS)
_TABLES = {2: "rand", 3: "rand", 4: "rand"}
_ZEROS = {0: [[1, 0, 2], [3, 1, 1]], 1: [[0, 1, 0], [1, 1, 0]], 7: [[1, 1, 1], [1, 1, 0]]}
register(
    "EmbedLayerNormalization",
    embed_norm,
    "b s, b s?, v d, p d, k d?, d, d, b s? -> b s d, b, b s d, mixing d",
    [
        Sample(
            ((2, 3), (2, 3), (5, 4), (6, 4), (2, 4), (4,), (4,), (2, 3)),
            {},
            {**_TABLES, **_ZEROS},
            opset=1,
            outputs=2,
            dtypes={0: "int32", 1: "int32", 7: "int32"},
        ),
        Sample(
            ((2, 3), None, (5, 4), (6, 4), None, (4,), (4,)),
            {},
            {0: _ZEROS[0], 2: "rand", 3: "rand"},
            opset=1,
            outputs=2,
            dtypes={0: "int32"},
        ),
    ],
    domain=MS,
    exact=HIDDEN,
)
register(
    "FusedMatMul",
    fused_matmul,
    "*b m k, *b k n -> *b m n, after transA / transB",
    [
        Sample(((2, 3, 5), (2, 4, 5)), {"transB": 1, "alpha": 0.5}, opset=1),
        Sample(((2, 5, 3), (5, 4)), {"transA": 1}, opset=1),
    ],
    domain=MS,
)
for _op in ("BiasGelu", "FastGelu"):
    register(_op, bias_gelu, _BIASED, [Sample(((2, 3, 4), (4,)), opset=1)], domain=MS)
for _op in ("Gelu", "QuickGelu"):
    register(_op, TextRule("*d -> *d"), "*d -> *d", [Sample(((2, 3, 4),), opset=1)], domain=MS)
register(
    "SkipLayerNormalization",
    skip_norm,
    "*d, *d, d, d?, d? -> *d, mixing the last axis",
    [
        Sample(((2, 3, 4), (2, 3, 4), (4,), (4,)), opset=1),
        Sample(((2, 3, 4), (2, 3, 4), (4,), (4,), (4,)), opset=1),
    ],
    domain=MS,
    exact=HIDDEN,
)
register(
    "SkipSimplifiedLayerNormalization",
    skip_norm,
    "*d, *d, d, d? -> *d, mixing the last axis",
    [Sample(((2, 3, 4), (2, 3, 4), (4,)), opset=1)],
    domain=MS,
    exact=HIDDEN,
)
register(
    "SimplifiedLayerNormalization",
    simplified,
    "*d, d -> *d, mixing from `axis` on",
    [Sample(((2, 3, 4), (4,)), {"axis": -1})],
    exact=HIDDEN,
)
