"""Outputs that say nothing about themselves."""

from __future__ import annotations

import onnx
from graphs.net import Net
from prune_checks import interface, weights

import onnxprune.api as onnxprune


def test_an_output_without_a_type_keeps_none() -> None:
    """onnxruntime runs such files; inference may know the type, the file stays as it was."""
    net = Net("untyped", 17)
    x = net.op("MatMul", net.input((2, 4)), net.weight(net.normal(4, 6), "w"))
    y = net.op("MatMul", net.relu(x), net.weight(net.normal(6, 3), "v"))
    net.outputs.append(onnx.helper.make_empty_tensor_value_info(y))
    model = onnx.helper.make_model(
        net.graph(), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    for pattern in ("channel", "element"):
        result = onnxprune.prune(model, pattern, 0.5)
        assert interface(result.model) == interface(model)
        assert not result.model.graph.output[0].HasField("type")
    assert weights(onnxprune.prune(model, "channel", 0.5).model)["w"] == (4, 3)
