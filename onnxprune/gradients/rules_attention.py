"""Derivatives of attention in one node.

With ``S = scale Q K^T + M`` and ``P = softmax(S)``, the output ``P V`` of derivative ``G`` has
``dV = P^T G``, ``dP = G V^T``, ``dS = P (dP - sum(P dP))``, ``dQ = scale dS K`` and
``dK = scale dS^T Q``. ``P`` is computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import helper

from onnxprune.gradients.backward import NoGradient, View, rule

Parts = Sequence[str | None]


def _turned(v: View, x: str) -> str:
    rank = len(v.e.shapes[x])
    return v.e.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def _apart(v: View, x: str, heads: int) -> str:
    """[B, S, H D] as [B, H, S, D]; what has four axes already stays."""
    shape = v.e.shapes[x]
    if len(shape) == 4:
        return x
    split = v.e.reshape(x, [*shape[:2], heads, shape[2] // heads])
    return v.e.transpose(split, [0, 2, 1, 3])


def _joined(v: View, x: str, rank: int) -> str:
    """Undo :func:`_apart`."""
    b, h, s, d = v.e.shapes[x]
    if rank == 4:
        return x
    return v.e.reshape(v.e.transpose(x, [0, 2, 1, 3]), [b, s, h * d])


def _core(
    v: View, q: str, k: str, value: str, p: str, g: str, scale: float
) -> tuple[str, str, str, str]:
    """Derivatives of queries, keys and values, and of the scores.

    Args:
        v: the node.
        q: [B, H, S, D].
        k: [B, K, T, D], where K divides H: heads of queries that follow each other share a key.
        value: [B, K, T, E].
        p: [B, H, S, T].
        g: [B, H, S, E].
        scale: of the scores.
    """
    e = v.e
    (b, h, _, _), few = e.shapes[q], e.shapes[k][1]

    def shared(x: str) -> str:
        return e.reshape(x, [b, few, 1, *e.shapes[x][2:]])

    def grouped(x: str) -> str:
        return e.reshape(x, [b, few, h // few, *e.shapes[x][2:]])

    p5, g5, k5, v5 = grouped(p), grouped(g), shared(k), shared(value)
    dp = e.matmul(g5, _turned(v, v5))
    ds = e.mul(p5, e.binary("Sub", dp, e.sum(e.mul(p5, dp), [-1], keep=True)))
    dv = e.fit(e.matmul(_turned(v, p5), g5), e.shapes[v5])
    dq = e.scaled(e.matmul(ds, k5), scale)
    dk = e.fit(e.scaled(e.matmul(_turned(v, ds), grouped(q)), scale), e.shapes[k5])
    parts = zip((dq, dk, dv, ds), (q, k, value, p), strict=True)
    first, second, third, fourth = (e.reshape(x, e.shapes[like]) for x, like in parts)
    return first, second, third, fourth


def _plain(v: View, names: dict[int, str]) -> None:
    """Raise where an input is given that a rule does not follow."""
    for index, what in names.items():
        if index < len(v.x) and v.x[index]:
            raise NoGradient(f"{v.node.op_type}: with {what}")


@rule("Attention")
def _attention(v: View) -> Parts:
    _plain(v, {4: "a past"})
    if v.attr("softcap", 0.0):
        raise NoGradient("Attention: softcap")
    e, rank = v.e, len(v.shape(0))
    heads = [v.shape(i)[1] for i in range(3)]
    if rank == 3:
        heads = [v.attr("q_num_heads"), *[v.attr("kv_num_heads")] * 2]
    q, k, value = (_apart(v, x, n) for x, n in zip(v.x[:3], heads, strict=True))
    p = f"{v.y}/weights"
    again = helper.make_node("Attention", v.x, [f"{v.y}/again", "", "", p], qk_matmul_output_mode=3)
    again.attribute.extend(a for a in v.node.attribute if a.name != "qk_matmul_output_mode")
    e.nodes.append(again)
    e.shapes[p] = (*e.shapes[q][:3], e.shapes[k][2])
    scale = v.attr("scale") or 1 / math.sqrt(e.shapes[q][3])
    *parts, ds = _core(v, q, k, value, p, _apart(v, v.g, heads[0]), scale)
    found = [_joined(v, part, rank) for part in parts]
    rest: list[str | None] = [None] * (len(v.x) - 3)
    if len(v.x) > 3 and v.wants[3]:
        rest[0] = e.fit(ds, v.shape(3))
    return [*found, *rest]


@rule("MultiHeadAttention", domain="com.microsoft")
def _multi_head(v: View) -> Parts:
    _plain(v, {6: "a past"})
    if len(v.x) < 3 or not (v.x[1] and v.x[2]) or {len(v.shape(i)) for i in range(3)} != {3}:
        raise NoGradient("MultiHeadAttention: query, key and value in other than three matrices")
    e, rows = v.e, list(v.x[:3])
    biased = len(v.x) > 3 and bool(v.x[3])
    if biased:
        widths = np.cumsum([0, *(v.shape(i)[2] for i in range(3))])
        rows = [
            e.binary("Add", x, e.slices(v.x[3], [0], [int(a)], [int(b)], [1]))
            for x, a, b in zip(rows, widths, widths[1:], strict=False)
        ]
    parts, ds = _microsoft(v, rows, v.x[4] if len(v.x) > 4 else "", 5)
    given: list[str | None] = [*parts, *[None] * (len(v.x) - 3)]
    if biased and v.wants[3]:
        given[3] = e.concat([e.sum(part, [0, 1]) for part in parts], 0)
    if len(v.x) > 5 and v.wants[5]:
        given[5] = e.fit(ds, v.shape(5))
    return given


@rule("Attention", domain="com.microsoft")
def _fused(v: View) -> Parts:
    _plain(v, {4: "a past"})
    if v.attr("do_rotary", 0) or len(set(v.attr("qkv_hidden_sizes", [0]))) > 1:
        raise NoGradient("Attention: rotary, or of unequal sizes")
    e, (b, s, inner), wide = v.e, v.shape(0), v.shape(1)[1]
    rows = e.matmul(v.x[0], v.x[1])
    if len(v.x) > 2 and v.x[2]:
        rows = e.binary("Add", rows, v.x[2])
    third = wide // 3
    each = [e.slices(rows, [2], [i * third], [(i + 1) * third], [1]) for i in range(3)]
    parts, ds = _microsoft(v, each, v.x[3] if len(v.x) > 3 else "", 5)
    dy = e.reshape(e.concat(parts, 2), [b * s, wide])
    given: list[str | None] = [None] * len(v.x)
    if v.wants[0]:
        given[0] = e.reshape(e.matmul(dy, _turned(v, v.x[1])), v.shape(0))
    if v.wants[1]:
        given[1] = e.matmul(_turned(v, e.reshape(v.x[0], [b * s, inner])), dy)
    if len(v.x) > 2 and v.wants[2]:
        given[2] = e.sum(dy, [0])
    if len(v.x) > 5 and v.wants[5]:
        given[5] = e.fit(ds, v.shape(5))
    return given


def _microsoft(v: View, rows: Sequence[str], mask: str, bias: int) -> tuple[list[str], str]:
    """Derivatives of query, key and value [B, S, H D], and of the scores.

    Args:
        v: the node.
        rows: query, key and value.
        mask: an integer mask of keys [B, T] or of pairs [B, S, T], numbers of keys [B], or "".
        bias: index of the input that is added to the scores.
    """
    e, heads = v.e, v.attr("num_heads")
    q, k, value = (_apart(v, x, heads) for x in rows)
    scale = v.attr("scale") or 1 / math.sqrt(e.shapes[q][3])
    scores = e.scaled(e.matmul(q, _turned(v, k)), scale)
    (b, _, s, t), never = e.shapes[scores], v.attr("mask_filter_value", -10000.0)
    if mask:  # 1 where a pair counts
        shape = e.shapes[mask]
        if shape not in ((b,), (b, t), (b, s, t)):
            raise NoGradient(f"{v.node.op_type}: a mask of starts and ends")
        on = e.cast(mask)
        if len(shape) == 1:
            places = e.const(np.arange(t, dtype=np.float32))
            on = e.cast(e.binary("Less", places, e.reshape(on, [b, 1])))
        off = e.binary("Sub", e.const(np.float32(1)), on)
        wide = [b, 1, s if len(shape) == 3 else 1, t]
        scores = e.binary("Add", scores, e.reshape(e.scaled(off, never), wide))
    if v.attr("unidirectional", 0):
        later = np.triu(np.full((s, t), never, np.float32), 1 + t - s)
        scores = e.binary("Add", scores, e.const(later))
    if bias < len(v.x) and v.x[bias]:
        scores = e.binary("Add", scores, v.x[bias])
    p = e.unary("Softmax", scores, axis=-1)
    *parts, ds = _core(v, q, k, value, p, _apart(v, v.g, heads), scale)
    return [_joined(v, part, 3) for part in parts], ds
