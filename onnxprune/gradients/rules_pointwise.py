"""Derivatives of elementwise operators, softmax and normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.gradients.backward import NoGradient, View, rule

Parts = Sequence[str | None]


@rule("Identity", "Dropout")
def _identity(v: View) -> Parts:
    return [v.g]


@rule("Cast")
def _cast(v: View) -> Parts:
    if v.attr("to") != 1:
        raise NoGradient("Cast: only of float32 to itself")
    return [v.g]


@rule("Add")
def _add(v: View) -> Parts:
    return [v.e.fit(v.g, v.shape(i)) if v.wants[i] else None for i in (0, 1)]


@rule("Sum")
def _sum(v: View) -> Parts:
    return [v.e.fit(v.g, v.shape(i)) if w else None for i, w in enumerate(v.wants)]


@rule("Sub")
def _sub(v: View) -> Parts:
    left = v.e.fit(v.g, v.shape(0)) if v.wants[0] else None
    right = v.e.fit(v.e.unary("Neg", v.g), v.shape(1)) if v.wants[1] else None
    return [left, right]


@rule("Mul")
def _mul(v: View) -> Parts:
    a, b = v.x
    for place, (x, share) in enumerate(((a, b), (b, a))):
        maker = v.makers.get(share)
        if maker is not None and maker.op_type == "Sigmoid" and maker.input[0] == x:
            # Both factors' at once: nothing is left for the sigmoid to pass on.
            made = v.e.fast("SiluGrad", [x, share, v.g], v.shape(place))
            if made is not None:
                return [made if i == place else None for i in (0, 1)]
    left = v.e.fit(v.e.mul(v.g, b), v.shape(0)) if v.wants[0] else None
    right = v.e.fit(v.e.mul(v.g, a), v.shape(1)) if v.wants[1] else None
    return [left, right]


@rule("Div")
def _div(v: View) -> Parts:
    a, b = v.x
    by = v.e.binary("Div", v.g, b)
    left = v.e.fit(by, v.shape(0)) if v.wants[0] else None
    right = None
    if v.wants[1]:
        right = v.e.fit(v.e.unary("Neg", v.e.mul(by, v.e.binary("Div", a, b))), v.shape(1))
    return [left, right]


@rule("Relu")
def _relu(v: View) -> Parts:
    # Of the output: the input need not be kept then, and the node fuses with the layer before it.
    return [v.e.inside(v.g, v.y, low=0.0)]


@rule("LeakyRelu")
def _leaky(v: View) -> Parts:
    slope = v.attr("alpha", 0.01)
    on = v.e.cast(v.e.binary("Greater", v.x[0], v.e.const(np.float32(0))))
    factor = v.e.binary("Add", v.e.scaled(on, 1 - slope), v.e.const(np.float32(slope)))
    return [v.e.mul(v.g, factor)]


@rule("Clip")
def _clip(v: View) -> Parts:
    # What lies between the limits passed unchanged; on a limit itself either slope will do.
    return [v.e.inside(v.g, v.y, *v.x[1:])]


@rule("Sigmoid")
def _sigmoid(v: View) -> Parts:
    return [v.e.sigmoid_slope(v.g, v.y)]


@rule("Tanh")
def _tanh(v: View) -> Parts:
    return [v.e.mul(v.g, v.e.binary("Sub", v.e.const(np.float32(1)), v.e.mul(v.y, v.y)))]


@rule("HardSigmoid")
def _hard_sigmoid(v: View) -> Parts:
    return [v.e.scaled(v.e.inside(v.g, v.y, 0.0, 1.0), v.attr("alpha", 0.2))]


@rule("HardSwish")
def _hard_swish(v: View) -> Parts:
    x = v.x[0]
    gate = v.e.unary("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    slope = v.e.scaled(v.e.inside(x, x, -3.0, 3.0), 1 / 6)
    return [v.e.mul(v.g, v.e.binary("Add", gate, slope))]


@rule("Erf")
def _erf(v: View) -> Parts:
    bell = v.e.unary("Exp", v.e.unary("Neg", v.e.mul(v.x[0], v.x[0])))
    return [v.e.scaled(v.e.mul(v.g, bell), 2 / math.sqrt(math.pi))]


@rule("Exp")
def _exp(v: View) -> Parts:
    return [v.e.mul(v.g, v.y)]


@rule("Log")
def _log(v: View) -> Parts:
    return [v.e.binary("Div", v.g, v.x[0])]


@rule("Neg")
def _neg(v: View) -> Parts:
    return [v.e.unary("Neg", v.g)]


@rule("Sqrt")
def _sqrt(v: View) -> Parts:
    return [v.e.scaled(v.e.binary("Div", v.g, v.y), 0.5)]


@rule("Reciprocal")
def _reciprocal(v: View) -> Parts:
    return [v.e.unary("Neg", v.e.mul(v.g, v.e.mul(v.y, v.y)))]


@rule("Pow")
def _pow(v: View) -> Parts:
    power = v.number(1)
    if v.wants[1] or power is None or power.size != 1:
        raise NoGradient("Pow: only with a constant exponent")
    p = float(power.reshape(-1)[0])
    if p == 2:
        return [v.e.scaled(v.e.mul(v.g, v.x[0]), 2.0), None]
    lower = v.e.op("Pow", [v.x[0], v.e.const(np.float32(p - 1))], v.shape(0))
    return [v.e.scaled(v.e.mul(v.g, lower), p), None]


@rule("Softmax")
def _softmax(v: View) -> Parts:
    axis = v.attr("axis", -1)
    inner = v.e.sum(v.e.mul(v.g, v.y), [axis], keep=True)
    return [v.e.mul(v.y, v.e.binary("Sub", v.g, inner))]


@rule("LogSoftmax")
def _log_softmax(v: View) -> Parts:
    total = v.e.sum(v.g, [v.attr("axis", -1)], keep=True)
    return [v.e.binary("Sub", v.g, v.e.mul(v.e.unary("Exp", v.y), total))]


@rule("BatchNormalization")
def _batch_norm(v: View) -> Parts:
    if any(v.wants[3:]):
        raise NoGradient("BatchNormalization: statistics are no weights")
    rank = len(v.shape(0))
    column = [1, -1, *([1] * (rank - 2))]
    channels = v.shape(0)[1]
    column[1] = channels
    scale, mean, var = (v.e.reshape(v.x[i], column) for i in (1, 3, 4))
    spread = v.e.unary(
        "Sqrt", v.e.binary("Add", var, v.e.const(np.float32(v.attr("epsilon", 1e-5))))
    )
    over = [0, *range(2, rank)]
    dx = v.e.mul(v.g, v.e.binary("Div", scale, spread)) if v.wants[0] else None
    dscale = None
    if v.wants[1]:
        unit = v.e.binary("Div", v.e.binary("Sub", v.x[0], mean), spread)
        dscale = v.e.sum(v.e.mul(v.g, unit), over)
    return [dx, dscale, v.e.sum(v.g, over) if v.wants[2] else None, None, None]


@rule("LayerNormalization")
def _layer_norm(v: View) -> Parts:
    rank = len(v.shape(0))
    axes = list(range(v.attr("axis", -1) % rank, rank))
    count = float(np.prod([v.shape(0)[a] for a in axes]))

    def mean(x: str) -> str:
        return v.e.scaled(v.e.sum(x, axes, keep=True), 1 / count)

    centred = v.e.binary("Sub", v.x[0], mean(v.x[0]))
    eps = v.e.const(np.float32(v.attr("epsilon", 1e-5)))
    spread = v.e.unary("Sqrt", v.e.binary("Add", mean(v.e.mul(centred, centred)), eps))
    unit = v.e.binary("Div", centred, spread)
    dx = None
    if v.wants[0]:
        g = v.e.mul(v.g, v.x[1])
        inner = v.e.binary("Add", mean(g), v.e.mul(unit, mean(v.e.mul(g, unit))))
        dx = v.e.binary("Div", v.e.binary("Sub", g, inner), spread)
    dscale = v.e.fit(v.e.mul(v.g, unit), v.shape(1)) if v.wants[1] else None
    given: list[str | None] = [dx, dscale]
    if len(v.wants) > 2:
        given.append(v.e.fit(v.g, v.shape(2)) if v.wants[2] else None)
    return given
