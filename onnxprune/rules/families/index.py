"""Operators that take, join, cut, pad or repeat coordinates of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxprune.axes import Ids
from onnxprune.rules.base import GiveUp, KeptOf, Sample, register
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.view import NodeView

INT_MAX = 2**63 - 1
_I = {1: "int64"}


def concat(n: NodeView) -> None:
    """State what Concat does: coordinates one after the other."""
    if "axis" not in n.node.attributes and n.opset >= 4:
        raise GiveUp("Concat without an axis")
    join(n, [i for i in range(n.n_inputs) if n.has(i)])


def join(n: NodeView, inputs: Sequence[int]) -> None:
    """State that inputs lie one after the other along ``axis``."""
    rank = n.out_rank()
    at = n.axis(int(n.attr("axis", 1)), rank)
    whole = n.out_ids(at)
    parts = [n.ids(i, at) for i in inputs]
    if whole is None or any(p is None for p in parts):
        for ids in (whole, *parts):
            n.freeze(ids, "is joined with a part of unknown size")
    else:
        offset = 0
        for part in parts:
            assert part is not None
            n.space.link(whole[offset : offset + len(part)], part)
            offset += len(part)
    for index in inputs:
        for axis in range(rank):
            if axis != at:
                n.passes(axis, axis, index)


def split(n: NodeView) -> None:
    """State what Split does: runs of coordinates, whose sizes become explicit when cut."""
    rank = n.rank(0)
    at = n.axis(int(n.attr("axis", 0)), rank)
    whole = n.ids(0, at)
    parts = [n.out_ids(at, i) for i in range(n.n_outputs)]
    if whole is None or any(p is None for p in parts) or (n.has(1) and n.const(1) is None):
        for ids in (whole, *parts):
            n.freeze(ids, "is split into parts of unknown size")
    else:
        known = [p for p in parts if p is not None]
        offset = 0
        for part in known:
            n.space.link(whole[offset : offset + len(part)], part)
            offset += len(part)
        by_input = n.opset >= 13

        def patch(rw: Rewriter, kept: KeptOf) -> None:
            sizes = [int(kept(p).sum()) for p in known]
            if sizes == [len(p) for p in known]:
                return
            if by_input:
                rw.node.attributes.pop("num_outputs", None)
                rw.set_input(1, np.array(sizes, np.int64))
            else:
                rw.set_attr("split", sizes)

        n.on_rewrite(patch)
    for axis in range(rank):
        if axis != at:
            for out in range(n.n_outputs):
                n.passes(axis, axis, out=out)


def _slice_spec(n: NodeView) -> tuple[list[int], dict[int, tuple[int, int, int]] | None]:
    """Return the sliced axes and, when known, their (start, end, step)."""
    rank = n.rank(0)
    if n.opset < 10:
        starts, ends = n.attr("starts"), n.attr("ends")
        axes = n.attr("axes") or list(range(len(starts)))
        steps = [1] * len(starts)
    else:
        given = [n.const(i) if n.has(i) else None for i in range(1, 5)]
        count_of = n.dims(1)
        if n.has(3) and given[2] is None:
            raise GiveUp("axes that are not constant")
        if given[2] is not None:
            axes = [int(a) for a in given[2].reshape(-1)]
        elif count_of and isinstance(count_of[0], int):
            axes = list(range(count_of[0]))
        else:
            raise GiveUp("an unknown number of sliced axes")
        axes = [n.axis(a, rank) for a in axes]
        if given[0] is None or given[1] is None or (n.has(4) and given[3] is None):
            return axes, None
        starts = [int(v) for v in given[0].reshape(-1)]
        ends = [int(v) for v in given[1].reshape(-1)]
        steps = [1] * len(axes) if given[3] is None else [int(v) for v in given[3].reshape(-1)]
    axes = [n.axis(a, rank) for a in axes]
    return axes, dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


def slice_(n: NodeView) -> None:
    """State what Slice does, in any of its forms."""
    axes, spec = _slice_spec(n)
    picks: dict[int, Ids] = {}
    for axis in range(n.rank(0)):
        ids, out = n.ids(0, axis), n.out_ids(axis)
        if axis not in axes:
            n.link(ids, out)
        elif spec is None or ids is None or out is None:
            n.freeze(ids, "is sliced by bounds that are not constant")
            n.freeze(out, "is sliced by bounds that are not constant")
        else:
            start, end, step = spec[axis]
            if step < 0 and end < -len(ids):
                end_: int | None = None
            else:
                end_ = end
            picks[axis] = np.arange(len(ids))[start:end_:step]
            n.index(ids, out, picks[axis])
    blocks = {axis: n.ids(0, axis) for axis in picks}
    if spec is None:
        return

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        bounds = {a: spec[a] for a in axes}
        changed = False
        for axis, pick in picks.items():
            ids = blocks[axis]
            assert ids is not None
            keep = kept(ids)
            if keep.all():
                continue
            changed = True
            new = (np.cumsum(keep) - 1)[pick[keep[pick]]]
            bounds[axis] = _as_slice(rw, axis, new)
        if changed:
            _write_slice(rw, axes, bounds, n.opset)

    n.on_rewrite(patch)


def _as_slice(rw: Rewriter, axis: int, new: Ids) -> tuple[int, int, int]:
    """Return bounds that pick ``new``; positions no slice can pick go through a Gather before."""
    steps = np.unique(np.diff(new))
    if len(steps) > 1:
        rw.gather_before(0, axis, new)
        return 0, INT_MAX, 1
    step = int(steps[0]) if len(steps) else 1
    end = int(new[-1]) + (1 if step > 0 else -1)
    return int(new[0]), (-INT_MAX if end < 0 else end), step


def _write_slice(
    rw: Rewriter, axes: list[int], bounds: dict[int, tuple[int, int, int]], opset: int
) -> None:
    starts, ends, steps = (list(column) for column in zip(*(bounds[a] for a in axes), strict=True))
    if opset < 10:
        for name, values in (("axes", axes), ("starts", starts), ("ends", ends)):
            rw.set_attr(name, values)
        return
    for index, values in enumerate((starts, ends, axes, steps), start=1):
        old = rw.node.inputs[index] if index < len(rw.node.inputs) else None
        if old is not None or index < 4 or any(s != 1 for s in steps):
            rw.set_input(index, np.array(values, np.int64))


def gather(n: NodeView) -> None:
    """State what Gather does: constant indices are coordinates, others hold their axis."""
    rank, index_rank = n.rank(0), n.rank(1)
    at = n.axis(int(n.attr("axis", 0)), rank)
    for axis in range(rank):
        if axis != at:
            out = axis if axis < at else axis + index_rank - 1
            n.passes(axis, out)
            if n.is_weight(0) and rank > 1:
                n.produces(0, axis)
    source = n.ids(0, at)
    picked = n.const(1)
    if source is None or picked is None or index_rank > 1:
        n.freeze(source, "is indexed by data" if picked is None else "is indexed by a table")
        for axis in range(index_rank):
            n.passes(axis, at + axis, index=1)
        return
    size = len(source)
    take = picked.reshape(-1).astype(np.int64)
    if len(take) and (take.min() < -size or take.max() >= size):
        raise GiveUp("an index outside its axis")
    take = np.where(take < 0, take + size, take)
    n.freeze(n.ids(1, 0) if index_rank else None, "is a list of indices")
    if index_rank:
        n.index(source, n.out_ids(at), take)
    else:
        n.freeze(source[take], "is picked out by a constant index")

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        keep = kept(source)
        if keep.all():
            return
        new = (np.cumsum(keep) - 1)[take[keep[take]]]
        rw.set_input(1, new.astype(picked.dtype).reshape((-1,) if index_rank else ()))

    n.on_rewrite(patch)


def _pads(n: NodeView) -> dict[int, tuple[int, int]]:
    rank = n.rank(0)
    if n.opset < 11:
        values = n.attr("pads") or n.attr("paddings")
    else:
        known = n.const(1)
        if known is None:
            raise GiveUp("pads that are not constant")
        values = [int(v) for v in known.reshape(-1)]
    axes = list(range(rank))
    if n.has(3):
        given = n.const(3)
        if given is None:
            raise GiveUp("axes that are not constant")
        axes = [n.axis(int(a), rank) for a in given.reshape(-1)]
    half = len(axes)
    return {a: (values[i], values[i + half]) for i, a in enumerate(axes)}


def pad(n: NodeView) -> None:
    """State what Pad does; also on channels, where it makes coordinates from nothing."""
    pads = _pads(n)
    constant = n.attr("mode", "constant") == "constant"
    cut: dict[int, tuple[Ids, Ids, Ids]] = {}
    for axis in range(n.rank(0)):
        begin, end = pads.get(axis, (0, 0))
        ids, out = n.ids(0, axis), n.out_ids(axis)
        if begin == end == 0:
            n.link(ids, out)
        elif not constant or ids is None or out is None:
            n.freeze(ids, "is padded here")
            n.freeze(out, "is padded here")
        else:
            take = np.arange(-begin, len(ids) + end)
            take = np.where(take < len(ids), np.maximum(take, -1), -1)
            n.index(ids, out, take)
            cut[axis] = (ids, out, take)

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        new = dict(pads)
        for axis, (ids, out, take) in cut.items():
            begin, end = pads[axis]
            keep, keep_out = kept(ids), kept(out)
            if keep.all() and keep_out.all():
                continue
            first = (
                int(keep_out[:begin].sum())
                if begin > 0
                else -int(keep[:-begin].sum())
                if begin < 0
                else 0
            )
            last = (
                int(keep_out[len(take) - end :].sum())
                if end > 0
                else -int(keep[len(ids) + end :].sum())
                if end < 0
                else 0
            )
            new[axis] = (first, last)
        if new == pads:
            return
        axes = list(new)
        flat = [new[a][0] for a in axes] + [new[a][1] for a in axes]
        if n.opset < 11:
            rw.set_attr("pads" if "pads" in rw.node.attributes else "paddings", flat)
        else:
            rw.set_input(1, np.array(flat, np.int64))

    n.on_rewrite(patch)


def expand(n: NodeView) -> None:
    """State what Expand does: new coordinates come from an axis of size one."""
    rank, inner = n.out_rank(), n.rank(0)
    dims = n.dims(0) or []
    for axis in range(inner):
        out = n.out_ids(axis + rank - inner)
        ids = n.ids(0, axis)
        if dims[axis] == 1 and (out is None or len(out) != 1):
            n.freeze(ids, "is broadcast here")
        else:
            n.link(ids, out)
    axes = [n.out_ids(axis) for axis in range(rank)]
    given = n.dims(1)
    if not given or not isinstance(given[0], int):
        raise GiveUp("a target of unknown rank")
    n.keep_sizes(1, axes[rank - given[0] :], neutral=1)


def constant_of_shape(n: NodeView) -> None:
    """State what ConstantOfShape does: every coordinate is like any other, so all are free."""
    n.keep_sizes(0, [n.out_ids(axis) for axis in range(n.out_rank())])


def tile(n: NodeView) -> None:
    """State what Tile does: output coordinate j is input coordinate j modulo the size."""
    if n.opset < 6:
        raise GiveUp("Tile before opset 6")
    repeats = n.const(1)
    for axis in range(n.rank(0)):
        ids, out = n.ids(0, axis), n.out_ids(axis)
        if repeats is not None and repeats.reshape(-1)[axis] == 1:
            n.link(ids, out)
        elif repeats is None or ids is None or out is None:
            n.freeze(ids, "is repeated an unknown number of times")
            n.freeze(out, "is repeated an unknown number of times")
        else:
            n.index(ids, out, np.arange(len(out)) % len(ids))


def _ints(*values: Any) -> dict[int, Any]:
    return {i: v for i, v in enumerate(values, start=1) if v is not None}


register(
    "Concat",
    concat,
    "coordinates one after the other along `axis`",
    [
        Sample(((2, 3, 4), (2, 5, 4), (2, 1, 4)), {"axis": 1}),
        Sample(((2, 3), (2, 2)), {"axis": -1}),
    ],
)
register(
    "Split",
    split,
    "runs of coordinates along `axis`",
    [
        Sample(((2, 6, 3), (2,)), {"axis": 1}, _ints([2, 4]), outputs=2, dtypes=_I),
        Sample(((2, 7),), {"axis": -1, "num_outputs": 3}, outputs=3),
        Sample(((2, 6),), {"axis": 1}, opset=13, outputs=3),
        Sample(((2, 6),), {"axis": 1, "split": [1, 5]}, opset=11, outputs=2),
        Sample(((2, 6),), {"axis": 1}, opset=2, outputs=2),
    ],
)
register(
    "Slice",
    slice_,
    "coordinates start:end:step of `axes`",
    [
        Sample(
            ((2, 8, 3), (1,), (1,), (1,)),
            {},
            _ints([2], [7], [1]),
            dtypes={1: "int64", 2: "int64", 3: "int64"},
        ),
        Sample(
            ((2, 8), (2,), (2,), (2,), (2,)),
            {},
            _ints([0, -1], [2, -9], [0, 1], [1, -1]),
            dtypes={1: "int64", 2: "int64", 3: "int64", 4: "int64"},
        ),
        Sample(
            ((2, 9), (1,), (1,), (1,), (1,)),
            {},
            _ints([0], [INT_MAX], [-1], [2]),
            dtypes={1: "int64", 2: "int64", 3: "int64", 4: "int64"},
        ),
        Sample(((4, 8), (2,), (2,)), {}, _ints([1, 2], [4, 6]), dtypes={1: "int64", 2: "int64"}),
        Sample(((2, 8, 3),), {"axes": [1], "starts": [2], "ends": [-1]}, opset=9),
    ],
)
register(
    "Gather",
    gather,
    "constant indices are coordinates",
    [
        Sample(((2, 6, 3), (4,)), {"axis": 1}, _ints([5, 0, 0, -2]), dtypes=_I),
        Sample(((2, 6, 3), ()), {"axis": 1}, _ints(2), dtypes=_I),
        Sample(((6, 3), (2, 2)), {"axis": 0}, _ints([[1, 2], [3, 0]]), dtypes=_I),
    ],
)
register(
    "Pad",
    pad,
    "padded coordinates are new",
    [
        Sample(((2, 4, 3, 3), (8,)), {}, _ints([0, 2, 0, 0, 0, 3, 0, 0]), dtypes=_I),
        Sample(((2, 4, 3), (6,)), {"mode": "reflect"}, _ints([0, 0, 1, 0, 0, 1]), dtypes=_I),
        Sample(((2, 6, 3), (6,)), {}, _ints([0, -2, 0, 0, 1, 0]), dtypes=_I),
        Sample(
            ((2, 4, 3), (2,), (), (1,)),
            {},
            {1: [1, 2], 2: 0.5, 3: [1]},
            dtypes={1: "int64", 3: "int64"},
        ),
        Sample(((2, 4, 3),), {"pads": [0, 1, 0, 0, 1, 0]}, opset=2),
    ],
)
register(
    "Expand",
    expand,
    "axes of size one are repeated",
    [
        Sample(((3, 1), (3,)), {}, _ints([2, 3, 4]), dtypes=_I),
        Sample(((2, 3, 1, 1), (2,)), {}, _ints([4, 5]), dtypes=_I),
        Sample(((2, 3, 1), (3,)), {}, _ints([1, 3, 4]), dtypes=_I),
    ],
)
register(
    "ConstantOfShape",
    constant_of_shape,
    "coordinates are made here",
    [Sample(((3,),), {}, {0: [2, 3, 4]}, dtypes={0: "int64"})],
)
register(
    "Tile",
    tile,
    "coordinate j is j modulo the size",
    [
        Sample(((2, 3), (2,)), {}, _ints([1, 2]), dtypes=_I),
        Sample(((2, 3, 2), (3,)), {}, _ints([1, 3, 2]), dtypes=_I),
    ],
)
