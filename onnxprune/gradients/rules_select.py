"""Derivatives of what chooses among elements, by comparison or by index, and of Einsum.

Where several elements are the largest, each takes its share: any such slope is one of the
function's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.gradients.backward import NoGradient, View, rule
from onnxprune.gradients.rules_shape import axes_of

Parts = Sequence[str | None]


@rule("Where")
def _where(v: View) -> Parts:
    on = v.e.cast(v.x[0])
    left = v.e.fit(v.e.mul(v.g, on), v.shape(1)) if v.wants[1] else None
    right = None
    if v.wants[2]:
        off = v.e.binary("Sub", v.e.const(np.float32(1)), on)
        right = v.e.fit(v.e.mul(v.g, off), v.shape(2))
    return [None, left, right]


@rule("Max", "Min")
def _extreme(v: View) -> Parts:
    shares = [v.e.cast(v.e.binary("Equal", x, v.y)) for x in v.x]
    total = shares[0]
    for share in shares[1:]:
        total = v.e.binary("Add", total, share)
    each = v.e.binary("Div", v.g, total)
    return [
        v.e.fit(v.e.mul(each, share), v.shape(i)) if v.wants[i] else None
        for i, share in enumerate(shares)
    ]


@rule("ReduceMax", "ReduceMin", "GlobalMaxPool")
def _extreme_over(v: View) -> Parts:
    gone = axes_of(v)
    kept = tuple(1 if i in gone else n for i, n in enumerate(v.shape(0)))
    on = v.e.cast(v.e.binary("Equal", v.x[0], v.e.reshape(v.y, kept)))
    each = v.e.binary("Div", v.e.reshape(v.g, kept), v.e.sum(on, sorted(gone), keep=True))
    return [v.e.mul(on, each), *[None] * (len(v.x) - 1)]


@rule("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
def _size_over(v: View) -> Parts:
    gone = axes_of(v)
    kept = tuple(1 if i in gone else n for i, n in enumerate(v.shape(0)))
    g, y, x = v.e.reshape(v.g, kept), v.e.reshape(v.y, kept), v.x[0]
    kind = v.node.op_type
    if kind == "ReduceL1":
        found = v.e.mul(g, v.e.unary("Sign", x))
    elif kind == "ReduceSumSquare":
        found = v.e.mul(v.e.scaled(g, 2.0), x)
    elif kind == "ReduceL2":
        floor = v.e.const(np.float32(1e-12))
        found = v.e.mul(x, v.e.binary("Div", g, v.e.binary("Max", y, floor)))
    else:
        found = v.e.mul(g, v.e.unary("Exp", v.e.binary("Sub", x, y)))
    return [found, *[None] * (len(v.x) - 1)]


def scattered(v: View, indices: str, updates: str, axis: int) -> str:
    """Zeros of the first input's shape to which ``updates`` are added at ``indices``."""
    zeros = v.e.expand(v.e.const(np.zeros([1] * len(v.shape(0)), np.float32)), v.shape(0))
    return v.e.op(
        "ScatterElements", [zeros, indices, updates], v.shape(0), axis=axis, reduction="add"
    )


def gathered(v: View) -> str:
    """Derivative of Gather's table, whose entries may be taken more than once."""
    e, axis = v.e, v.attr("axis", 0) % len(v.shape(0))
    shape = list(v.shape(0))
    shape[axis] = int(np.prod(v.shape(1)))
    line = [1] * len(shape)
    line[axis] = shape[axis]
    places = v.x[1]
    if e.known.get(places) is not None:
        places = e.const(np.asarray(e.known[places]).astype(np.int64))
    wide = e.expand(e.reshape(places, line), tuple(shape))
    return scattered(v, wide, e.reshape(v.g, shape), axis)


@rule("GatherElements")
def _gather_elements(v: View) -> Parts:
    return [scattered(v, v.x[1], v.g, v.attr("axis", 0)), None]


@rule("TopK")
def _top_k(v: View) -> Parts:
    return [scattered(v, v.node.output[1], v.g, v.attr("axis", -1)), None]


@rule("GatherND")
def _gather_nd(v: View) -> Parts:
    if v.attr("batch_dims", 0):
        raise NoGradient("GatherND: batch_dims")
    zeros = v.e.expand(v.e.const(np.zeros([1] * len(v.shape(0)), np.float32)), v.shape(0))
    return [v.e.op("ScatterND", [zeros, v.x[1], v.g], v.shape(0), reduction="add"), None]


@rule("ScatterND", "ScatterElements")
def _scatter(v: View) -> Parts:
    how = v.attr("reduction", b"none")
    added = how in (b"add", "add")
    if not added and how not in (b"none", "none"):
        raise NoGradient(f"{v.node.op_type}: reduction {how!r}")
    nd = v.node.op_type == "ScatterND"
    attributes = {} if nd else {"axis": v.attr("axis", 0)}
    data = v.g if v.wants[0] else None
    if v.wants[0] and not added:  # what was written over has no influence
        blank = v.e.expand(v.e.const(np.zeros([1] * len(v.shape(2)), np.float32)), v.shape(2))
        data = v.e.op(v.node.op_type, [v.g, v.x[1], blank], v.shape(0), **attributes)
    updates = None
    if v.wants[2]:
        kind = "GatherND" if nd else "GatherElements"
        updates = v.e.op(kind, [v.g, v.x[1]], v.shape(2), **attributes)
    return [data, None, updates]


@rule("CumSum")
def _cum_sum(v: View) -> Parts:
    back = 0 if v.attr("reverse", 0) else 1
    how = {"exclusive": v.attr("exclusive", 0), "reverse": back}
    return [v.e.op("CumSum", [v.g, v.x[1]], v.shape(0), **how), None]


@rule("Trilu")
def _trilu(v: View) -> Parts:
    inputs = [v.g, *v.x[1:]]
    return [v.e.op("Trilu", inputs, v.shape(0), upper=v.attr("upper", 1)), None][: len(v.x)]


@rule("Einsum")
def _einsum(v: View) -> Parts:
    text = v.attr("equation")
    text = (text.decode() if isinstance(text, bytes) else text).replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if "." in text or any(len(set(t)) != len(t) for t in (*terms, out)):
        raise NoGradient("Einsum: only without dots and diagonals")
    given: list[str | None] = []
    for index, term in enumerate(terms):
        if not v.wants[index]:
            given.append(None)
            continue
        others = [i for i in range(len(terms)) if i != index]
        seen = set(out).union(*(terms[i] for i in others))
        inner = "".join(c for c in term if c in seen)  # letters summed alone: the same for all
        equation = ",".join([out, *(terms[i] for i in others)]) + "->" + inner
        sizes = dict(zip(term, v.shape(index), strict=True))
        part = v.e.op(
            "Einsum", [v.g, *(v.x[i] for i in others)], tuple(sizes[c] for c in inner),
            equation=equation,
        )  # fmt: skip
        kept = [sizes[c] if c in seen else 1 for c in term]
        given.append(v.e.expand(v.e.reshape(part, kept), v.shape(index)))
    return given
