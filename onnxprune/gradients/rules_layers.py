"""Derivatives of layers and of pooling.

A convolution's derivative with respect to its input is a transposed convolution, or for stride 1 a
convolution with the kernel turned around; with respect to its weight a product of the output's
derivative with the input's shifted windows (methods.md 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx

from onnxprune.gradients.backward import NoGradient, View, rule
from onnxprune.gradients.emit import Emitter

Parts = Sequence[str | None]
#: Kernels of trained layers are not larger than this in any direction.
WIDEST = 64
#: Weights of more numbers are left to products of matrices where both come out alike otherwise.
MOST_DENSE = 1 << 20


class _Geometry:
    """Strides, dilations and resolved padding of a convolution or pooling node."""

    def __init__(
        self, v: View, inner: tuple[int, ...], outer: tuple[int, ...], kernel: Sequence[int]
    ):
        rank = len(inner)
        self.kernel = [int(k) for k in kernel]
        self.strides = list(v.attr("strides", None) or [1] * rank)
        self.dilations = list(v.attr("dilations", None) or [1] * rank)
        auto = v.attr("auto_pad", b"NOTSET")
        auto = auto.decode() if isinstance(auto, bytes) else auto
        pads = list(v.attr("pads", None) or [0] * (2 * rank))
        self.spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [
                max((o - 1) * s + span - n, 0)
                for o, s, span, n in zip(outer, self.strides, self.spans, inner, strict=True)
            ]
            lead = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
            pads = [*lead, *(t - a for t, a in zip(total, lead, strict=True))]
        elif auto == "VALID":
            pads = [0] * (2 * rank)
        self.before, self.after = pads[:rank], pads[rank:]
        self.size = math.prod(self.kernel)
        self.pointwise = self.size == 1 and max(self.strides) == 1 and not any(pads)
        #: Whether a convolution with the kernel turned around gives the input's derivative.
        self.turns = max(self.strides) == 1 and all(
            max(b, a) < span for b, a, span in zip(self.before, self.after, self.spans, strict=True)
        )

    def attributes(self) -> dict[str, list[int]]:
        """Attributes of a node of the same geometry."""
        return {
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": [*self.before, *self.after],
        }


def _common(weight: tuple[int, ...], geo: _Geometry) -> bool:
    """Whether the runtime library's operators know windows like this."""
    fits = max(geo.kernel) <= WIDEST and min(*geo.before, *geo.after) >= 0
    return fits and len(weight) in (3, 4)


def _fast(
    e: Emitter, kind: str, inputs: Sequence[str], shape: tuple[int, ...], weight: tuple[int, ...],
    geo: _Geometry, groups: int, **attributes: Any,
) -> str | None:  # fmt: skip
    """A layer by an operator of the runtime library; None where there is none for it.

    ``kind`` is what an operator's name has behind that of its family, depth-wise or dense.
    """
    if not _common(weight, geo):
        return None
    if weight[:2] == (groups, 1):
        family = "DepthwiseConv"
    elif groups > 1 or geo.pointwise:
        return None
    elif geo.turns if kind == "InputGrad" else math.prod(weight) <= MOST_DENSE:
        family = "DenseConv"
    else:
        return None
    return e.fast(family + kind, inputs, shape, **geo.attributes(), **attributes)


def _input_gradient(
    v: View, g: str, weight: str, inner: tuple[int, ...], geo: _Geometry, groups: int
) -> str:
    """Derivative with respect to a convolution's input [N, C, *inner]; ``g`` is [N, M, *outer]."""
    e = v.e
    m, each = e.shapes[weight][:2]
    outer = e.shapes[g][2:]
    shape = (e.shapes[g][0], each * groups, *inner)
    if geo.pointwise and inner == outer:
        if math.prod(outer) == 1 and groups == 1:  # samples are the rows of one product
            flat = e.matmul(e.reshape(g, [shape[0], m]), e.reshape(weight, [m, each]))
            return e.reshape(flat, shape)
        turned = e.transpose(e.reshape(weight, [groups, m // groups, each]), [0, 2, 1])
        flat = e.reshape(g, [shape[0], groups, m // groups, math.prod(outer)])
        return e.reshape(e.matmul(turned, flat), shape)
    made = _fast(e, "InputGrad", [g, weight], shape, e.shapes[weight], geo, groups,
                 size=list(inner))  # fmt: skip
    if made is not None:
        return made
    spare = [
        n + b + a - ((o - 1) * s + span)
        for n, b, a, o, s, span in zip(
            inner, geo.before, geo.after, outer, geo.strides, geo.spans, strict=True
        )
    ]
    if geo.turns:
        pads = [s - 1 - b for b, s in zip((*geo.before, *geo.after), geo.spans * 2, strict=True)]
        k = math.prod(geo.kernel)
        turned = e.reshape(weight, [groups, m // groups, each, k])
        turned = e.reshape(e.transpose(turned, [0, 2, 1, 3]), [groups * each, m // groups, k])
        if k > 1:
            flip = e.const(np.arange(k)[::-1].copy())
            turned = e.op("Gather", [turned, flip], e.shapes[turned], axis=2)
        turned = e.reshape(turned, [groups * each, m // groups, *geo.kernel])
        return e.op("Conv", [g, turned], shape, group=groups, dilations=geo.dilations,
                    pads=pads)  # fmt: skip
    return e.op("ConvTranspose", [g, weight], shape, group=groups, output_padding=spare,
                **geo.attributes())  # fmt: skip


def _weight_gradient(
    v: View, g: str, x: str, shape: tuple[int, ...], geo: _Geometry, groups: int
) -> str:
    """Derivative with respect to a convolution's weight of ``shape`` [M, C / groups, *kernel]."""
    e = v.e
    n, m, *outer = e.shapes[g]
    each = shape[1]
    rank = len(outer)
    axes = list(range(2, rank + 2))
    room = [
        max(0, (o - 1) * s + span - size - b)
        for o, s, span, size, b in zip(
            outer, geo.strides, geo.spans, e.shapes[x][2:], geo.before, strict=True
        )
    ]
    count, area = geo.size, math.prod(outer)
    made = _fast(e, "WeightGrad", [x, g], shape, shape, geo, groups,
                 kernel_shape=geo.kernel)  # fmt: skip
    if made is not None:
        return made
    if each == 1 and m == groups:
        # Samples as the channels of one: a convolution with g as its kernel, strides and dilations
        # changing places.
        turn = [1, 0, *axes]
        inner = e.reshape(e.transpose(x, turn), [1, m * n, *e.shapes[x][2:]])
        kernel = e.transpose(g, turn)
        found = [
            (size + b + a - (o - 1) * s - 1) // d + 1
            for size, b, a, o, s, d in zip(
                e.shapes[x][2:], geo.before, room, outer, geo.strides, geo.dilations, strict=True
            )
        ]
        sums = e.op("Conv", [inner, kernel], (1, m, *found), group=m, strides=geo.dilations,
                    dilations=geo.strides, pads=[*geo.before, *room])  # fmt: skip
        # Pixels that no window reaches make it larger than the kernel.
        return e.reshape(e.slices(sums, axes, [0] * rank, geo.kernel, [1] * rank), shape)
    columns = None
    if groups == 1 and not geo.pointwise and _common(shape, geo):
        columns = e.fast("ConvColumns", [x], (each * count, n * area), kernel_shape=geo.kernel,
                         **geo.attributes())  # fmt: skip
    if columns is not None:
        rows = e.reshape(e.transpose(g, [1, 0, *axes]), [m, n * area])
        return e.reshape(e.matmul(rows, e.transpose(columns, [1, 0])), shape)
    if groups > 1 or (count == 1 and each < area / 2):
        windows = _windows(v, x, geo, axes, [0, 0, *room], outer)
        flat = [e.reshape(w, [n, groups, each, area]) for w in windows]
        columns = e.concat(flat, 2) if count > 1 else flat[0]  # [N, G, K * C, P], kernel first
        rows = e.reshape(g, [n, groups, m // groups, area])
        summed = e.sum(e.matmul(rows, e.transpose(columns, [0, 1, 3, 2])), [0])  # [G, M / G, K * C]
        apart = e.reshape(summed, [m, count, each])
        return e.reshape(e.transpose(apart, [0, 2, 1]) if count > 1 else apart, shape)
    # Channels first, so that samples and positions are one long axis to sum over.
    windows = _windows(v, e.transpose(x, [1, 0, *axes]), geo, axes, [0, 0, *room], outer)
    flat = [e.reshape(w, [each, n * area]) for w in windows]
    columns = e.concat(flat, 0) if count > 1 else flat[0]  # [K * C, N * P], kernel first
    rows = e.reshape(e.transpose(g, [1, 0, *axes]), [m, n * area])
    apart = e.reshape(e.matmul(rows, e.transpose(columns, [1, 0])), [m, count, each])
    return e.reshape(e.transpose(apart, [0, 2, 1]) if count > 1 else apart, shape)


def _windows(
    v: View, x: str, geo: _Geometry, axes: list[int], room: list[int], outer: list[int]
) -> list[str]:
    """What every kernel position meets, a value a position; ``x`` with spatial ``axes``."""
    padded = v.e.pad(x, [0, 0, *geo.before], room)
    windows = []
    for place in product(*(range(k) for k in geo.kernel)):
        starts = [p * d for p, d in zip(place, geo.dilations, strict=True)]
        stops = [a + (o - 1) * s + 1 for a, o, s in zip(starts, outer, geo.strides, strict=True)]
        windows.append(v.e.slices(padded, axes, starts, stops, geo.strides))
    return windows


def with_varying_weight(e: Emitter, node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, or one of the runtime library's that is faster where a weight is no constant."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return node
    v = View(e, node, [None], [])
    shape, y = v.shape(1), e.shapes[v.y]
    geo = _Geometry(v, v.shape(0)[2:], y[2:], shape[2:])
    made = _fast(e, "", v.x, y, shape, geo, v.attr("group", 1))
    if made is None:
        return node
    found = e.nodes.pop()
    found.output[0] = v.y
    return found


@rule("Conv")
def _conv(v: View) -> Parts:
    x, weight = v.x[:2]
    shape = v.shape(1)
    geo = _Geometry(v, v.shape(0)[2:], v.e.shapes[v.y][2:], shape[2:])
    groups = v.attr("group", 1)
    dx = _input_gradient(v, v.g, weight, v.shape(0)[2:], geo, groups) if v.wants[0] else None
    dw = _weight_gradient(v, v.g, x, shape, geo, groups) if v.wants[1] else None
    db = None
    if len(v.wants) > 2 and v.wants[2]:
        db = v.e.sum(v.g, [0, *range(2, len(shape))])
    return [dx, dw, db][: len(v.x)]


@rule("ConvTranspose")
def _conv_transpose(v: View) -> Parts:
    if v.attr("auto_pad", b"NOTSET") != b"NOTSET" or v.attr("output_shape") is not None:
        raise NoGradient("ConvTranspose: only with explicit padding")
    x, weight = v.x[:2]
    # It is the input derivative of a convolution from its output to its input.
    geo = _Geometry(v, v.e.shapes[v.y][2:], v.shape(0)[2:], v.shape(1)[2:])
    groups = v.attr("group", 1)
    dx = None
    if v.wants[0]:
        dx = v.e.op("Conv", [v.g, weight], v.shape(0), group=groups, **geo.attributes())
    dw = _weight_gradient(v, x, v.g, v.shape(1), geo, groups) if v.wants[1] else None
    given = [dx, dw]
    if len(v.wants) > 2:
        given.append(v.e.sum(v.g, [0, *range(2, len(v.shape(0)))]) if v.wants[2] else None)
    return given


@rule("Gemm")
def _gemm(v: View) -> Parts:
    e = v.e
    a, b = v.x[:2]
    ta, tb = v.attr("transA", 0), v.attr("transB", 0)
    g = e.scaled(v.g, v.attr("alpha", 1.0))
    da = db = None
    if v.wants[0]:
        right = b if tb else e.transpose(b, [1, 0])
        da = e.matmul(g, right)
        da = e.transpose(da, [1, 0]) if ta else da
    if v.wants[1]:
        left = a if ta else e.transpose(a, [1, 0])
        db = e.matmul(left, g)
        db = e.transpose(db, [1, 0]) if tb else db
    given = [da, db]
    if len(v.wants) > 2:
        dc = e.fit(e.scaled(v.g, v.attr("beta", 1.0)), v.shape(2)) if v.wants[2] else None
        given.append(dc)
    return given


@rule("MatMul")
def _matmul(v: View) -> Parts:
    e = v.e
    left, right = v.shape(0), v.shape(1)
    if min(len(left), len(right)) < 2:
        raise NoGradient("MatMul: a vector")

    def turned(name: str) -> str:
        rank = len(e.shapes[name])
        return e.transpose(name, [*range(rank - 2), rank - 1, rank - 2])

    a, b = v.x
    da = e.fit(e.matmul(v.g, turned(b)), left) if v.wants[0] else None
    if not v.wants[1]:
        return [da, None]
    if len(right) == 2:  # one product over all rows instead of one a matrix of the stack
        rows = math.prod(left[:-1])
        flat = e.reshape(a, [rows, left[-1]])
        return [da, e.matmul(turned(flat), e.reshape(v.g, [rows, right[-1]]))]
    return [da, e.fit(e.matmul(turned(a), v.g), right)]


@rule("AveragePool")
def _average_pool(v: View) -> Parts:
    e = v.e
    shape = v.shape(0)
    outer = e.shapes[v.y][2:]
    geo = _Geometry(v, shape[2:], outer, v.attr("kernel_shape"))
    ends = [n + a for n, a in zip(shape[2:], geo.after, strict=True)]
    # Where sizes are rounded up, the last window may reach beyond the padding.
    geo.after = [
        max(a, (o - 1) * s + span - b - n)
        for a, o, s, span, b, n in zip(
            geo.after, outer, geo.strides, geo.spans, geo.before, shape[2:], strict=True
        )
    ]
    counts = np.ones((1, 1), np.float64)
    for axis, size in enumerate(shape[2:]):
        line = np.zeros(outer[axis])
        for place in range(outer[axis]):
            start = place * geo.strides[axis] - geo.before[axis]
            at = start + np.arange(geo.kernel[axis]) * geo.dilations[axis]
            padded = v.attr("count_include_pad", 0)
            line[place] = np.count_nonzero(at < ends[axis] if padded else (at >= 0) & (at < size))
        counts = counts[..., None] * line
    n, c = shape[:2]
    each = e.mul(v.g, e.const((1.0 / counts).astype(np.float32)))
    ones = e.const(np.ones((1, 1, *geo.kernel), np.float32))
    single = e.reshape(each, [n * c, 1, *outer])
    spread = _input_gradient(v, single, ones, shape[2:], geo, 1)
    return [e.reshape(spread, shape)]


@rule("MaxPool")
def _max_pool(v: View) -> Parts:
    e = v.e
    shape, outer = v.shape(0), e.shapes[v.y]
    if v.attr("storage_order", 0):
        raise NoGradient("MaxPool: column-major indices")
    from onnx import helper

    again = helper.make_node("MaxPool", [v.x[0]], [f"{v.y}/again", f"{v.y}/places"])
    again.attribute.extend(v.node.attribute)
    e.nodes.append(again)
    e.shapes[f"{v.y}/places"] = outer
    flat = math.prod(shape)
    zeros = e.expand(e.const(np.zeros(1, np.float32)), (flat,))
    places = e.reshape(f"{v.y}/places", [math.prod(outer)])
    g = e.reshape(v.g, [math.prod(outer)])
    spread = e.op("ScatterElements", [zeros, places, g], (flat,), axis=0, reduction="add")
    return [e.reshape(spread, shape)]
