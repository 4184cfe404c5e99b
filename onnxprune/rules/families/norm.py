"""Normalisations: per channel they pass, across channels they take statistics.

A zero is not absence to a mean or a variance, so an axis that a normalisation mixes is held. Asked
to prune it all the same (``--structure hidden``), the statistics become those of what stays.
"""

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

_BATCH = "n c *s, c, c, c, c -> n c *s"
_INSTANCE = "n c *s, c, c -> n c *s"
HIDDEN = "normalised axis held; approximate with --structure hidden"


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
    TextRule(_INSTANCE, normalised=("*s",)),
    _INSTANCE,
    [Sample(((2, 3, 4, 5), (3,), (3,))), Sample(((2, 3, 9), (3,), (3,)))],
    exact="channels exact; " + HIDDEN,
)


def normalise(
    n: NodeView,
    first: int,
    last: int,
    data: tuple[int, ...] = (0,),
    weights: tuple[int, ...] = (1, 2),
    outs: tuple[int, ...] = (0,),
) -> None:
    """State that axes ``first`` to ``last`` - 1 are normalised over and every other passes.

    Args:
        n: the node.
        first: first normalised axis.
        last: end of the normalised axes.
        data: inputs of the normalised shape; trailing axes align, and such of size one repeat.
        weights: inputs that scale and shift the normalised axes, likewise aligned.
        outs: outputs of the normalised shape.
    """
    rank = n.rank(0)
    met_in: list[tuple[int, int]] = []
    met_out = [(out, axis) for out in outs for axis in range(first, last)]
    for axis in range(rank):
        for out in outs:
            n.passes(axis, axis, out=out)
    for index in (*data, *weights):
        if not n.has(index):
            continue
        dims = n.dims(index) or []
        for axis, dim in enumerate(dims):
            at = axis + rank - len(dims)
            if index != data[0]:
                ids = n.ids(index, axis)
                if dim == 1:
                    n.freeze(ids, "is broadcast here")
                    continue
                n.link(ids, n.out_ids(at, outs[0]))
            if first <= at < last:
                met_in.append((index, axis))
    n.normalises(met_in, met_out)


def group(n: NodeView) -> None:
    """State what GroupNormalization does: whole groups pass, what is inside a group mixes."""
    groups = int(n.attr("num_groups", 1))
    text = _GROUP if n.opset >= 21 else _GROUP_OLD
    rule = TextRule(
        text,
        lambda _: {"g": groups},
        size_attrs={"num_groups": "g"},
        mixed=("*s",),
        normalised=("c",),
    )
    rule(n)


def layer(n: NodeView) -> None:
    """State what LayerNormalization and its kin do: the normalised axes mix."""
    rank = n.rank(0)
    first = n.axis(int(n.attr("axis", -1)), rank)
    n.like_input()
    normalise(n, first, rank)
    for out in range(1, n.n_outputs):
        for axis in range(first):
            if n.out_dims(out) is not None:
                n.passes(axis, axis, out=out)


def _mean_variance(n: NodeView) -> None:
    rank = n.rank(0)
    n.like_input()
    axes = [n.axis(a, rank) for a in n.attr("axes", [0, 2, 3])]
    for axis in range(rank):
        n.passes(axis, axis)
    n.normalises([(0, a) for a in axes], [(0, a) for a in axes])


def _lp(n: NodeView) -> None:
    """State what LpNormalization does: a zero adds nothing to the norm it divides by."""
    rank = n.rank(0)
    n.like_input()
    for axis in range(rank):
        n.passes(axis, axis)
    at = n.axis(int(n.attr("axis", -1)), rank)
    ids = n.ids(0, at)
    if ids is not None:
        n.contract((0, at, ids))


_GROUP = "n (g c) *s, (g c), (g c) -> n (g c) *s"
_GROUP_OLD = "n (g c) *s, g, g -> n (g c) *s"
_LAYER = "*d, scale, bias? -> *d, mixing the axes from `axis` on"
register(
    "GroupNormalization",
    group,
    _GROUP,
    [
        Sample(((2, 6, 4, 5), (6,), (6,)), {"num_groups": 3}, opset=21),
        Sample(((2, 6, 4, 5), (3,), (3,)), {"num_groups": 3}, opset=18),
        Sample(((2, 6, 4, 5), (6,), (6,)), {"num_groups": 1}, opset=21),
    ],
    exact="whole groups exact; " + HIDDEN,
)
register(
    "LayerNormalization",
    layer,
    _LAYER,
    [
        Sample(((2, 3, 4), (4,), (4,))),
        Sample(((2, 3, 4, 5), (4, 5)), {"axis": 2}),
        Sample(((2, 3, 4), (4,)), outputs=3),
        Sample(((2, 3, 4), (1,))),
    ],
    exact=HIDDEN,
)
register("RMSNormalization", layer, _LAYER, [Sample(((2, 3, 4), (4,)), opset=23)], exact=HIDDEN)
register(
    "MeanVarianceNormalization",
    _mean_variance,
    "*d -> *d, mixing `axes`",
    [
        Sample(((2, 3, 4, 5),), result=(2, 3, 4, 5)),
        Sample(((2, 3, 4, 5),), {"axes": [2, 3]}, result=(2, 3, 4, 5)),
    ],
    exact=HIDDEN,
)
register(
    "LpNormalization",
    _lp,
    "*d -> *d, summing powers over `axis`",
    [Sample(((2, 3, 6),), {"axis": 1}), Sample(((2, 3, 6),), {"axis": -1, "p": 1})],
)
