"""Operators that only rearrange axes: reshapes and transposes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from onnxprune.axes import Ids
from onnxprune.rules.base import Dim, GiveUp, KeptOf, Sample, register
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.view import NodeView

Segment = tuple[list[int], list[int]]


def _grow(a: Sequence[Dim], b: Sequence[Dim], i: int, j: int, step: int) -> tuple[int, int] | None:
    """Extend a segment from (i, j) until both sides multiply to the same; None if they cannot."""
    x, y = a[i], b[j]
    if not isinstance(x, int) or not isinstance(y, int):
        return (i + step, j + step) if x is not None and x == y else None
    left, right = x, y
    i, j = i + step, j + step
    while left != right:
        shorter, at = (a, i) if left < right else (b, j)
        size = shorter[at] if 0 <= at < len(shorter) else None
        if not isinstance(size, int):
            return None
        if left < right:
            left, i = left * size, i + step
        else:
            right, j = right * size, j + step
    return i, j


def match_reshape(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[list[Segment], Segment]:
    """Match the dims of a reshape (size-1 dims left out) into segments of equal product.

    Args:
        a: dims before: int, symbol or None.
        b: dims after.

    Returns:
        The segments as (positions before, positions after), and the rest in the middle that
        unknown sizes leave unmatched.
    """
    segments: list[Segment] = []
    i = j = 0
    while i < len(a) and j < len(b):
        end = _grow(a, b, i, j, 1)
        if end is None:
            break
        segments.append((list(range(i, end[0])), list(range(j, end[1]))))
        i, j = end
    x, y = len(a) - 1, len(b) - 1
    while x >= i and y >= j:
        back = _grow(a, b, x, y, -1)
        if back is None or back[0] < i - 1 or back[1] < j - 1:
            break
        segments.append((list(range(back[0] + 1, x + 1)), list(range(back[1] + 1, y + 1))))
        x, y = back
    return segments, (list(range(i, x + 1)), list(range(j, y + 1)))


def _suffix_products(sizes: Sequence[int]) -> list[int]:
    out, product = [], 1
    for size in reversed(sizes):
        product *= size
        out.append(product)
    return out


def common_atoms(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    """Return the coarsest common refinement of two factorisations of one number, or None."""
    cuts = sorted({1, *_suffix_products(a), *_suffix_products(b)})
    if any(hi % lo for lo, hi in itertools.pairwise(cuts)):
        return None
    return [hi // lo for lo, hi in itertools.pairwise(cuts)][::-1]


def _cover(size: int, atoms: list[tuple[int, Ids]]) -> list[Ids]:
    """Take from the front of ``atoms`` those that make up ``size``."""
    out: list[Ids] = []
    while size > 1:
        n, ids = atoms.pop(0)
        size //= n
        out.append(ids)
    return out


def reshape_axes(n: NodeView) -> None:
    """Tie the axes of input 0 and output 0 that hold the same elements in row-major order."""
    before, after = n.dims(0), n.out_dims(0)
    if before is None or after is None:
        raise GiveUp("a rank that cannot be inferred")
    a = [i for i, d in enumerate(before) if d != 1]
    b = [i for i, d in enumerate(after) if d != 1]
    segments, rest = match_reshape([before[i] for i in a], [after[i] for i in b])
    for left, right in segments:
        _tie_segment(n, [a[i] for i in left], [b[j] for j in right])
    left, right = [a[i] for i in rest[0]], [b[j] for j in rest[1]]
    _tie_borders(n, before, after, left, right)
    for axis in left:
        n.freeze(n.ids(0, axis), "is reshaped together with an axis of unknown size")
    for axis in right:
        n.freeze(n.out_ids(axis), "is reshaped together with an axis of unknown size")


def _tie_borders(
    n: NodeView, before: Sequence[Dim], after: Sequence[Dim], left: list[int], right: list[int]
) -> None:
    """Tie the outer sizes of a stretch whose inner sizes are unknown.

    [C, H, W] to [G, L] with H and W unknown still says that C is (G c): the outermost index of the
    coarser side is the outermost part of the finer one's. (GroupNorm written as InstanceNorm.)
    """
    while left and right:
        a, b = before[left[0]], after[right[0]]
        if not isinstance(a, int) or not isinstance(b, int) or (a % b and b % a):
            return
        outer = n.space.new(min(a, b))
        for size, ids in ((a, n.ids(0, left[0])), (b, n.out_ids(right[0]))):
            inner = n.space.new(size // len(outer))
            n.freeze(inner if len(inner) > 1 else None, "is merged with an axis of unknown size")
            n.product(ids, [outer, inner])
        del left[0], right[0]
        if a != b:
            return


def _tie_segment(n: NodeView, left: list[int], right: list[int]) -> None:
    if len(left) == len(right) == 1:
        n.passes(left[0], right[0])
        return
    whole_left = [n.ids(0, axis) for axis in left]
    whole_right = [n.out_ids(axis) for axis in right]
    sizes_left = [len(x) for x in whole_left if x is not None]
    sizes_right = [len(x) for x in whole_right if x is not None]
    atoms = common_atoms(sizes_left, sizes_right)
    if atoms is None:
        for ids in (*whole_left, *whole_right):
            n.freeze(ids, "is reshaped across the borders of other axes")
        return
    blocks = [(size, n.space.new(size)) for size in atoms]
    for sizes, wholes in ((sizes_left, whole_left), (sizes_right, whole_right)):
        queue = list(blocks)
        for size, whole in zip(sizes, wholes, strict=True):
            n.product(whole, _cover(size, queue))


def reshape(n: NodeView) -> None:
    """State what Reshape does and keep its target shape right."""
    reshape_axes(n)
    axes = [n.out_ids(axis) for axis in range(n.out_rank())]
    if n.opset < 5:
        n.keep_size_attr("shape", axes, copies=True)
        return
    n.keep_sizes(1, axes, copies=not n.attr("allowzero", 0))


def flatten(n: NodeView) -> None:
    """State what Flatten does."""
    reshape_axes(n)


def _named_axes(n: NodeView, rank: int) -> list[int] | None:
    """Return the axes that a Squeeze or Unsqueeze names, counted from the front of ``rank``."""
    named = n.attr("axes") or n.const(1)
    return None if named is None else [int(axis) % rank for axis in np.ravel(named)]


def unsqueeze(n: NodeView) -> None:
    """State what Unsqueeze does."""
    rank = n.out_rank()
    axes = _named_axes(n, rank)
    if axes is None:
        reshape_axes(n)
        return
    for axis, out in enumerate(sorted(set(range(rank)) - set(axes))):
        n.passes(axis, out)


def squeeze(n: NodeView) -> None:
    """State what Squeeze does; axes left to it become explicit, lest one pruned to 1 vanish."""
    dims = n.dims(0) or []
    named = _named_axes(n, n.rank(0))
    if named is not None:
        for out, axis in enumerate(sorted(set(range(len(dims))) - set(named))):
            n.passes(axis, out)
        return
    reshape_axes(n)
    if n.has(1):
        return
    axes = [axis for axis, dim in enumerate(dims) if dim == 1]
    by_input = n.opset >= 13

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        blocks = [n.ids(0, axis) for axis, dim in enumerate(dims) if dim != 1]
        if all(ids is None or kept(ids).sum() != 1 for ids in blocks):
            return
        if by_input:
            rw.set_input(1, np.array(axes, np.int64))
        else:
            rw.set_attr("axes", axes)

    n.on_rewrite(patch)


def transpose(n: NodeView) -> None:
    """State what Transpose does."""
    rank = n.rank(0)
    perm = n.attr("perm") or list(range(rank))[::-1]
    for out, axis in enumerate(perm):
        n.passes(axis, out)


def _shape(*dims: int) -> dict[int, list[int]]:
    return {1: list(dims)}


_I = {1: "int64"}
_RESHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((2, 3, 4, 5), (2, 60)),
    ((2, 3, 4, 5), (2, -1)),
    ((2, 3, 4, 5), (0, 0, -1)),
    ((2, 12, 5), (2, 3, 4, 5)),
    ((2, 12, 5), (2, 4, -1, 5)),
    ((2, 3, 4, 5), (6, 20)),
    ((2, 6, 1, 1), (2, 6)),
    ((2, 6), (2, 6, 1, 1)),
    ((6, 4), (2, 12)),
    ((4, 6), (6, 4)),
    ((3, 5), (-1,)),
]
register(
    "Reshape",
    reshape,
    "row-major factors",
    [Sample((a, (len(b),)), consts=_shape(*b), dtypes=_I) for a, b in _RESHAPES]
    + [Sample(((2, 12),), {"shape": [0, 3, 4]}, opset=1, result=(2, 3, 4))],
)
register(
    "Flatten",
    flatten,
    "row-major factors",
    [
        Sample(((2, 3, 4, 5),), {"axis": 1}),
        Sample(((2, 3, 4),), {"axis": 2}),
        Sample(((2, 6, 1, 1),)),
        Sample(((2, 3, 4),), {"axis": -1}),
    ],
)
register(
    "Squeeze",
    squeeze,
    "axes of size one vanish",
    [
        Sample(((2, 3, 1, 1), (2,)), consts={1: [2, 3]}, dtypes=_I),
        Sample(((1, 3, 1, 5),), {"axes": [0]}, opset=11),
        Sample(((2, 3, 1, 1),)),
    ],
)
register(
    "Unsqueeze",
    unsqueeze,
    "axes of size one appear",
    [
        Sample(((2, 3), (2,)), consts={1: [2, 3]}, dtypes=_I),
        Sample(((2, 3),), {"axes": [0]}, opset=11),
    ],
)
register(
    "Transpose",
    transpose,
    "axes permuted by `perm`",
    [Sample(((2, 3, 4, 5),), {"perm": [0, 2, 3, 1]}), Sample(((2, 3, 4),))],
)
