"""Operators that pick or place elements by indices, and others that know positions of an axis.

Along an axis that is indexed coordinates cannot go; along every other axis they pass.
"""

from __future__ import annotations

import math

from onnxprune.axes import Ids
from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.families.mixing import mix
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView


def _front(n: NodeView, wide: Ids | None, narrow: Ids | None) -> None:
    """Tie an axis to the first coordinates of another that is as long or longer."""
    if wide is None or narrow is None or len(narrow) > len(wide):
        n.link(wide, narrow)
        return
    n.space.link(wide[: len(narrow)], narrow)


def gather_elements(n: NodeView) -> None:
    """State what GatherElements does: y[i, j] = x[index[i, j], j] for axis 0."""
    rank = n.rank(0)
    at = n.axis(int(n.attr("axis", 0)), rank)
    for axis in range(rank):
        n.passes(axis, axis, 1)
        if axis == at:
            n.freeze(n.ids(0, axis), "is indexed by data")
        else:
            _front(n, n.ids(0, axis), n.ids(1, axis))


def scatter_elements(n: NodeView) -> None:
    """State what ScatterElements does: y = x, then y[index[i, j], j] = update[i, j]."""
    rank = n.rank(0)
    at = n.axis(int(n.attr("axis", 0)), rank)
    for axis in range(rank):
        n.passes(axis, axis)
        n.link(n.ids(1, axis), n.ids(2, axis))
        if axis == at:
            n.freeze(n.ids(0, axis), "is written to where data says")
            n.freeze(n.ids(1, axis), "is a list of indices")
        else:
            _front(n, n.ids(0, axis), n.ids(1, axis))


def _index_size(n: NodeView) -> int:
    dims = n.dims(1)
    if not dims or not isinstance(dims[-1], int):
        raise GiveUp("indices of unknown length")
    return dims[-1]


def gather_nd(n: NodeView) -> None:
    """State what GatherND does: what is behind the indexed axes passes."""
    rank, many, batch = n.rank(0), n.rank(1), int(n.attr("batch_dims", 0))
    indexed = batch + _index_size(n)
    for axis in range(rank):
        if axis < batch:
            n.passes(axis, axis)
        elif axis < indexed:
            n.freeze(n.ids(0, axis), "is indexed by data")
        else:
            n.passes(axis, axis - indexed + many - 1)
            if n.is_weight(0):
                n.produces(0, axis)
    for axis in range(many - 1):
        n.passes(axis, axis, 1)
    n.freeze(n.ids(1, many - 1), "is an index")


def scatter_nd(n: NodeView) -> None:
    """State what ScatterND does: what is behind the indexed axes passes, from both sides."""
    rank, many, indexed = n.rank(0), n.rank(1), _index_size(n)
    for axis in range(rank):
        n.passes(axis, axis)
        if axis < indexed:
            n.freeze(n.ids(0, axis), "is written to where data says")
        else:
            n.passes(axis - indexed + many - 1, axis, 2)
    for axis in range(many - 1):
        n.link(n.ids(1, axis), n.ids(2, axis))
        n.freeze(n.ids(1, axis), "is a list of indices")
    n.freeze(n.ids(1, many - 1), "is an index")


def tensor_scatter(n: NodeView) -> None:
    """State what TensorScatter does: a cache gets new rows along one axis."""
    rank = n.rank(0)
    at = n.axis(int(n.attr("axis", -2)), rank)
    for axis in range(rank):
        n.passes(axis, axis)
        if axis == at:
            for index in (0, 1):
                n.freeze(n.ids(index, axis), "is written to where data says")
        else:
            n.link(n.ids(0, axis), n.ids(1, axis))
    if n.has(2):
        n.link(n.ids(0, 0), n.ids(2, 0))


def compress(n: NodeView) -> None:
    """State what Compress does along one axis."""
    if "axis" not in n.node.attributes:
        raise GiveUp("Compress of all elements")
    at = n.axis(int(n.attr("axis")), n.rank(0))
    for axis in range(n.rank(0)):
        if axis != at:
            n.passes(axis, axis)
    n.freeze(n.ids(0, at), "is picked from by a condition")


def one_hot(n: NodeView) -> None:
    """State what OneHot does: the axes of the indices pass, a new one appears."""
    rank = n.out_rank()
    at = n.axis(int(n.attr("axis", -1)), rank)
    for axis in range(n.rank(0)):
        n.passes(axis, axis + (axis >= at))
    n.freeze(n.out_ids(at), "is made here")


def reverse_sequence(n: NodeView) -> None:
    """State what ReverseSequence does: all axes pass, time stays whole."""
    rank = n.rank(0)
    mix(n, [n.axis(int(n.attr("time_axis", 0)), rank)], "is reversed by lengths that are data")
    n.link(n.ids(0, n.axis(int(n.attr("batch_axis", 1)), rank)), n.ids(1, 0))


def trilu(n: NodeView) -> None:
    """State what Trilu does: rows and columns are told apart by their numbers."""
    rank = n.rank(0)
    mix(n, [rank - 2, rank - 1], "Trilu counts along this axis")


def center_crop_pad(n: NodeView) -> None:
    """State what CenterCropPad does: axes that it leaves alone pass."""
    rank = n.rank(0)
    axes = {n.axis(int(a), rank) for a in n.attr("axes") or range(rank)}
    for axis in range(rank):
        if axis in axes:
            n.freeze(n.ids(0, axis), "is cropped or padded here")
        else:
            n.passes(axis, axis)


def col2im(n: NodeView) -> None:
    """State what Col2Im does: n (c k) l -> n c *t, whole blocks k to a channel."""
    block = n.const(2)
    whole, channels = n.ids(0, 1), n.out_ids(1)
    if block is None or whole is None or channels is None:
        raise GiveUp("a block of unknown size")
    size = math.prod(int(b) for b in block.reshape(-1))
    if size * len(channels) != len(whole):
        raise GiveUp("a block that does not fit the columns")
    n.passes(0, 0)
    inner = n.space.new(size)
    n.freeze(inner, "is a position in a block")
    n.product(whole, [channels, inner])
    n.freeze(n.ids(0, 2), "is a position in the image")


def dft(n: NodeView) -> None:
    """State what DFT does: it mixes one axis; the last one holds real and imaginary parts."""
    rank = n.rank(0)
    at = n.attr("axis", 1)
    if n.opset >= 20:
        given = n.const(2) if n.has(2) else -2
        if given is None:
            raise GiveUp("an axis that is not constant")
        at = int(given if isinstance(given, int) else given.reshape(-1)[0])
    mixed = {n.axis(int(at), rank), rank - 1}
    for axis in range(rank):
        if axis in mixed:
            n.freeze(n.ids(0, axis), "DFT mixes this axis")
        else:
            n.passes(axis, axis)


_I1, _I = {1: "int64"}, "indexed axis frozen"
register(
    "GatherElements",
    gather_elements,
    "all axes but `axis` pass",
    [
        Sample(((4, 5, 3), (4, 2, 3)), {"axis": 1}, dtypes=_I1),
        Sample(((3, 6), (2, 4)), {"axis": 0}, dtypes=_I1),
    ],
    exact=_I,
)
for _op, _opset in (("ScatterElements", 18), ("Scatter", 10)):
    register(
        _op,
        scatter_elements,
        "all axes but `axis` pass",
        [
            Sample(
                ((3, 5), (2, 4), (2, 4)),
                {"axis": 0},
                {1: [[0, 1, 2, 0], [2, 0, 1, 2]]},
                dtypes=_I1,
                opset=_opset,
            ),
        ],
        exact=_I,
    )
register(
    "GatherND",
    gather_nd,
    "axes behind the indexed ones pass",
    [
        Sample(((3, 4, 5), (2, 1)), dtypes=_I1),
        Sample(((2, 3, 4, 5), (2, 6, 1)), {"batch_dims": 1}, dtypes=_I1),
    ],
    exact=_I,
)
register(
    "ScatterND",
    scatter_nd,
    "axes behind the indexed ones pass",
    [
        Sample(((4, 3, 5), (2, 1), (2, 3, 5)), consts={1: [[0], [2]]}, dtypes=_I1),
        Sample(((4, 3, 5), (2, 2), (2, 5)), consts={1: [[0, 1], [2, 2]]}, dtypes=_I1),
    ],
    exact=_I,
)
register(
    "TensorScatter",
    tensor_scatter,
    "all axes but `axis` pass",
    [Sample(((2, 3, 6, 4), (2, 3, 2, 4), (2,)), dtypes={2: "int64"}, opset=24)],
    exact=_I,
)
register(
    "Compress",
    compress,
    "all axes but `axis` pass",
    [
        Sample(
            ((4, 3, 5), (3,)),
            {"axis": 1},
            {1: [True, False, True]},
            dtypes={1: "bool"},
            result=(4, 2, 5),
        )
    ],
    exact=_I,
)
register(
    "OneHot",
    one_hot,
    "axes pass, `axis` is new",
    [
        Sample(
            ((4, 3), (), (2,)), {"axis": 1}, {1: 5, 2: [0.0, 1.0]}, dtypes={0: "int64", 1: "int64"}
        )
    ],
)
register(
    "ReverseSequence",
    reverse_sequence,
    "all axes pass, time stays",
    [
        Sample(((4, 3, 5), (3,)), consts={1: [4, 2, 3]}, dtypes=_I1),
        Sample(((3, 4, 5), (3,)), {"time_axis": 1, "batch_axis": 0}, {1: [4, 2, 3]}, dtypes=_I1),
    ],
    exact="mixed axis frozen",
)
register(
    "Trilu",
    trilu,
    "*b r c -> *b r c, r and c stay",
    [Sample(((3, 4, 4),)), Sample(((2, 3, 4, 5), ()), {"upper": 0}, {1: 1}, dtypes=_I1)],
    exact="mixed axis frozen",
)
register(
    "CenterCropPad",
    center_crop_pad,
    "axes that are not cropped pass",
    [Sample(((2, 5, 8, 6), (2,)), {"axes": [2, 3]}, {1: [6, 7]}, dtypes=_I1)],
    exact="mixed axis frozen",
)
register(
    "Col2Im",
    col2im,
    "n (c k) l -> n c *t",
    [
        Sample(
            ((2, 12, 9), (2,), (2,)),
            consts={1: [4, 4], 2: [2, 2]},
            dtypes={1: "int64", 2: "int64"},
        )
    ],
)
register(
    "DFT",
    dft,
    "all axes but `axis` and the last pass",
    [
        Sample(((2, 8, 3, 1),), {"axis": 1}, opset=17),
        Sample(((2, 3, 8, 2), None, ()), consts={2: 2}, dtypes={2: "int64"}, opset=20),
    ],
    exact="mixed axis frozen",
)

_ROI = "n c *s, r *a -> r c *t"
register(
    "MaxRoiPool",
    TextRule(_ROI),
    _ROI,
    [
        Sample(
            ((1, 4, 6, 6), (2, 5)),
            {"pooled_shape": [2, 2]},
            {1: [[0.0, 0.0, 0.0, 3.0, 3.0], [0.0, 1.0, 1.0, 4.0, 4.0]]},
        )
    ],
)
