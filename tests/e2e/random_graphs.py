"""Random graphs of everything a convolutional network is made of, as a hypothesis strategy.

A graph grows block by block from its inputs. Every block takes values that exist, adds a few nodes
and leaves new values; sizes are tracked so that each graph is valid. Dims may be symbolic: blocks
that need a number of pixels then leave the value alone or compute the number from Shape, as
exporters do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from hypothesis import strategies as st
from random_growth import Draw, Val
from random_layers import Pointwise, Products
from random_moves import Coordinates, Space


class Grower(Products, Pointwise, Coordinates, Space):
    """A graph being grown; blocks are the methods in :data:`BLOCKS`."""


BLOCKS: dict[Callable[[Grower], None], int] = {
    Grower.conv: 8,
    Grower.conv_transpose: 1,
    Grower.dense_last: 1,
    Grower.flatten: 1,
    Grower.gemm: 2,
    Grower.unflatten: 1,
    Grower.unary: 4,
    Grower.norm: 3,
    Grower.affine: 2,
    Grower.join: 4,
    Grower.excite: 1,
    Grower.concat: 3,
    Grower.split: 2,
    Grower.slice: 2,
    Grower.gather: 1,
    Grower.pad: 2,
    Grower.tile: 1,
    Grower.expand: 1,
    Grower.pool2d: 2,
    Grower.global_pool: 1,
    Grower.resize: 1,
    Grower.shuffle: 1,
    Grower.depth_to_space: 1,
    Grower.space_to_depth: 1,
    Grower.positions: 1,
    Grower.reduce_space: 1,
    Grower.attend: 1,
}
_WEIGHTED = [block for block, count in BLOCKS.items() for _ in range(count)]


@dataclass(frozen=True)
class Case:
    """A model, and sizes for its symbols: those it was grown with, and others."""

    model: onnx.ModelProto
    sizes: dict[str, int]
    other: dict[str, int]


def grow(
    draw: Draw, kind: type[Grower] = Grower, menu: Sequence[Callable[[Any], None]] = _WEIGHTED
) -> Case:
    """Grow one graph of 5 to about 25 nodes from the blocks of ``menu``."""
    dynamic_batch, dynamic_space = draw(st.booleans()), draw(st.integers(0, 3)) == 0
    g = kind(draw, draw(st.sampled_from([13, 17, 18, 21])), dynamic_batch, dynamic_space)
    side = g.pick(8, 4, 5, 6)
    batch = g.pick(1, 2)
    sizes = {"N": batch} if dynamic_batch else {}
    if dynamic_space:
        sizes |= {"H": side, "W": side + 2}
    n: int | str = "N" if dynamic_batch else batch
    hw: list[int | str] = ["H", "W"] if dynamic_space else [side, side + 2]
    for i in range(draw(st.integers(1, 2))):
        c = draw(st.integers(1, 4))
        g.pool.append(Val(g.net.input([n, c, *hw], f"x{i}"), (batch, c, side, side + 2)))
    for x in list(g.pool):
        # Something that can go: units at a graph input are frozen.
        out = g.pick(4, 6, 8)
        w = g.weight(g.net.normal(out, x.dims[1], 3, 3))
        g.op("Conv", x.name, w, dims=(batch, out, *x.dims[2:]), pads=[1, 1, 1, 1])
    wanted = draw(st.integers(5, 25))
    for _ in range(40):
        if len(g.net.nodes) >= wanted:
            break
        try:
            draw(st.sampled_from(menu))(g)
        except IndexError:
            continue
    _finish(g)
    other = {"N": batch + 1} if dynamic_batch else {}
    if dynamic_space:
        other |= {"H": side + 2, "W": side}
    return Case(g.net.model(), sizes, other)


def _finish(g: Grower) -> None:
    """Make outputs of what nothing uses, most of it behind a product so that it is not frozen."""
    used = {name for node in g.net.nodes for name in node.input}
    inputs = {v.name for v in g.net.inputs}
    ends = [v for v in g.pool if v.name not in used and v.name not in inputs]
    count = 0
    for v in ends or g.pool[-1:]:
        if v.name in inputs:
            continue
        name = v.name
        if len(v.dims) == 4 and g.draw(st.integers(0, 4)):
            name = g.net.op("Conv", v.name, g.weight(g.net.normal(2, v.dims[1], 1, 1)))
        elif len(v.dims) == 2 and g.draw(st.integers(0, 4)):
            name = g.net.op("MatMul", v.name, g.weight(g.net.normal(v.dims[1], 3)))
        g.net.output(name)
        count += 1
    assert count


@st.composite
def cases(draw: Draw) -> Case:
    return grow(draw)
