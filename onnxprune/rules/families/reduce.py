"""Reductions: kept axes pass; a summed axis contracts, any other reduced axis mixes."""

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.view import NodeView

# Zero is neutral for these, so absence equals zero.
SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
OTHERS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")


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
    pass_kept(n, gone, bool(n.attr("keepdims", 1)))
    for axis in gone:
        ids = n.ids(0, axis)
        if ids is None:
            continue
        if n.op in SUMS:
            n.contract((0, axis, ids))
        else:
            n.freeze(ids, f"{n.op} mixes this axis")


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
for _op in OTHERS:
    register(_op, reduce, "kept axes pass, reduced axes mix", _SAMPLES, exact="mixed axis frozen")
for _op in ("ArgMax", "ArgMin"):
    register(
        _op,
        arg,
        "kept axes pass, `axis` mixes",
        [Sample(((2, 3, 4),), {"axis": 1}), Sample(((2, 3, 4),), {"axis": 2, "keepdims": 0})],
        exact="mixed axis frozen",
    )
register(
    "TopK",
    top_k,
    "all axes but `axis` pass",
    [Sample(((3, 4, 6), (1,)), {"axis": -1}, consts={1: [2]}, dtypes={1: "int64"}, outputs=2)],
    exact="mixed axis frozen",
)
