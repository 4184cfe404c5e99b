"""Multiply-accumulates where a model leaves sizes open."""

from __future__ import annotations

import onnx
import pytest
from graphs.net import Net
from onnx import TensorProto, helper

import onnxprune.api as onnxprune


def net(dims: tuple[object, ...]) -> onnx.ModelProto:
    build = Net("open")
    x = build.relu(build.conv(build.input((1, 3, 224, 224)), 3, 8, name="a"))
    x = build.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    build.output(build.conv(x, 8, 4, name="b"))
    model = build.model()
    shape = model.graph.input[0].type.tensor_type.shape
    shape.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, dims).tensor_type.shape)
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]
    return model


FULL = 224 * 224 * 8 * 3 * 9 + 112 * 112 * 4 * 8 * 9


@pytest.mark.parametrize(
    "dims",
    [
        (1, 3, 224, 224),
        ("batch", 3, "height", "width"),
        ("n", 3, None, None),
        (-1, 3, 224, 224),
        (-1, 3, -1, -1),
        ("batch_size", 3, 224, 224),
    ],
)
def test_open_sizes_count_as_one_usual_image(dims):
    model = net(dims)
    assert onnxprune.inspect(model)["macs"] == FULL
    for pattern in ("channel", "element"):
        assert onnxprune.prune(model, pattern, 0.5).report["macs"]["before"] == FULL


def test_tokens():
    build = Net("tokens")
    x = build.op("MatMul", build.input((1, 7, 16)), build.weight(build.normal(16, 32), "a"))
    build.output(build.op("MatMul", build.relu(x), build.weight(build.normal(32, 5), "b")))
    model = build.model()
    del model.graph.value_info[:]
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis, name in enumerate(("batch", "tokens")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    assert onnxprune.inspect(model)["macs"] == 128 * (16 * 32 + 32 * 5)
