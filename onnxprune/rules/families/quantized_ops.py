"""Everything of the QOperator format that is not a product (domain com.microsoft)."""

from __future__ import annotations

from onnxprune.rules.base import Dim, GiveUp, Sample, register
from onnxprune.rules.families.contrib import MS
from onnxprune.rules.families.index import join
from onnxprune.rules.families.mixing import mix
from onnxprune.rules.families.quantized_products import per
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView


def _terms(n: NodeView, operands: dict[int, str], result: str) -> None:
    """Apply a rule over ``operands``; every other input is a scale or zero point, one number."""
    terms = [operands.get(i) or per(n, i, "") for i in range(n.n_inputs)]
    TextRule(f"{', '.join(terms)} -> {result}")(n)


def unary(n: NodeView) -> None:
    """State what QLinearSigmoid and QLinearLeakyRelu do."""
    n.quantised(0, 1, 2)
    _terms(n, {0: "*d"}, "*d")


def binary(n: NodeView) -> None:
    """State what QLinearAdd and QLinearMul do."""
    n.quantised(0, 1, 2)
    n.quantised(3, 4, 5)
    _terms(n, {0: "*d", 3: "*d"}, "*d")


def where(n: NodeView) -> None:
    """State what QLinearWhere does."""
    n.quantised(1, 2, 3)
    n.quantised(4, 5, 6)
    n.typed_like(1)
    _terms(n, {0: "*d", 1: "*d", 4: "*d"}, "*d")


def concat(n: NodeView) -> None:
    """State what QLinearConcat does: inputs come with their scale and zero point."""
    parts = range(2, n.n_inputs, 3)
    for index in parts:
        n.quantised(index, index + 1, index + 2)
    n.typed_like(2)
    if n.out_dims() is None:
        known = [n.dims(i) for i in parts]
        first = known[0]
        if first is None or any(d is None or len(d) != len(first) for d in known):
            raise GiveUp("a rank that cannot be inferred")
        at = n.axis(int(n.attr("axis", 1)), len(first))
        sizes = [d[at] for d in known if d is not None]
        whole = sum(s for s in sizes if isinstance(s, int))
        joined = whole if all(isinstance(s, int) for s in sizes) else None
        n.learn(0, [joined if i == at else d for i, d in enumerate(first)])
    join(n, parts)


def pool(n: NodeView) -> None:
    """State what QLinearAveragePool and QLinearGlobalAveragePool do."""
    n.quantised(0, 1, 2)
    last = bool(n.attr("channels_last", 0))
    if n.out_dims() is None:
        dims = n.dims(0)
        if dims is None:
            raise GiveUp("a rank that cannot be inferred")
        places = range(1, len(dims) - 1) if last else range(2, len(dims))
        made = list(dims)
        for number, place in enumerate(places):
            made[place] = 1 if "Global" in n.op else _pooled(n, dims[place], number, len(places))
        n.learn(0, made)
    _terms(n, {0: "n *s c" if last else "n c *s"}, "n *t c" if last else "n c *t")


def _pooled(n: NodeView, size: Dim, place: int, places: int) -> Dim:
    """Return the size of a pooled axis, as AveragePool defines it."""
    if not isinstance(size, int):
        return None
    window = int(n.attr("kernel_shape")[place])
    stride = int(n.attr("strides", [1] * places)[place])
    auto = str(n.attr("auto_pad", "NOTSET") or "NOTSET")
    if auto.startswith("SAME"):
        return -(-size // stride)
    pads = n.attr("pads", [0] * (2 * places)) if auto == "NOTSET" else [0] * (2 * places)
    room = size + int(pads[place]) + int(pads[place + places]) - window
    return (-(-room // stride) if n.attr("ceil_mode", 0) else room // stride) + 1


def softmax(n: NodeView) -> None:
    """State what QLinearSoftmax does; ``opset`` says which Softmax it stands for."""
    n.quantised(0, 1, 2)
    rank = n.rank(0)
    new = int(n.attr("opset", 13)) >= 13
    axis = n.axis(int(n.attr("axis", -1 if new else 1)), rank)
    mix(n, range(axis, axis + 1 if new else rank), f"{n.op} mixes this axis")


_U = "uint8"
_ONE = {1: 0.05, 2: 1, 3: 0.04, 4: 2}
_TYPES = {0: _U, 2: _U, 4: _U}
_UNARY = "*d -> *d, one scale and zero point each"
for _op in ("QLinearSigmoid", "QLinearLeakyRelu"):
    register(
        _op,
        unary,
        _UNARY,
        [Sample(((2, 3, 4), (), (), (), ()), {}, _ONE, dtypes=_TYPES, opset=1)],
        domain=MS,
    )
_TWO = {1: 0.05, 2: 1, 4: 0.07, 5: 3, 6: 0.09, 7: 4}
_TYPES2 = {0: _U, 2: _U, 3: _U, 5: _U, 7: _U}
for _op in ("QLinearAdd", "QLinearMul"):
    register(
        _op,
        binary,
        "*d, *d -> *d, one scale and zero point each",
        [
            Sample(
                ((2, 3, 4), (), (), (2, 3, 4), (), (), (), ()), {}, _TWO, dtypes=_TYPES2, opset=1
            ),
            Sample(((2, 3, 4), (), (), (3, 1), (), (), (), ()), {}, _TWO, dtypes=_TYPES2, opset=1),
        ],
        domain=MS,
    )
register(
    "QLinearWhere",
    where,
    "*d, *d, *d -> *d, one scale and zero point each",
    [
        Sample(
            ((2, 3, 4), (2, 3, 4), (), (), (3, 1), (), (), (), ()),
            {},
            {2: 0.05, 3: 1, 5: 0.07, 6: 3, 7: 0.09, 8: 4},
            dtypes={0: "bool", 1: _U, 3: _U, 4: _U, 6: _U, 8: _U},
            opset=1,
        )
    ],
    domain=MS,
)
register(
    "QLinearConcat",
    concat,
    "coordinates one after the other along `axis`",
    [
        Sample(
            ((), (), (2, 3, 4), (), (), (2, 5, 4), (), ()),
            {"axis": 1},
            {0: 0.05, 1: 1, 3: 0.07, 4: 3, 6: 0.09, 7: 4},
            dtypes={1: _U, 2: _U, 4: _U, 5: _U, 7: _U},
            opset=1,
        )
    ],
    domain=MS,
)
register(
    "QLinearAveragePool",
    pool,
    "n c *s -> n c *t",
    [
        Sample(
            ((1, 3, 6, 6), (), (), (), ()),
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            _ONE,
            dtypes=_TYPES,
            opset=1,
        ),
        Sample(
            ((1, 3, 7, 6), (), (), (), ()),
            {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "ceil_mode": 1},
            _ONE,
            dtypes=_TYPES,
            opset=1,
        ),
    ],
    domain=MS,
)
register(
    "QLinearGlobalAveragePool",
    pool,
    "n c *s -> n c *t",
    [
        Sample(((2, 3, 6, 6), (), (), (), ()), {}, _ONE, dtypes=_TYPES, opset=1),
        Sample(((2, 6, 5, 3), (), (), (), ()), {"channels_last": 1}, _ONE, dtypes=_TYPES, opset=1),
    ],
    domain=MS,
)
register(
    "QLinearSoftmax",
    softmax,
    "*d -> *d, mixing `axis`",
    [
        Sample(
            ((2, 3, 4), (), (), (), ()),
            {"axis": -1, "opset": 13},
            _ONE,
            dtypes=_TYPES,
            opset=1,
        )
    ],
    domain=MS,
    exact="mixed axis held",
)
