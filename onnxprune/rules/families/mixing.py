"""Operators whose result at one coordinate depends on others, and how far they can be told apart.

Sums leave a zero out by themselves. A mean, a largest or a smallest value is put right behind the
node; local response normalisation is spelled out with the neighbours it had. Softmax is not exact:
a zero counts as exp(0), so its axis is held.
"""

from collections.abc import Iterable

import numpy as np

from onnxprune.rules.base import GiveUp, KeptOf, Sample, register
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.view import NodeView

_HELD = "mixed axis held"


def mix(n: NodeView, mixed: Iterable[int], why: str) -> None:
    """Pass every axis of a shape-preserving operator but ``mixed``, which freeze."""
    rank = n.rank(0)
    n.like_input()
    mixed = set(mixed)
    for axis in range(rank):
        n.passes(axis, axis)
        if axis in mixed:
            n.freeze(n.ids(0, axis), why)


def _softmax(n: NodeView) -> None:
    rank = n.rank(0)
    axis = n.axis(int(n.attr("axis", 1 if n.opset < 13 else -1)), rank)
    last = axis + 1 if n.opset >= 13 else rank
    mix(n, range(axis, last), f"{n.op} mixes this axis")


def _cumsum(n: NodeView) -> None:
    """State what CumSum does: a zero adds nothing to the sums behind it."""
    at = n.const(1)
    if at is None:
        raise GiveUp("an axis that is not a constant")
    rank = n.rank(0)
    for axis in range(rank):
        n.passes(axis, axis)
    axis = n.axis(int(at.reshape(-1)[0]), rank)
    ids = n.ids(0, axis)
    if ids is not None:
        n.contract((0, axis, ids))
        n.in_order(ids)


def _lrn(n: NodeView) -> None:
    """State what LRN does: each channel is divided by a power of a sum over its neighbours.

    Channels that go leave gaps between neighbours, so a pruned LRN is written out: squares, a 1x1
    convolution whose weight is the band of neighbours, a power, a division.
    """
    rank = n.rank(0)
    n.like_input()
    for axis in range(rank):
        n.passes(axis, axis)
    ids = n.ids(0, 1)
    if ids is None:
        return
    if rank < 3:
        n.freeze(ids, "LRN mixes neighbouring channels of a matrix")
        return
    n.contract((0, 1, ids))
    n.in_order(ids)
    size, alpha = int(n.attr("size", 1)), float(n.attr("alpha", 1e-4))
    beta, bias = float(n.attr("beta", 0.75)), float(n.attr("bias", 1.0))

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        at = np.flatnonzero(kept(ids))
        if len(at) == len(ids):
            return
        ahead = at[None, :] - at[:, None]  # how far a channel's neighbours are behind it
        near = (ahead >= -((size - 1) // 2)) & (ahead <= size // 2)
        band = near.reshape(len(at), len(at), *[1] * (rank - 2)) * (alpha / size)
        x = rw.node.inputs[0]
        square = rw.before("Mul", [x, x], "square")
        weights = [rw.constant("band", band), rw.constant("bias", np.full(len(at), bias))]
        scale = rw.before("Conv", [square, *weights], "neighbours")
        scale = rw.before("Pow", [scale, rw.constant("beta", np.array(beta))], "scale")
        rw.become("Div", [x, scale])

    n.on_rewrite(patch)


for _op in ("Softmax", "LogSoftmax", "Hardmax"):
    register(
        _op,
        _softmax,
        "*d -> *d, mixing `axis`",
        [
            Sample(((2, 3, 4),), {"axis": 1}),
            Sample(((2, 3, 4),), {"axis": 1}, opset=11),
            Sample(((2, 3, 4, 5),)),
        ],
        exact=_HELD,
    )
register(
    "LRN",
    _lrn,
    "n c *s -> n c *s, summing over neighbours of c",
    [
        Sample(((2, 8, 4, 4),), {"size": 3, "alpha": 0.5}),
        Sample(((2, 9, 5, 3),), {"size": 5, "alpha": 0.5, "beta": 0.5, "bias": 2.0}),
    ],
    exact="exact: written out with the neighbours that stay",
)
register(
    "CumSum",
    _cumsum,
    "*d, axis -> *d, summing along `axis`",
    [
        Sample(((2, 6, 4), ()), consts={1: 1}, dtypes={1: "int64"}),
        Sample(((6, 3), ()), {"exclusive": 1, "reverse": 1}, {1: -2}, dtypes={1: "int64"}),
    ],
)
