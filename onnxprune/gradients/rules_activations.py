"""Derivatives of further activations, and of layers that onnxruntime has fused with theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.gradients.backward import RULES, NoGradient, View, rule
from onnxprune.gradients.emit import Emitter

Parts = Sequence[str | None]
SQRT_2_PI = math.sqrt(2 / math.pi)


def _one(v: View) -> str:
    return v.e.const(np.float32(1))


def _positive(v: View, x: str) -> str:
    """1 where ``x`` is above zero, 0 elsewhere."""
    return v.e.cast(v.e.binary("Greater", x, v.e.const(np.float32(0))))


def _either(v: View, on: str, yes: str, no: str) -> str:
    """``yes`` where ``on`` is 1, ``no`` where it is 0."""
    off = v.e.binary("Sub", _one(v), on)
    return v.e.binary("Add", v.e.mul(on, yes), v.e.mul(off, no))


@rule("PRelu")
def _prelu(v: View) -> Parts:
    e, on = v.e, _positive(v, v.x[0])
    dx = e.mul(v.g, _either(v, on, _one(v), v.x[1])) if v.wants[0] else None
    slope = None
    if v.wants[1]:
        below = e.mul(v.x[0], e.binary("Sub", _one(v), on))
        slope = e.fit(e.mul(v.g, below), v.shape(1))
    return [dx, slope]


@rule("Elu", "Selu")
def _elu(v: View) -> Parts:
    selu = v.node.op_type == "Selu"
    alpha = v.attr("alpha", 1.67326319217681884765625 if selu else 1.0)
    gamma = v.attr("gamma", 1.05070102214813232421875) if selu else 1.0
    below = v.e.binary("Add", v.y, v.e.const(np.float32(alpha * gamma)))
    return [v.e.mul(v.g, _either(v, _positive(v, v.x[0]), v.e.const(np.float32(gamma)), below))]


@rule("Celu")
def _celu(v: View) -> Parts:
    below = v.e.unary("Exp", v.e.scaled(v.e.binary("Min", v.x[0], v.e.const(np.float32(0))),
                                        1 / v.attr("alpha", 1.0)))  # fmt: skip
    return [v.e.mul(v.g, below)]


@rule("ThresholdedRelu")
def _thresholded(v: View) -> Parts:
    limit = v.e.const(np.float32(v.attr("alpha", 1.0)))
    return [v.e.mul(v.g, v.e.cast(v.e.binary("Greater", v.x[0], limit)))]


@rule("Softplus")
def _softplus(v: View) -> Parts:
    return [v.e.mul(v.g, v.e.unary("Sigmoid", v.x[0]))]


@rule("Softsign")
def _softsign(v: View) -> Parts:
    size = v.e.binary("Add", _one(v), v.e.unary("Abs", v.x[0]))
    return [v.e.binary("Div", v.g, v.e.mul(size, size))]


@rule("Abs")
def _abs(v: View) -> Parts:
    return [v.e.mul(v.g, v.e.unary("Sign", v.x[0]))]


@rule("Sin", "Cos")
def _sine(v: View) -> Parts:
    if v.node.op_type == "Sin":
        return [v.e.mul(v.g, v.e.unary("Cos", v.x[0]))]
    return [v.e.unary("Neg", v.e.mul(v.g, v.e.unary("Sin", v.x[0])))]


@rule("Mish")
def _mish(v: View) -> Parts:
    e, x = v.e, v.x[0]
    t = e.unary("Tanh", e.unary("Softplus", x))
    steep = e.mul(e.mul(x, e.unary("Sigmoid", x)), e.binary("Sub", _one(v), e.mul(t, t)))
    return [e.mul(v.g, e.binary("Add", t, steep))]


def _swish(v: View, alpha: float) -> str:
    e, x = v.e, v.x[0]
    s = e.unary("Sigmoid", e.scaled(x, alpha))
    steep = e.scaled(e.mul(e.mul(x, s), e.binary("Sub", _one(v), s)), alpha)
    return e.mul(v.g, e.binary("Add", s, steep))


@rule("Swish")
def _plain_swish(v: View) -> Parts:
    return [_swish(v, v.attr("alpha", 1.0))]


@rule("QuickGelu", domain="com.microsoft")
def _quick_gelu(v: View) -> Parts:
    return [_swish(v, v.attr("alpha", 1.702))]


def _bell(v: View, x: str) -> str:
    """Slope of ``x`` times the normal distribution function of ``x``."""
    e = v.e
    wide = e.unary("Erf", e.scaled(x, 1 / math.sqrt(2)))
    share = e.scaled(e.binary("Add", _one(v), wide), 0.5)
    density = e.scaled(e.unary("Exp", e.scaled(e.mul(x, x), -0.5)), SQRT_2_PI / 2)
    return e.binary("Add", share, e.mul(x, density))


def _bell_by_tanh(v: View, x: str) -> str:
    """Slope of the approximation ``x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``."""
    e = v.e
    square = e.mul(x, x)
    inner = e.scaled(e.mul(x, e.binary("Add", _one(v), e.scaled(square, 0.044715))), SQRT_2_PI)
    t = e.unary("Tanh", inner)
    slope = e.scaled(e.binary("Add", _one(v), e.scaled(square, 3 * 0.044715)), SQRT_2_PI / 2)
    rest = e.mul(e.mul(x, slope), e.binary("Sub", _one(v), e.mul(t, t)))
    return e.binary("Add", e.scaled(e.binary("Add", _one(v), t), 0.5), rest)


@rule("Gelu")
def _gelu(v: View) -> Parts:
    by_tanh = v.attr("approximate", b"none") in (b"tanh", "tanh")
    return [v.e.mul(v.g, (_bell_by_tanh if by_tanh else _bell)(v, v.x[0]))]


@rule("Gelu", "BiasGelu", "FastGelu", domain="com.microsoft")
def _fused_gelu(v: View) -> Parts:
    e, x = v.e, v.x[0]
    biased = len(v.x) > 1 and bool(v.x[1])
    if biased:
        x = e.binary("Add", x, v.x[1])
    slope = (_bell_by_tanh if v.node.op_type == "FastGelu" else _bell)(v, x)
    dx = e.mul(v.g, slope)
    given: list[str | None] = [dx if v.wants[0] else None]
    if biased:
        given.append(e.fit(dx, v.shape(1)) if v.wants[1] else None)
    return given


def _before(v: View, kind: str, given: Sequence[float]) -> str:
    """Derivative before a fused activation, by its output alone."""
    e: Emitter = v.e
    if kind in ("", "Identity"):
        return v.g
    if kind == "Relu":
        return e.inside(v.g, v.y, low=0.0)
    if kind == "LeakyRelu":
        slope = given[0] if given else 0.01
        return e.mul(v.g, _either(v, _positive(v, v.y), _one(v), e.const(np.float32(slope))))
    if kind == "Sigmoid":
        return e.sigmoid_slope(v.g, v.y)
    if kind == "Tanh":
        return e.mul(v.g, e.binary("Sub", _one(v), e.mul(v.y, v.y)))
    if kind == "Clip":
        low, high = given
        return e.inside(v.g, v.y, low, high)
    if kind == "HardSigmoid":
        return e.scaled(e.inside(v.g, v.y, 0.0, 1.0), given[0] if given else 0.2)
    raise NoGradient(f"{v.node.op_type}: activation {kind}")


def _kind(v: View) -> str:
    found = v.attr("activation", b"")
    return found.decode() if isinstance(found, bytes) else str(found)


@rule("FusedConv", domain="com.microsoft")
def _fused_conv(v: View) -> Parts:
    g = _before(v, _kind(v), v.attr("activation_params", ()))
    given = list(RULES["Conv"](replace(v, dy=[g])))
    given += [None] * (len(v.x) - len(given))
    if len(v.x) > 3 and v.wants[3]:
        given[3] = g
    return given


@rule("FusedGemm", domain="com.microsoft")
def _fused_gemm(v: View) -> Parts:
    alpha = v.attr("activation_alpha")
    g = _before(v, _kind(v), () if alpha is None else (alpha,))
    return RULES["Gemm"](replace(v, dy=[g]))


@rule("FusedMatMul", domain="com.microsoft")
def _fused_matmul(v: View) -> Parts:
    e = v.e
    if v.attr("transBatchA", 0) or v.attr("transBatchB", 0):
        raise NoGradient("FusedMatMul: transposed stacks")

    def turned(name: str) -> str:
        rank = len(e.shapes[name])
        return e.transpose(name, [*range(rank - 2), rank - 1, rank - 2])

    if min(len(v.shape(0)), len(v.shape(1))) < 2:
        raise NoGradient("FusedMatMul: a vector")
    ta, tb = v.attr("transA", 0), v.attr("transB", 0)
    g = e.scaled(v.g, v.attr("alpha", 1.0))
    da = db = None
    if v.wants[0]:
        da = e.matmul(g, v.x[1] if tb else turned(v.x[1]))
        da = e.fit(turned(da) if ta else da, v.shape(0))
    if v.wants[1]:
        db = e.matmul(v.x[0] if ta else turned(v.x[0]), g)
        db = e.fit(turned(db) if tb else db, v.shape(1))
    return [da, db]
