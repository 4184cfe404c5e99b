"""Quantise and dequantise: element by element, with scales that follow their axis."""

from __future__ import annotations

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.view import NodeView

_TEXT = "*d, scale of `axis`, zero point of `axis`? -> *d"


def linear(n: NodeView) -> None:
    """State what QuantizeLinear and DequantizeLinear do, per tensor or per axis."""
    if n.attr("block_size", 0):
        raise GiveUp(f"{n.op} in blocks")
    rank = n.rank(0)
    n.like_input()
    for axis in range(rank):
        n.passes(axis, axis)
    for index in (1, 2):
        if not n.has(index) or n.rank(index) == 0 or (n.dims(index) or [1])[0] == 1:
            continue
        if n.rank(index) != 1:
            raise GiveUp(f"{n.op} with scales of rank {n.rank(index)}")
        n.link(n.ids(index, 0), n.ids(0, n.axis(int(n.attr("axis", 1)), rank)))


_AXIS = {"axis": 1}
register(
    "QuantizeLinear",
    linear,
    _TEXT,
    [
        Sample(((2, 3, 4), ()), {}, {1: 0.1}),
        Sample(((2, 3, 4), (3,), (3,)), _AXIS, {2: [1, 2, 3]}, dtypes={2: "uint8"}),
    ],
)
register(
    "DequantizeLinear",
    linear,
    _TEXT,
    [
        Sample(((2, 3, 4), (), ()), {}, {1: 0.1, 2: 3}, dtypes={0: "uint8", 2: "uint8"}),
        Sample(((3, 4), (3,), (3,)), {"axis": 0}, {2: [1, 2, 3]}, dtypes={0: "int8", 2: "int8"}),
        Sample(((3,), (3,)), {"axis": 0}, dtypes={0: "int32"}),
    ],
)
