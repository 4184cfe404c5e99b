"""Nothing is logged about shapes that no type goes with."""

from __future__ import annotations

import onnx.parser

from onnxprune import io


def test_a_shape_without_a_type_is_left_out_quietly(caplog):
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[2, 3] x) => (float[2, 3] y)
        {
            a = com.microsoft.QuickGelu (x)
            y = Relu (a)
        }
        """
    )
    held = io.load(model).model
    value = next(iter(held.graph)).outputs[0]
    value.type, value.shape = None, held.graph.inputs[0].shape
    written = io.to_proto(held)
    assert not caplog.records
    assert not any(v.type.tensor_type.HasField("shape") for v in written.graph.value_info)
