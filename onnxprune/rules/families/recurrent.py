"""Recurrent layers: a hidden unit is its rows in every gate, its recurrent column, its state."""

from __future__ import annotations

from onnxprune.rules.base import Contraction, GiveUp, KeptOf, Sample, register
from onnxprune.rules.families.contrib import MS
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_TEXT = (
    "t b i, e (q h) i, e (q h) h, e (w h)?, b?, e b h?, e b h?, e (p h)? -> t e b h, e b h, e b h"
)
_BATCH = (
    "b t i, e (q h) i, e (q h) h, e (w h)?, b?, b e h?, b e h?, e (p h)? -> b t e h, b e h, b e h"
)


def recurrent(n: NodeView) -> None:
    """State what LSTM, GRU and RNN do."""
    gates = GATES[n.op]
    if not n.has(2) or not n.is_weight(2) or not n.is_weight(1):
        raise GiveUp("recurrent weights that are not constant")
    text = _BATCH if n.attr("layout", 0) else _TEXT
    left, right = text.split(" -> ")
    outputs = right.split(", ")[: 3 if n.op == "LSTM" else 2]
    operands = left.split(", ")[: 8 if n.op == "LSTM" else 6]
    rule = TextRule(
        ", ".join(operands) + " -> " + ", ".join(outputs),
        lambda _: {"q": gates, "w": 2 * gates, "p": 3},
        mixed=("q", "w", "p"),
        keep=("e", "t"),  # time is not ours: every step feeds the next
    )
    rule(n)
    hidden = n.ids(2, 2)
    if hidden is None:
        raise GiveUp("recurrent weights of unknown size")
    n.contract((2, 2, hidden))
    n.produces(1, 1)
    n.space.mark(hidden, "recurrent")
    weighs(n, (1, 2), gates, 2)

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        rw.set_attr("hidden_size", int(kept(hidden).sum()))

    n.on_rewrite(patch)


def weighs(n: NodeView, weights: tuple[int, int], gates: int, inputs: int) -> None:
    """Record what the input's and the state's products cost, and how their weights lie.

    Args:
        n: the node.
        weights: the two weights, [directions, gates * units, inputs] in this order or with the
            last two axes exchanged.
        gates: number of gates.
        inputs: which axis of a weight is multiplied.
    """
    steps = [n.ids(0, axis) for axis in (0, 1)]
    for index in weights:
        dims = n.dims(index) or []
        if len(dims) != 3 or not all(isinstance(d, int) for d in dims):
            continue
        sizes = [d for d in dims if isinstance(d, int)]
        roles: list[tuple[tuple[str, int], ...]] = [(("g", sizes[0]),), (), ()]
        roles[inputs] = (("i", sizes[inputs]),)
        roles[3 - inputs] = (("o", gates), ("o", sizes[3 - inputs] // gates))
        macs = [*steps, *(n.ids(index, axis) for axis in range(3))]
        n.contraction(
            Contraction(
                n.node,
                index if n.is_weight(index) else None,
                tuple(roles),
                tuple(1 if ids is None else ids for ids in macs),
            )
        )


def dynamic_lstm(n: NodeView) -> None:
    """State what DynamicQuantizeLSTM does: it quantises its state by its range, so units stay."""
    left, right = _TEXT.split(" -> ")
    operands = ["t b i", "e i (q h)", "e h (q h)", *left.split(", ")[3:8]]
    for weight, scale, zero in ((1, 8, 9), (2, 10, 11)):
        n.quantised(weight, scale, zero, axis=(0, 2))
        dims = n.dims(scale) or []
        operands += ["e (q h)" if len(dims) == 2 else "e"] * (2 if n.has(zero) else 1)
    if n.attr("direction", "forward") != "bidirectional":
        # One scale for the one direction, or one a gate and unit of it.
        operands = [
            "(q h)" if t == "e" and (n.dims(i) or [1])[0] != 1 else t
            for i, t in enumerate(operands)
        ]
    TextRule(
        ", ".join(operands) + " -> " + right,
        lambda _: {"q": 4, "w": 8, "p": 3},
        mixed=("q", "w", "p", "h"),
        keep=("e", "t", "b"),
    )(n)
    for axis in range(3):
        ids = n.ids(0, axis)
        if ids is not None:
            n.contract((0, axis, ids))
    weighs(n, (1, 2), 4, 1)


_H: dict[str, int] = {"hidden_size": 4}
_WEIGHTS = {1: "rand", 2: "rand", 3: "rand"}
register(
    "LSTM",
    recurrent,
    _TEXT,
    [
        Sample(((5, 2, 3), (1, 16, 3), (1, 16, 4), (1, 32)), _H, _WEIGHTS, opset=14, outputs=3),
        Sample(
            ((5, 2, 3), (2, 16, 3), (2, 16, 4), (2, 32), None, (2, 2, 4), (2, 2, 4), (2, 12)),
            {**_H, "direction": "bidirectional"},
            {**_WEIGHTS, 7: "rand"},
            opset=14,
            outputs=3,
        ),
    ],
)
register(
    "GRU",
    recurrent,
    _TEXT,
    [
        Sample(
            ((5, 2, 3), (1, 12, 3), (1, 12, 4), (1, 24), None, (1, 2, 4)),
            {**_H, "linear_before_reset": 1},
            _WEIGHTS,
            opset=14,
            outputs=2,
        ),
        Sample(
            ((5, 2, 3), (2, 12, 3), (2, 12, 4)),
            {**_H, "direction": "bidirectional"},
            {1: "rand", 2: "rand"},
            opset=14,
            outputs=2,
        ),
    ],
)
register(
    "RNN",
    recurrent,
    _TEXT,
    [Sample(((5, 2, 3), (1, 4, 3), (1, 4, 4), (1, 8)), _H, _WEIGHTS, opset=14, outputs=2)],
)
register(
    "DynamicQuantizeLSTM",
    dynamic_lstm,
    _TEXT.replace("e (q h) i, e (q h) h", "e i (q h), e h (q h)"),
    [
        Sample(
            (
                *((5, 2, 3), (1, 3, 16), (1, 4, 16), (1, 32), None, None, None, None),
                *((1, 16), (1, 16), (1, 16), (1, 16)),
            ),
            _H,
            {
                1: [(3 * i) % 23 - 11 for i in range(48)],
                2: [(5 * i) % 19 - 9 for i in range(64)],
                3: "rand",
                8: [0.01 * (1 + i % 3) for i in range(16)],
                9: [0] * 16,
                10: [0.01 * (1 + i % 4) for i in range(16)],
                11: [0] * 16,
            },
            opset=1,
            outputs=3,
            dtypes={1: "int8", 2: "int8", 9: "int8", 11: "int8"},
        ),
        Sample(
            (
                *((5, 2, 3), (1, 3, 16), (1, 4, 16), None, None, None, None, None),
                *((1,), (1,), (1,), (1,)),
            ),
            _H,
            {
                1: [(3 * i) % 23 for i in range(48)],
                2: [(5 * i) % 19 for i in range(64)],
                8: [0.02],
                9: [11],
                10: [0.02],
                11: [9],
            },
            opset=1,
            outputs=3,
            dtypes={1: "uint8", 2: "uint8", 9: "uint8", 11: "uint8"},
        ),
    ],
    domain=MS,
    exact="units of the state frozen",
)
