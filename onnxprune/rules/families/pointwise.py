"""Operators that work element by element, with numpy broadcasting."""

import numpy as np

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
_OPSET = {"Gelu": 20, "Swish": 24}
_BINARY_FLOAT = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Equal",
    "PRelu",
    "Pow",
]

_UNARY_TEXT = "*d -> *d"
_BINARY_TEXT = "*d, *d -> *d"

for _op in UNARY:
    register(
        _op,
        TextRule(_UNARY_TEXT),
        _UNARY_TEXT,
        [Sample(((2, 3, 4, 5),), opset=_OPSET.get(_op, 18))],
    )
register("Not", TextRule(_UNARY_TEXT), _UNARY_TEXT, [Sample(((3, 4),), dtypes={0: "bool"})])
register("BitwiseNot", TextRule(_UNARY_TEXT), _UNARY_TEXT, [Sample(((3, 4),), dtypes={0: "int32"})])
register("Cast", TextRule(_UNARY_TEXT), _UNARY_TEXT, [Sample(((3, 4),), {"to": 11})])
register(
    "CastLike", TextRule(_UNARY_TEXT), _UNARY_TEXT, [Sample(((3, 4), (1,)), dtypes={1: "float64"})]
)


def dropout(n: NodeView) -> None:
    """State what Dropout does outside training: nothing."""
    training = n.const(2) if n.has(2) else np.False_
    if training is None or bool(np.any(training)):
        raise GiveUp("Dropout in training draws for every element in turn")
    TextRule("*d -> *d, *d")(n)


register(
    "Clip",
    TextRule(_UNARY_TEXT),
    _UNARY_TEXT,
    [
        Sample(((2, 3, 4), (), ()), consts={1: -0.5, 2: 0.5}),
        Sample(((2, 3, 4),), {"min": -0.5, "max": 0.5}, opset=6),
        Sample(((2, 3, 4), None, ()), consts={2: 0.5}),
    ],
)
register(
    "Dropout",
    dropout,
    "*d -> *d, *d outside training",
    [
        Sample(((2, 3, 4),), outputs=2),
        Sample(((2, 3),), {"ratio": 0.3}, opset=7),
        Sample(((2, 3), (), ()), {}, {1: 0.5, 2: False}, dtypes={2: "bool"}),
    ],
)


def binary(n: NodeView) -> None:
    """State what a two-operand element-wise operator does."""
    if n.opset < 7:
        # No runtime at hand implements these forms any more, so nothing could judge a rule.
        raise GiveUp("the broadcast attributes of opset 6 and older")
    TextRule(_BINARY_TEXT)(n)


_SHAPES = [
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), (3, 1, 1)),
    ((2, 3, 4, 5), ()),
    ((2, 3, 4, 5), (2, 1, 4, 1)),
]
for _op in _BINARY_FLOAT:
    _samples = [Sample(s) for s in _SHAPES]
    if _op in ("Add", "Mul"):
        _samples += [Sample(((3, 1, 1), (2, 3, 4, 5)))]
    register(_op, binary, _BINARY_TEXT, _samples)
for _op in ("And", "Or", "Xor"):
    register(
        _op, binary, _BINARY_TEXT, [Sample(((2, 3, 4), (3, 1)), dtypes={0: "bool", 1: "bool"})]
    )
register("Mod", binary, _BINARY_TEXT, [Sample(((2, 3, 4), (3, 1)), {"fmod": 1})])
for _op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
    register(_op, binary, _BINARY_TEXT, [Sample(((2, 3), (3,)), dtypes={0: "int32", 1: "int32"})])
register(
    "BitShift",
    binary,
    _BINARY_TEXT,
    [Sample(((2, 3), (3,)), {"direction": "LEFT"}, dtypes={0: "uint8", 1: "uint8"})],
)
register(
    "Where",
    TextRule("*d, *d, *d -> *d"),
    "*d, *d, *d -> *d",
    [
        Sample(((2, 3, 4), (2, 3, 4), (2, 3, 4)), dtypes={0: "bool"}),
        Sample(((3, 1), (2, 3, 4), ()), dtypes={0: "bool"}),
    ],
)


def variadic(n: NodeView) -> None:
    """State what an element-wise operator of any number of operands does."""
    TextRule(", ".join(["*d"] * n.n_inputs) + " -> *d")(n)


for _op in ("Sum", "Max", "Min", "Mean"):
    register(
        _op,
        variadic,
        "*d, ... -> *d",
        [Sample(((2, 3, 4), (3, 1), (2, 3, 4))), Sample(((2, 3),)), Sample(((2, 3), ()))],
    )
