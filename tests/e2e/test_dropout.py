"""Dropout that draws: what is drawn depends on the place, so nothing before it may go."""

from __future__ import annotations

import numpy as np
import pytest
from graphs.net import Net
from onnx import TensorProto

import onnxprune


@pytest.mark.parametrize("known", [True, False])
def test_dropout_in_training_holds_its_axes(known: bool) -> None:
    net = Net("training", 17)
    x = net.op("MatMul", net.input((2, 4)), net.weight(net.normal(4, 8), "w"))
    flag = net.weight(np.array(True)) if known else net.input((), "training", TensorProto.BOOL)
    x = net.op("Dropout", x, net.scalar(0.5), flag, seed=1)
    net.output(net.op("MatMul", x, net.weight(net.normal(8, 3), "v")), (2, 3))
    report = onnxprune.prune(net.model(), "channel", 0.5, proof=False).report
    assert report["params"]["after"] == report["params"]["before"]
    assert any("training" in row["why"] for row in report["frozen"])
