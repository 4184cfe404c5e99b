"""Normalisations: per channel they pass, across channels they mix."""

from collections.abc import Iterable

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

_BATCH = "n c *s, c, c, c, c -> n c *s"
_INSTANCE = "n c *s, c, c -> n c *s"


def batch(n: NodeView) -> None:
    """State what BatchNormalization does outside training."""
    if n.attr("training_mode", 0) or n.attr("spatial", 1) != 1:
        raise GiveUp("BatchNormalization in training mode or with spatial=0")
    TextRule(_BATCH)(n)


register(
    "BatchNormalization",
    batch,
    _BATCH,
    [
        Sample(((2, 3, 4, 5), (3,), (3,), (3,), (3,)), consts={4: [0.5, 1.0, 2.0]}),
        Sample(((4, 3), (3,), (3,), (3,), (3,)), consts={4: [0.5, 1.0, 2.0]}, opset=9),
    ],
)
register(
    "InstanceNormalization",
    TextRule(_INSTANCE, mixed=("*s",)),
    _INSTANCE,
    [Sample(((2, 3, 4, 5), (3,), (3,))), Sample(((2, 3, 9), (3,), (3,)))],
)


def mix(n: NodeView, mixed: Iterable[int], why: str, outputs: int = 1) -> None:
    """Pass every axis of a shape-preserving operator but ``mixed``, which freeze."""
    rank = n.rank(0)
    n.like_input(outputs)
    mixed = set(mixed)
    for axis in range(rank):
        for out in range(min(outputs, n.n_outputs)):
            n.passes(axis, axis, out=out)
        if axis in mixed:
            n.freeze(n.ids(0, axis), why)


def _softmax(n: NodeView) -> None:
    rank = n.rank(0)
    axis = n.axis(int(n.attr("axis", 1 if n.opset < 13 else -1)), rank)
    last = axis + 1 if n.opset >= 13 else rank
    mix(n, range(axis, last), f"{n.op} mixes this axis")


def _along(n: NodeView) -> None:
    mix(n, [n.axis(int(n.attr("axis", -1)), n.rank(0))], f"{n.op} mixes this axis")


def _mean_variance(n: NodeView) -> None:
    rank = n.rank(0)
    mix(n, [n.axis(a, rank) for a in n.attr("axes", [0, 2, 3])], f"{n.op} mixes this axis")


def _lrn(n: NodeView) -> None:
    mix(n, [1], "LRN mixes neighbouring channels")


def _cumsum(n: NodeView) -> None:
    axis = n.const(1)
    if axis is None:
        raise GiveUp("an axis that is not a constant")
    mix(n, [n.axis(int(axis.reshape(-1)[0]), n.rank(0))], "CumSum mixes this axis")


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
        exact="mixed axis frozen",
    )
register(
    "LRN",
    _lrn,
    "n c *s -> n c *s, mixing c",
    [Sample(((2, 6, 4, 4),), {"size": 3})],
    exact="mixed axis frozen",
)
register(
    "LpNormalization",
    _along,
    "*d -> *d, mixing `axis`",
    [Sample(((2, 3, 4),), {"axis": 1})],
    exact="mixed axis frozen",
)
register(
    "MeanVarianceNormalization",
    _mean_variance,
    "*d -> *d, mixing `axes`",
    [
        Sample(((2, 3, 4, 5),), result=(2, 3, 4, 5)),
        Sample(((2, 3, 4, 5),), {"axes": [2, 3]}, result=(2, 3, 4, 5)),
    ],
    exact="mixed axis frozen",
)
register(
    "CumSum",
    _cumsum,
    "*d, axis -> *d, mixing `axis`",
    [Sample(((2, 3, 4), ()), consts={1: 1}, dtypes={1: "int64"})],
    exact="mixed axis frozen",
)


_GROUP = "n (g c) *s, (g c), (g c) -> n (g c) *s"
_GROUP_OLD = "n (g c) *s, g, g -> n (g c) *s"


def group(n: NodeView) -> None:
    """State what GroupNormalization does: whole groups pass, what is inside a group mixes."""
    groups = int(n.attr("num_groups", 1))
    text = _GROUP if n.opset >= 21 else _GROUP_OLD
    rule = TextRule(
        text, lambda _: {"g": groups}, group_attr=("num_groups", "g"), mixed=("c", "*s")
    )
    rule(n)


def layer(n: NodeView) -> None:
    """State what LayerNormalization and its kin do: the normalised axes mix."""
    rank = n.rank(0)
    first = n.axis(int(n.attr("axis", -1)), rank)
    mix(n, range(first, rank), f"{n.op} mixes this axis")
    for out in range(1, n.n_outputs):
        for axis in range(first):
            if n.out_dims(out) is not None:
                n.passes(axis, axis, out=out)


_LAYER = "*d, scale, bias? -> *d, mixing the axes from `axis` on"
register(
    "GroupNormalization",
    group,
    _GROUP,
    [
        Sample(((2, 6, 4, 5), (6,), (6,)), {"num_groups": 3}, opset=21),
        Sample(((2, 6, 4, 5), (3,), (3,)), {"num_groups": 3}, opset=18),
    ],
    exact="whole groups",
)
register(
    "LayerNormalization",
    layer,
    _LAYER,
    [
        Sample(((2, 3, 4), (4,), (4,))),
        Sample(((2, 3, 4, 5), (4, 5)), {"axis": 2}),
        Sample(((2, 3, 4), (4,)), outputs=3),
    ],
    exact="mixed axis frozen",
)
register(
    "RMSNormalization",
    layer,
    _LAYER,
    [Sample(((2, 3, 4), (4,)), opset=23)],
    exact="mixed axis frozen",
)
