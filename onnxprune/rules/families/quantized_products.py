"""Products of integers: QLinearConv, QLinearMatMul, QGemm, ConvInteger, MatMulInteger and kin.

Scales and zero points are operands like any other; those of an output channel go with it. Where an
operator quantises its own input, the largest number of the input sets the scale: a removed channel
must then be zero in the input, not only in the weight.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.families.contrib import MS
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView


def per(n: NodeView, index: int, factor: str) -> str:
    """Return the term of a scale or zero point: one number, or one for each ``factor``."""
    if not n.has(index):
        return "?"
    rank = n.rank(index)
    if rank == 0:
        return ""
    dims = n.dims(index) or []
    if all(d == 1 for d in dims):
        return " ".join(["1"] * rank)
    if rank != 1 or not factor:
        raise GiveUp(f"{n.op} with scales of rank {rank}")
    return factor


def _group(n: NodeView) -> dict[str, int]:
    return {"g": int(n.attr("group", 1))}


_CONV = "n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t"


def qlinear_conv(n: NodeView) -> None:
    """State what QLinearConv does."""
    n.quantised(0, 1, 2)
    n.quantised(3, 4, 5, axis=0)
    last = bool(n.attr("channels_last", 0))
    x, y = ("n *s (g i)", "n *t (g o)") if last else ("n (g i) *s", "n (g o) *t")
    terms = [x, per(n, 1, ""), per(n, 2, ""), "(g o) i *k", per(n, 4, "(g o)")]
    terms += [per(n, 5, "(g o)"), per(n, 6, ""), per(n, 7, ""), "(g o)?"]
    if n.has(7):
        n.typed_like(7)
    rule = TextRule(f"{', '.join(terms)} -> {y}", _group, weight=(3,), size_attrs={"group": "g"})
    rule(n)


def _scale_behind(n: NodeView) -> ir.Value | None:
    """Return the weight's scale, which integer products leave to a multiplication behind them.

    It is the constant factor of what the product is multiplied by; the other one is the scale that
    the input got at run time. Only scores depend on it: where it is not found, every output counts
    as scaled alike.
    """
    value = n.node.outputs[0]
    for _ in range(3):
        uses = list(value.uses())
        if len(uses) != 1:
            return None
        node, index = uses[0].node, uses[0].idx
        if node.op_type == "Mul":
            factor = node.inputs[1 - index]
            while factor is not None and not n.is_constant(factor):
                maker = factor.producer()
                if maker is None or maker.op_type not in ("Mul", "Reshape", "Unsqueeze"):
                    return None
                known = [v for v in maker.inputs if v is not None and n.is_constant(v)]
                factor = known[0] if maker.op_type == "Mul" and known else maker.inputs[0]
            return factor
        if node.op_type not in ("Cast", "Identity"):
            return None
        value = node.outputs[0]
    return None


def conv_integer(n: NodeView) -> None:
    """State what ConvInteger does."""
    n.quantised(0, None, 2)
    n.quantised(1, _scale_behind(n), 3, axis=0)
    terms = ["n (g i) *s", "(g o) i *k", per(n, 2, ""), per(n, 3, "(g o)")]
    TextRule(f"{', '.join(terms)} -> n (g o) *t", _group, weight=(1,), size_attrs={"group": "g"})(n)


def _matrices(n: NodeView, a: int, b: int) -> tuple[str, str, str]:
    """Return the terms of two stacks of matrices and of their product."""
    if n.rank(a) == 1 and n.rank(b) == 1:
        return "k", "k", ""
    if n.rank(a) == 1:
        return "k", "*b k n", "*b n"
    if n.rank(b) == 1:
        return "*b m k", "k", "*b m"
    return "*b m k", "*b k n", "*b m n"


def qlinear_matmul(n: NodeView) -> None:
    """State what QLinearMatMul does."""
    n.quantised(0, 1, 2, axis=n.rank(0) - 2)
    n.quantised(3, 4, 5, axis=n.rank(3) - 1)
    a, b, y = _matrices(n, 0, 3)
    terms = [a, per(n, 1, "m"), per(n, 2, "m"), b, per(n, 4, "n"), per(n, 5, "n")]
    terms += [per(n, 6, ""), per(n, 7, "")]
    TextRule(f"{', '.join(terms)} -> {y}", weight=(3, 0), heads=True)(n)


def matmul_integer(n: NodeView) -> None:
    """State what MatMulInteger does."""
    n.quantised(0, None, 2, axis=n.rank(0) - 2)
    n.quantised(1, _scale_behind(n), 3, axis=n.rank(1) - 1)
    a, b, y = _matrices(n, 0, 1)
    terms = [a, b, per(n, 2, "m"), per(n, 3, "n")]
    TextRule(f"{', '.join(terms)} -> {y}", weight=(1, 0), heads=True)(n)


def matmul_to_float(n: NodeView) -> None:
    """State what MatMulIntegerToFloat does."""
    n.quantised(0, 2, 4)
    n.quantised(1, 3, 5, axis=n.rank(1) - 1)
    n.typed_like(2)
    a, b, y = _matrices(n, 0, 1)
    terms = [a, b, per(n, 2, ""), per(n, 3, "n"), per(n, 4, ""), per(n, 5, "n"), "n?"]
    TextRule(f"{', '.join(terms)} -> {y}", weight=(1, 0))(n)


def dynamic_matmul(n: NodeView) -> None:
    """State what DynamicQuantizeMatMul does: its input gets a scale at run time."""
    n.quantised(1, 2, 3, axis=n.rank(1) - 1)
    a, b, y = _matrices(n, 0, 1)
    terms = [a, b, per(n, 2, "n"), per(n, 3, "n"), "n?"]
    TextRule(f"{', '.join(terms)} -> {y}", weight=(1,))(n)
    for axis in range(n.rank(0)):
        ids = n.ids(0, axis)
        if ids is not None:
            n.contract((0, axis, ids))


def qgemm(n: NodeView) -> None:
    """State what QGemm does."""
    turned = bool(n.attr("transB", 0))
    n.quantised(0, 1, 2)
    n.quantised(3, 4, 5, axis=0 if turned else 1)
    n.typed_like(8 if n.has(8) else 1)
    a = "k m" if n.attr("transA", 0) else "m k"
    b = "n k" if turned else "k n"
    c = "?" if not n.has(6) else ("", "n", "m n")[min(n.rank(6), 2)]
    terms = [a, per(n, 1, ""), per(n, 2, ""), b, per(n, 4, "n"), per(n, 5, "n"), c]
    terms += [per(n, 7, ""), per(n, 8, "")]
    TextRule(f"{', '.join(terms)} -> m n", weight=(3, 0))(n)


def _bytes(*shape: int, dtype: str = "uint8") -> list[int]:
    """Return a reproducible weight, row-major."""
    size = 1
    for n in shape:
        size *= n
    low = 128 if dtype == "int8" else 0
    return [(7 + 37 * i) % 251 - low for i in range(size)]


def _scales(count: int) -> list[float]:
    return [0.01 * (1 + i % 5) for i in range(count)]


_U = "uint8"
_QCONV = {0: _U, 2: _U, 3: "int8", 5: "int8", 7: _U, 8: "int32"}
_X = {1: 0.05, 2: 1, 6: 0.3, 7: 100}
for _domain, _opset in (("", 18), (MS, 1)):
    register(
        "QLinearConv",
        qlinear_conv,
        _CONV + ", scales and zero points of (g o)",
        [
            Sample(
                ((2, 6, 5, 5), (), (), (8, 6, 3, 3), (8,), (8,), (), (), (8,)),
                {"pads": [1, 1, 1, 1]},
                {**_X, 3: _bytes(8, 6, 3, 3, dtype="int8"), 4: _scales(8), 5: [0] * 8, 8: range(8)},
                dtypes=_QCONV,
                opset=_opset,
                result=(2, 8, 5, 5),
                result_dtype=_U,
            ),
            Sample(
                ((1, 6, 6, 6), (), (), (6, 1, 3, 3), (1,), (1,), (), ()),
                {"group": 6},
                {**_X, 3: _bytes(6, 1, 3, 3), 4: [0.02], 5: [120]},
                dtypes={**_QCONV, 3: _U, 5: _U},
                opset=_opset,
                result=(1, 6, 4, 4),
                result_dtype=_U,
            ),
            Sample(
                ((1, 8, 5, 5), (), (), (12, 2, 1, 1), (), (), (), ()),
                {"group": 4},
                {**_X, 3: _bytes(12, 2, 1, 1), 4: 0.02, 5: 120},
                dtypes={**_QCONV, 3: _U, 5: _U},
                opset=_opset,
                result=(1, 12, 5, 5),
                result_dtype=_U,
            ),
        ],
        domain=_domain,
    )
register(
    "ConvInteger",
    conv_integer,
    _CONV + ", zero points of (g o)",
    [
        Sample(
            ((2, 6, 5, 5), (8, 6, 3, 3), (), ()),
            {},
            {1: _bytes(8, 6, 3, 3), 2: 1, 3: 120},
            dtypes={0: _U, 1: _U, 2: _U, 3: _U},
        ),
        Sample(
            ((1, 6, 5, 5), (6, 1, 3, 3)),
            {"group": 6},
            {1: _bytes(6, 1, 3, 3)},
            dtypes={0: _U, 1: _U},
        ),
    ],
)
_MATMUL = "*b m k, *b k n -> *b m n, scales and zero points of n"
register(
    "QLinearMatMul",
    qlinear_matmul,
    _MATMUL,
    [
        Sample(
            ((3, 5), (), (), (5, 4), (4,), (4,), (), ()),
            {},
            {1: 0.05, 2: 1, 3: _bytes(5, 4, dtype="int8"), 4: _scales(4), 5: [0] * 4, 6: 0.3, 7: 9},
            dtypes={0: _U, 2: _U, 3: "int8", 5: "int8", 7: _U},
        ),
        Sample(
            ((2, 3, 5), (), (), (2, 5, 4), (), (), (), ()),
            {},
            {1: 0.05, 2: 1, 4: 0.1, 5: 2, 6: 0.3, 7: 9},
            dtypes={0: _U, 2: _U, 3: _U, 5: _U, 7: _U},
        ),
    ],
)
register(
    "MatMulInteger",
    matmul_integer,
    _MATMUL,
    [
        Sample(
            ((3, 5), (5, 4), (), (4,)),
            {},
            {1: _bytes(5, 4), 2: 1, 3: [120, 3, 7, 0]},
            dtypes={0: _U, 1: _U, 2: _U, 3: _U},
        ),
        Sample(((2, 3, 5), (2, 5, 4)), dtypes={0: _U, 1: _U}),
    ],
)
register(
    "MatMulIntegerToFloat",
    matmul_to_float,
    _MATMUL,
    [
        Sample(
            ((3, 5), (5, 4), (), (4,), (), (4,), (4,)),
            {},
            {1: _bytes(5, 4), 2: 0.05, 3: _scales(4), 4: 1, 5: [120, 3, 7, 0]},
            dtypes={0: _U, 1: _U, 4: _U, 5: _U},
            opset=1,
            result=(3, 4),
        ),
    ],
    domain=MS,
)
register(
    "DynamicQuantizeMatMul",
    dynamic_matmul,
    _MATMUL + "; the input is quantised by its range",
    [
        Sample(
            ((3, 5), (5, 4), (4,), (4,), (4,)),
            {},
            {1: _bytes(5, 4), 2: _scales(4), 3: [120, 3, 7, 0]},
            dtypes={1: _U, 3: _U},
            opset=1,
        ),
        Sample(
            ((2, 3, 5), (5, 4), ()),
            {},
            {1: _bytes(5, 4, dtype="int8"), 2: 0.1},
            dtypes={1: "int8"},
            opset=1,
        ),
    ],
    domain=MS,
)
_QGEMM = {0: _U, 2: _U, 3: "int8", 5: "int8", 6: "int32", 8: _U}
register(
    "QGemm",
    qgemm,
    "m k, k n, n? -> m n, after transA / transB; scales and zero points of n",
    [
        Sample(
            ((3, 5), (), (), (4, 5), (4,), (4,), (4,), (), ()),
            {"transB": 1},
            {
                **{1: 0.05, 2: 1, 7: 0.3, 8: 9, 6: range(4)},
                **{3: _bytes(4, 5, dtype="int8"), 4: _scales(4), 5: [0] * 4},
            },
            dtypes=_QGEMM,
            opset=1,
            result=(3, 4),
            result_dtype=_U,
        ),
        Sample(
            ((3, 5), (), (), (5, 4), (), ()),
            {},
            {1: 0.05, 2: 1, 3: _bytes(5, 4), 4: 0.1, 5: 120},
            dtypes={**_QGEMM, 3: _U, 5: _U},
            opset=1,
            result=(3, 4),
        ),
    ],
    domain=MS,
)
