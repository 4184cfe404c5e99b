"""Quantise and dequantise: element by element, with scales that follow their axis."""

from __future__ import annotations

from onnxprune.rules.base import Sample, register
from onnxprune.rules.families.contrib import MS
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

_TEXT = "*d, scale of `axis`, zero point of `axis`? -> *d"
_BLOCKS = "*a (q s) *b, *a q *b, *a q *b? -> *a (q s) *b"
_DYNAMIC = "*d -> *d, one scale, one zero point; absence equals zero"


def linear(n: NodeView) -> None:
    """State what QuantizeLinear and DequantizeLinear do: per tensor, per axis, in blocks."""
    rank = n.rank(0)
    axis = n.axis(int(n.attr("axis", 1)), rank) if rank > 1 or n.attr("axis") is not None else 0
    block = int(n.attr("block_size", 0))
    if n.op == "DequantizeLinear":
        n.quantised(0, 1, 2, axis=axis, block=block)
        n.typed_like(1)
    elif n.has(2):
        n.typed_like(2)
    n.like_input()
    for at in range(rank):
        n.passes(at, at)
    for index in (1, 2):
        if not n.has(index) or n.rank(index) == 0:
            continue
        if n.rank(index) == rank and block:
            for at in range(rank):
                if at != axis:
                    n.link(n.ids(index, at), n.ids(0, at))
            _blocks(n, index, axis, block)
        elif (n.dims(index) or [1])[0] != 1:
            n.link(n.ids(index, 0), n.ids(0, axis))


def _blocks(n: NodeView, index: int, axis: int, block: int) -> None:
    """State that scales follow whole blocks of the axis."""
    data, scales = n.ids(0, axis), n.ids(index, axis)
    if data is None or scales is None or len(data) != len(scales) * block:
        why = "is quantised in blocks that do not divide it"
        n.freeze(data, why)
        n.freeze(scales, why)
        return
    inside = n.space.new(block)
    n.freeze(inside, "shares a scale with its block")
    n.product(data, [scales, inside])


def dynamic(n: NodeView) -> None:
    """State what DynamicQuantizeLinear does: zeros, like absence, do not move its range."""
    TextRule("*d -> *d")(n)
    for axis in range(n.rank(0)):
        ids = n.ids(0, axis)
        if ids is not None:
            n.contract((0, axis, ids))


_AXIS = {"axis": 1}
_SCALES = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
for _domain, _opset in (("", 21), (MS, 1)):
    register(
        "QuantizeLinear",
        linear,
        _TEXT,
        [
            Sample(((2, 3, 4), (), ()), {}, {1: 0.1, 2: 3}, dtypes={2: "uint8"}, opset=_opset),
            Sample(
                ((2, 3, 4), (3,), (3,)), _AXIS, {2: [1, 2, 3]}, dtypes={2: "uint8"}, opset=_opset
            ),
        ],
        domain=_domain,
    )
    register(
        "DequantizeLinear",
        linear,
        _TEXT,
        [
            Sample(
                ((2, 3, 4), (), ()),
                {},
                {1: 0.1, 2: 3},
                dtypes={0: "uint8", 2: "uint8"},
                opset=_opset,
            ),
            Sample(
                ((3, 4), (3,), (3,)),
                {"axis": 0},
                {2: [1, 2, 3]},
                dtypes={0: "int8", 2: "int8"},
                opset=_opset,
            ),
            Sample(((3,), (3,)), {"axis": 0}, dtypes={0: "int32"}, opset=_opset),
            *(
                [
                    Sample(
                        ((3, 8), (3, 2)),
                        {"axis": 1, "block_size": 4},
                        {1: _SCALES},
                        dtypes={0: "int8"},
                        opset=21,
                    ),
                    Sample(
                        ((8, 3), (2, 3), (2, 3)),
                        {"axis": 0, "block_size": 4},
                        {1: [[0.1, 0.3, 0.5], [0.2, 0.4, 0.6]], 2: [[1, 2, 3], [4, 5, 6]]},
                        dtypes={0: "uint8", 2: "uint8"},
                        opset=21,
                    ),
                ]
                if not _domain
                else []
            ),
        ],
        domain=_domain,
    )
register(
    "DynamicQuantizeLinear",
    dynamic,
    _DYNAMIC,
    [Sample(((3, 4),), outputs=3), Sample(((2, 3, 4),), outputs=3)],
)
