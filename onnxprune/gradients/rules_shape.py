"""Derivatives of what moves elements or sums them, without weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from onnxprune.gradients.backward import NoGradient, View, rule

Parts = Sequence[str | None]
Array = npt.NDArray[Any]


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(v: View) -> Parts:
    return [v.e.reshape(v.g, v.shape(0)), None]


@rule("Transpose")
def _transpose(v: View) -> Parts:
    rank = len(v.shape(0))
    perm = v.attr("perm", list(range(rank))[::-1])
    return [v.e.transpose(v.g, [int(i) for i in np.argsort(perm)])]


@rule("Expand", "Tile")
def _expand(v: View) -> Parts:
    if v.node.op_type == "Expand":
        return [v.e.fit(v.g, v.shape(0)), None]
    repeats = [int(n) for n in v.number(1)]
    split = [n for pair in zip(repeats, v.shape(0), strict=True) for n in pair]
    apart = v.e.reshape(v.g, split)
    return [v.e.sum(apart, list(range(0, len(split), 2))), None]


@rule("Concat")
def _concat(v: View) -> Parts:
    axis = v.attr("axis") % len(v.e.shapes[v.y])
    parts: list[str | None] = []
    start = 0
    for index, wanted in enumerate(v.wants):
        stop = start + v.shape(index)[axis]
        parts.append(v.e.slices(v.g, [axis], [start], [stop], [1]) if wanted else None)
        start = stop
    return parts


@rule("Split")
def _split(v: View) -> Parts:
    axis = v.attr("axis", 0) % len(v.shape(0))
    parts = []
    for name, dy in zip(v.node.output, v.dy, strict=True):
        parts.append(dy or v.e.const(np.zeros(v.e.shapes[name], np.float32)))
    return [v.e.concat(parts, axis), None]


@rule("Slice")
def _slice(v: View) -> Parts:
    shape = v.shape(0)
    starts, stops = (np.asarray(v.number(i)).reshape(-1) for i in (1, 2))
    axes, steps = v.number(3), v.number(4)
    axes = range(len(starts)) if axes is None else axes.reshape(-1)
    steps = [1] * len(starts) if steps is None else steps.reshape(-1)
    g = v.g
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        axis = int(axis) % len(shape)
        places = np.arange(shape[axis])[slice(int(start), _stop(stop, step), int(step))]
        g = _scatter(v, g, axis, places, shape[axis])
    return [g, *[None] * (len(v.x) - 1)]


def _stop(stop: int, step: int) -> int | None:
    """The end of a python slice; ONNX says with very small numbers what python says with None."""
    return None if step < 0 and stop < -(2**31) else int(stop)


def _scatter(v: View, g: str, axis: int, places: Array, size: int) -> str:
    """Spread ``g`` along an axis to ``places`` of ``size``, zeros elsewhere; places differ."""
    if np.array_equal(places, np.arange(size)):
        return g
    where = np.full(size, len(places), np.int64)  # the row of zeros behind the last
    where[places] = np.arange(len(places))
    rank = len(v.e.shapes[g])
    after = [int(a == axis) for a in range(rank)]
    padded = v.e.pad(g, [0] * rank, after)
    shape = list(v.e.shapes[g])
    shape[axis] = size
    return v.e.op("Gather", [padded, v.e.const(where)], tuple(shape), axis=axis)


@rule("Gather")
def _gather(v: View) -> Parts:
    from onnxprune.gradients.rules_select import gathered

    axis = v.attr("axis", 0) % len(v.shape(0))
    size = v.shape(0)[axis]
    places = v.e.known.get(v.x[1])
    flat = None if places is None else np.asarray(places).reshape(-1) % size
    if flat is None or len(np.unique(flat)) != len(flat):
        return [gathered(v), None]
    shape = list(v.shape(0))
    shape[axis] = len(flat)
    return [_scatter(v, v.e.reshape(v.g, shape), axis, flat, size), None]


@rule("Pad")
def _pad(v: View) -> Parts:
    mode = v.attr("mode", b"constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    shape = v.shape(0)
    pads = [int(n) for n in v.number(1)]
    axes = range(len(shape)) if len(v.x) < 4 or not v.x[3] else v.number(3)
    half = len(pads) // 2
    g = v.g
    for place, axis in enumerate(axes):
        before, after = pads[place], pads[half + place]
        if before < 0 or after < 0:
            raise NoGradient("Pad: cropping")
        axis = int(axis) % len(shape)
        if mode == "constant" or not before + after:
            g = v.e.slices(g, [axis], [before], [before + shape[axis]], [1])
        else:
            g = _unpadded(v, g, axis, _taken(shape[axis], before, after, mode))
    return [g, *[None] * (len(v.x) - 1)]


def _taken(size: int, before: int, after: int, mode: str) -> npt.NDArray[np.int64]:
    """Which element of an axis lies at every place of the padded one."""
    if mode not in ("reflect", "edge", "wrap"):
        raise NoGradient(f"Pad: mode {mode}")
    return np.pad(np.arange(size), (before, after), mode=cast("Any", mode))


def _unpadded(v: View, g: str, axis: int, taken: npt.NDArray[np.int64]) -> str:
    """Sum what lies at all places of an element: a product with a matrix of zeros and ones."""
    e, shape = v.e, v.e.shapes[g]
    places = np.zeros((len(taken), v.shape(0)[axis]), np.float32)
    places[np.arange(len(taken)), taken] = 1
    if axis == len(shape) - 1:
        return e.matmul(g, e.const(places))
    # The axes behind are one: the product is over the last axis but one.
    rest = math.prod(shape[axis + 1 :])
    flat = e.matmul(e.const(places.T), e.reshape(g, [*shape[: axis + 1], rest]))
    return e.reshape(flat, [*shape[:axis], places.shape[1], *shape[axis + 1 :]])


def axes_of(v: View) -> set[int]:
    """The axes that a reduction sums up, or that global pooling does."""
    rank = len(v.shape(0))
    if v.node.op_type.startswith("Global"):
        return set(range(2, rank))
    axes = v.attr("axes")
    if axes is None:
        axes = v.number(1)
    if axes is None or not len(axes):
        return set() if v.attr("noop_with_empty_axes", 0) else set(range(rank))
    return {int(a) % rank for a in axes}


@rule("ReduceMean", "ReduceSum", "GlobalAveragePool")
def _reduce(v: View) -> Parts:
    shape = v.shape(0)
    gone = axes_of(v)
    kept = tuple(1 if i in gone else n for i, n in enumerate(shape))
    g = v.e.expand(v.e.reshape(v.g, kept), shape)
    if v.node.op_type != "ReduceSum":
        g = v.e.scaled(g, float(np.prod(kept)) / max(float(np.prod(shape)), 1.0))
    return [g, None]


@rule("DepthToSpace")
def _depth_to_space(v: View) -> Parts:
    n, c, h, w = v.shape(0)
    b = int(v.attr("blocksize"))
    mode = v.attr("mode", b"DCR")
    out = c // (b * b)
    apart = v.e.reshape(v.g, [n, out, h, b, w, b])
    order = [0, 1, 3, 5, 2, 4] if mode in (b"CRD", "CRD") else [0, 3, 5, 1, 2, 4]
    return [v.e.reshape(v.e.transpose(apart, order), [n, c, h, w])]


@rule("SpaceToDepth")
def _space_to_depth(v: View) -> Parts:
    n, c, h, w = v.shape(0)
    b = int(v.attr("blocksize"))
    apart = v.e.reshape(v.g, [n, b, b, c, h // b, w // b])
    return [v.e.reshape(v.e.transpose(apart, [0, 3, 4, 1, 5, 2]), [n, c, h, w])]
