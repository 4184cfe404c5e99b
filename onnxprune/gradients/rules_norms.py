"""Derivatives of normalisations that look at their own input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.gradients.backward import NoGradient, View, rule

Parts = Sequence[str | None]


def _standard(
    v: View, x: str, axes: Sequence[int], eps: float, *, centred: bool = True
) -> tuple[str, str]:
    """``x`` normalised over ``axes``, and what it was divided by."""
    e = v.e
    if centred:
        x = e.binary("Sub", x, _mean(v, x, axes))
    power = _mean(v, e.mul(x, x), axes)
    spread = e.unary("Sqrt", e.binary("Add", power, e.const(np.float32(eps))))
    return e.binary("Div", x, spread), spread


def _mean(v: View, x: str, axes: Sequence[int]) -> str:
    count = math.prod(v.e.shapes[x][a] for a in axes)
    return v.e.scaled(v.e.sum(x, axes, keep=True), 1 / max(count, 1))


def _back(
    v: View, g: str, unit: str, spread: str, axes: Sequence[int], *, centred: bool = True
) -> str:
    """Derivative of the input by that of the normalised values."""
    e = v.e
    inner = e.mul(unit, _mean(v, e.mul(g, unit), axes))
    if centred:
        inner = e.binary("Add", inner, _mean(v, g, axes))
    return e.binary("Div", e.binary("Sub", g, inner), spread)


@rule("InstanceNormalization")
def _instance_norm(v: View) -> Parts:
    e, shape = v.e, v.shape(0)
    axes = list(range(2, len(shape)))
    unit, spread = _standard(v, v.x[0], axes, v.attr("epsilon", 1e-5))
    column = [1, shape[1], *([1] * len(axes))]
    dx = None
    if v.wants[0]:
        dx = _back(v, e.mul(v.g, e.reshape(v.x[1], column)), unit, spread, axes)
    over = [0, *axes]
    return [
        dx,
        e.sum(e.mul(v.g, unit), over) if v.wants[1] else None,
        e.sum(v.g, over) if v.wants[2] else None,
    ]


@rule("GroupNormalization")
def _group_norm(v: View) -> Parts:
    e, shape = v.e, v.shape(0)
    groups = int(v.attr("num_groups"))
    rest = math.prod(shape[2:])
    apart = [shape[0], groups, shape[1] // groups, rest]
    x, g = e.reshape(v.x[0], apart), e.reshape(v.g, apart)
    unit, spread = _standard(v, x, [2, 3], v.attr("epsilon", 1e-5))
    each = v.shape(1)[0] != shape[1]  # a scale a group, before opset 21
    column = [1, groups, 1 if each else apart[2], 1]
    dx = None
    if v.wants[0]:
        scaled = e.mul(g, e.reshape(v.x[1], column))
        dx = e.reshape(_back(v, scaled, unit, spread, [2, 3]), shape)
    given = [dx]
    for index, part in ((1, e.mul(g, unit)), (2, g)):
        summed = e.fit(part, tuple(column))
        given.append(e.reshape(summed, v.shape(index)) if v.wants[index] else None)
    return given


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(v: View) -> Parts:
    e, rank = v.e, len(v.shape(0))
    axes = list(range(v.attr("axis", -1) % rank, rank))
    unit, spread = _standard(v, v.x[0], axes, v.attr("epsilon", 1e-5), centred=False)
    scaled = e.fit(e.mul(v.g, v.x[1]), v.shape(0))
    dx = _back(v, scaled, unit, spread, axes, centred=False) if v.wants[0] else None
    return [dx, e.fit(e.mul(v.g, unit), v.shape(1)) if v.wants[1] else None]


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_norm(v: View) -> Parts:
    # Inputs: x, skip, gamma[, beta], bias; the last output is the sum that is normalised.
    e = v.e
    plain = v.node.op_type.startswith("SkipSimplified")
    places = {"bias": 3} if plain else {"beta": 3, "bias": 4}
    held = {n: i for n, i in places.items() if i < len(v.x) and v.x[i]}
    total = e.binary("Add", v.x[0], v.x[1])
    if "bias" in held:
        total = e.binary("Add", total, v.x[held["bias"]])
    axes = [len(v.shape(0)) - 1]
    unit, spread = _standard(v, total, axes, v.attr("epsilon", 1e-12), centred=not plain)
    given: list[str | None] = [None] * len(v.x)
    dsum = v.dy[3] if len(v.dy) > 3 else None
    if v.dy[0] is not None:
        back = _back(v, e.mul(v.g, v.x[2]), unit, spread, axes, centred=not plain)
        dsum = back if dsum is None else e.binary("Add", dsum, back)
        given[2] = e.fit(e.mul(v.g, unit), v.shape(2)) if v.wants[2] else None
        if "beta" in held and v.wants[held["beta"]]:
            given[held["beta"]] = e.fit(v.g, v.shape(held["beta"]))
    if dsum is None:
        raise NoGradient("SkipLayerNormalization: a derivative of its moments")
    for index in (0, 1, held.get("bias", 0)):
        if v.wants[index]:
            given[index] = e.fit(dsum, v.shape(index))
    return given


@rule("LpNormalization")
def _lp_norm(v: View) -> Parts:
    e = v.e
    if v.attr("p", 2) != 2:
        raise NoGradient("LpNormalization: only p = 2")
    axes = [v.attr("axis", -1) % len(v.shape(0))]
    squares = e.sum(e.mul(v.x[0], v.x[0]), axes, keep=True)
    size = e.binary("Max", e.unary("Sqrt", squares), e.const(np.float32(1e-12)))
    along = e.mul(v.y, e.sum(e.mul(v.g, v.y), axes, keep=True))
    return [e.binary("Div", e.binary("Sub", v.g, along), size)]


@rule("LRN")
def _lrn(v: View) -> Parts:
    # y = x d^-beta with d = bias + alpha / size * (squares summed over neighbouring channels).
    e, shape = v.e, v.shape(0)
    size, alpha, beta = v.attr("size"), v.attr("alpha", 1e-4), v.attr("beta", 0.75)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    gap = np.arange(shape[1])[None] - np.arange(shape[1])[:, None]
    near = ((gap >= -before) & (gap <= after)).astype(np.float32)  # [of, what it sums]
    flat = [shape[0], shape[1], math.prod(shape[2:])]
    x, g, y = (e.reshape(n, flat) for n in (v.x[0], v.g, v.y))
    summed = e.matmul(e.const(near), e.mul(x, x))
    d = e.binary("Add", e.scaled(summed, alpha / size), e.const(np.float32(v.attr("bias", 1.0))))
    own = e.mul(g, e.op("Pow", [d, e.const(np.float32(-beta))], e.shapes[d]))
    others = e.matmul(e.const(near.T.copy()), e.binary("Div", e.mul(g, y), d))
    lost = e.scaled(e.mul(x, others), 2 * alpha * beta / size)
    return [e.reshape(e.binary("Sub", own, lost), shape)]
