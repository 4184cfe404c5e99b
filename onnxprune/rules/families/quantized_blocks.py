"""Weights of a few bits in blocks, products in float: MatMulNBits, GatherBlockQuantized."""

from __future__ import annotations

from onnxprune.axes import Ids
from onnxprune.rules.base import Contraction, GiveUp, KeptOf, Sample, register
from onnxprune.rules.families.contrib import MS
from onnxprune.rules.packing import Packing
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.view import NodeView


def _columns(n: NodeView, index: int, rows: Ids, blocks: int, whole: Ids | None) -> None:
    """Tie scales or zero points, [rows x blocks] in one axis or two, to their rows and blocks.

    Args:
        n: the node.
        index: the input.
        rows: the rows.
        blocks: entries a row has in this input.
        whole: the coordinates of these entries; None: they stay.
    """
    inner = whole if whole is not None else n.space.new(blocks)
    if whole is None:
        n.freeze(inner, "is packed with its neighbours")
    if n.rank(index) == 1:
        n.product(n.ids(index, 0), [rows, inner])
    elif n.rank(index) == 2:
        n.link(n.ids(index, 0), rows)
        n.link(n.ids(index, 1), inner)
    else:
        raise GiveUp(f"{n.op} with scales of rank {n.rank(index)}")


def matmul_nbits(n: NodeView) -> None:
    """State what MatMulNBits does: rows of the weight are outputs, inputs go in whole blocks."""
    bits, block = int(n.attr("bits", 4)), int(n.attr("block_size", 0))
    size, depth = int(n.attr("N", 0)), int(n.attr("K", 0))
    if bits not in (2, 4, 8) or min(block, size, depth) < 1 or n.attr("weight_prepacked", 0):
        raise GiveUp("MatMulNBits of a form that is not known here")
    packing = Packing(size, depth, block, bits)
    if n.dims(1) != list(packing.stored_shape):
        raise GiveUp("MatMulNBits whose weight has another shape than its attributes say")
    n.quantised(1, 2, 3, axis=1, block=block, packing=packing, order=4)
    last = n.rank(0) - 1
    if n.out_dims() is None:
        n.learn(0, [*(n.dims(0) or [])[:last], size])
    for axis in range(last):
        n.passes(axis, axis)
    rows = n.ids(1, 0)
    data, blocks = n.ids(0, last), n.ids(1, 1)
    if rows is None or data is None or blocks is None or len(data) != depth:
        raise GiveUp("MatMulNBits over an axis of unknown size")
    n.link(rows, n.out_ids(last))
    if n.has(5):
        n.link(n.ids(5, n.rank(5) - 1), rows)
    whole: Ids | None = blocks
    if n.has(4) or depth % block:
        n.freeze(data, "is quantised in blocks that do not divide it")
        n.freeze(blocks, "is quantised in blocks that do not divide it")
    else:
        inside = n.space.new(block)
        n.freeze(inside, "shares a scale with its block")
        n.product(data, [blocks, inside])
    _columns(n, 2, rows, packing.blocks, whole)
    if n.has(3):
        _zero_points(n, packing, rows, blocks)
    for ids in (n.ids(1, 2), n.ids(4, 0) if n.has(4) else None):
        n.freeze(ids, "shares a scale with its block")
    n.contract((1, 1, blocks), (0, last, data))
    n.produces(1, 0)
    macs = [n.ids(0, a) if n.ids(0, a) is not None else 1 for a in range(n.rank(0))]
    n.contraction(
        Contraction(
            n.node,
            1 if n.is_const(1) else None,
            ((("o", size),), (("i", depth),)),
            tuple(1 if m is None else m for m in [*macs, rows]),
        )
    )

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        rw.set_attr("N", int(kept(rows).sum()))
        rw.set_attr("K", int(kept(data).sum()))

    n.on_rewrite(patch)


def _zero_points(n: NodeView, packing: Packing, rows: Ids, blocks: Ids) -> None:
    """Tie zero points; several blocks share a byte, and then they go together or not at all."""
    total = 1
    for d in n.dims(3) or []:
        total *= d if isinstance(d, int) else 0
    per_byte = 8 // packing.bits
    kind = n.node.inputs[3]
    packed = kind is not None and str(kind.dtype) == "UINT8" and per_byte > 1
    if not packed:
        _columns(n, 3, rows, packing.blocks, blocks)
    elif packing.blocks % per_byte:
        n.freeze(blocks, "shares a byte of zero points with a neighbour")
        _columns(n, 3, rows, total // packing.rows, None)
    else:
        shared = n.space.new(packing.blocks // per_byte)
        inside = n.space.new(per_byte)
        n.freeze(inside, "shares a byte of zero points with a neighbour")
        n.product(blocks, [shared, inside])
        _columns(n, 3, rows, len(shared), shared)


_PACKED = {1: "uint8", 3: "uint8"}


def _bytes(count: int) -> list[int]:
    return [(11 + 73 * i) % 256 for i in range(count)]


def _scales(count: int) -> list[float]:
    return [0.01 * (1 + i % 7) for i in range(count)]


_NK = {"N": 6, "K": 64, "bits": 4, "block_size": 16}
register(
    "MatMulNBits",
    matmul_nbits,
    "*b (q s), n q s -> *b n, scales and zero points of n and q",
    [
        Sample(
            ((2, 3, 64), (6, 4, 8), (24,)),
            _NK,
            {1: _bytes(192), 2: _scales(24)},
            dtypes=_PACKED,
            opset=1,
        ),
        Sample(
            ((3, 64), (6, 4, 8), (24,), (12,), None, (6,)),
            _NK,
            {1: _bytes(192), 2: _scales(24), 3: _bytes(12), 5: [1, 2, 3, 4, 5, 6]},
            dtypes=_PACKED,
            opset=1,
        ),
        Sample(
            ((3, 64), (6, 4, 16), (6, 4), (6, 4)),
            {**_NK, "bits": 8},
            {1: _bytes(384), 2: _scales(24), 3: _bytes(24)},
            dtypes=_PACKED,
            opset=1,
        ),
        Sample(
            ((3, 40), (6, 3, 8), (18,), (12,)),
            {**_NK, "K": 40},
            {1: _bytes(144), 2: _scales(18), 3: _bytes(12)},
            dtypes=_PACKED,
            opset=1,
        ),
    ],
    domain=MS,
    exact="inputs in whole blocks",
)
