"""Recurrent layers: a hidden unit is its rows in every gate, its recurrent column, its state."""

from __future__ import annotations

from onnxprune.rules.base import GiveUp, KeptOf, Sample, register
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

    def patch(rw: Rewriter, kept: KeptOf) -> None:
        rw.set_attr("hidden_size", int(kept(hidden).sum()))

    n.on_rewrite(patch)


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
