"""Reductions: kept axes pass; a summed axis contracts.

A mean over coordinates of which some go is the mean of what stays, times the share that stays; the
largest (smallest) of values that are partly zero is that of what stays, or zero. So these are exact
too, put right behind the node, unless they are half of a normalisation: see ``Reduction``.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.axes import Ids
from onnxprune.rules.base import GiveUp, KeptOf, Sample, register
from onnxprune.rules.families.norm import HIDDEN
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.view import NodeView

# Zero is neutral for these, so absence equals zero.
SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum")
MENDED = ("ReduceMean", "ReduceMax", "ReduceMin")
OTHERS = ("ReduceProd", "ReduceLogSumExp")


def reduced_axes(n: NodeView) -> set[int]:
    """Return the axes a reduction removes, from the attribute or the input.

    Raises:
        GiveUp: they are computed at run time.
    """
    rank = n.rank(0)
    axes = n.attr("axes")
    if n.has(1):
        known = n.const(1)
        if known is None:
            raise GiveUp("axes that are not constant")
        axes = [int(a) for a in known.reshape(-1)]
    if not axes:
        return set() if n.attr("noop_with_empty_axes", 0) else set(range(rank))
    return {n.axis(int(a), rank) for a in axes}


def pass_kept(n: NodeView, gone: set[int], keepdims: bool) -> None:
    """Tie the axes that survive a reduction."""
    out = 0
    for axis in range(n.rank(0)):
        if axis in gone:
            out += keepdims
            continue
        n.passes(axis, out)
        out += 1


def reduce(n: NodeView) -> None:
    """State what a Reduce* operator does."""
    gone = reduced_axes(n)
    keepdims = bool(n.attr("keepdims", 1))
    pass_kept(n, gone, keepdims)
    if n.op in MENDED and n.is_float(0):
        n.reduces(
            [(axis, axis if keepdims else None) for axis in sorted(gone)],
            mend(n.op, [n.ids(0, axis) for axis in sorted(gone)]),
            mean=n.op == "ReduceMean",
        )
        return
    for axis in gone:
        ids = n.ids(0, axis)
        if ids is None:
            continue
        if n.op in SUMS:
            n.contract((0, axis, ids))
        else:
            n.freeze(ids, f"{n.op} mixes this axis")


def mend(op: str, blocks: Sequence[Ids | None]) -> Callable[[Rewriter, KeptOf], None]:
    """Return what puts a mean, largest or smallest value right behind its node."""

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        shares = [float(kept(ids).mean()) for ids in blocks if ids is not None]
        if all(share == 1.0 for share in shares):
            return
        if op == "ReduceMean":
            rw.after("Mul", np.array(math.prod(shares)), "share")
        else:
            rw.after(op.removeprefix("Reduce"), np.array(0.0), "zero")

    return patch


def arg(n: NodeView) -> None:
    """State what ArgMax / ArgMin do."""
    axis = n.axis(int(n.attr("axis", 0)), n.rank(0))
    pass_kept(n, {axis}, bool(n.attr("keepdims", 1)))
    n.freeze(n.ids(0, axis), f"{n.op} returns positions along this axis")


def top_k(n: NodeView) -> None:
    """State what TopK does."""
    axis = n.axis(int(n.attr("axis", -1)), n.rank(0))
    for a in range(n.rank(0)):
        for out in range(n.n_outputs):
            if a != axis:
                n.passes(a, a, out=out)
    n.freeze(n.ids(0, axis), "TopK picks along this axis")


_SAMPLES = [
    Sample(((2, 3, 4, 5),), {"axes": [2, 3], "keepdims": 1}, opset=11),
    Sample(((2, 3, 4, 5),), {"axes": [-1, -2], "keepdims": 0}, opset=11),
    Sample(((2, 3, 4),), {"axes": [1]}, opset=11),
    Sample(((2, 3, 4), (2,)), {"keepdims": 0}, consts={1: [0, 2]}, dtypes={1: "int64"}),
    Sample(((2, 3, 4),)),
]
for _op in SUMS:
    register(_op, reduce, "kept axes pass, reduced axes contract", _SAMPLES)
for _op in MENDED:
    register(
        _op,
        reduce,
        "kept axes pass, reduced axes contract unless the result comes back to them",
        _SAMPLES,
        exact="exact: put right behind the node; " + HIDDEN
        if _op == "ReduceMean"
        else "exact: put right behind the node",
    )
for _op in OTHERS:
    register(_op, reduce, "kept axes pass, reduced axes mix", _SAMPLES, exact="mixed axis held")
for _op in ("ArgMax", "ArgMin"):
    register(
        _op,
        arg,
        "kept axes pass, `axis` mixes",
        [Sample(((2, 3, 4),), {"axis": 1}), Sample(((2, 3, 4),), {"axis": 2, "keepdims": 0})],
        exact="mixed axis held",
    )
register(
    "TopK",
    top_k,
    "all axes but `axis` pass",
    [Sample(((3, 4, 6), (1,)), {"axis": -1}, consts={1: [2]}, dtypes={1: "int64"}, outputs=2)],
    exact="mixed axis held",
)
