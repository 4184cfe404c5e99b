"""Declared shapes that the graph contradicts: onnxruntime runs such files, so they are pruned."""

from __future__ import annotations

import onnx
import pytest
from graphs.feeds import random_feeds
from graphs.net import Net
from onnx import TensorProto, helper
from prune_checks import run, weights

import onnxprune.api as onnxprune


def _chain() -> tuple[onnx.ModelProto, str]:
    net = Net("contradicted")
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    x = net.relu(net.conv(x, 8, 12, name="mid"))
    net.head(x, 12)
    return net.model(), x


def _scalar_output(model: onnx.ModelProto, inner: str) -> None:
    del model.graph.output[0].type.tensor_type.shape.dim[:]


def _half_the_channels(model: onnx.ModelProto, inner: str) -> None:
    wrong = helper.make_tensor_value_info(inner, TensorProto.FLOAT, [1, 6, 8, 8])
    model.graph.value_info.append(wrong)


def _another_rank(model: onnx.ModelProto, inner: str) -> None:
    wrong = helper.make_tensor_value_info(inner, TensorProto.FLOAT, [12])
    model.graph.value_info.append(wrong)


@pytest.mark.parametrize("spoil", [_scalar_output, _half_the_channels, _another_rank])
@pytest.mark.parametrize("pattern", ["channel", "2:4"])
def test_inference_beats_what_the_file_declares(spoil, pattern: str) -> None:
    model, inner = _chain()
    sparsity = 0.5 if pattern == "channel" else None
    expected = onnxprune.prune(model, pattern, sparsity)
    spoil(model, inner)
    result = onnxprune.prune(model, pattern, sparsity)
    assert weights(result.model) == weights(expected.model)
    assert result.report["proof"]["passed"]
    run(result.model, random_feeds(model))
