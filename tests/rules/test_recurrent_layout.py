"""Recurrent layers with the batch first, which onnxruntime does not run: judged by onnx's own."""

from __future__ import annotations

import pytest
from test_laws import build, check

from onnxprune.rules.base import Sample

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("op", sorted(GATES))
def test_batch_first(op):
    from onnx.reference import ReferenceEvaluator

    g = 4 * GATES[op]
    sample = Sample(
        ((2, 5, 3), (1, g, 3), (1, g, 4), (1, 2 * g)),
        {"hidden_size": 4, "layout": 1},
        {1: "rand", 2: "rand", 3: "rand"},
        opset=14,
        outputs=3 if op == "LSTM" else 2,
    )
    proto = build(op, "", sample)
    check(proto, lambda model, feeds: ReferenceEvaluator(model).run(None, feeds))
