"""Protobuf messages brought to one form, so that equal models compare equal field by field."""

from __future__ import annotations

from typing import Any

import onnx

_UNORDERED = {"metadata_props", "value_info", "quantization_annotation", "external_data"}


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without what says nothing: empty strings and types, a zero model version.

    Maps and descriptions written as lists (metadata, value_info ...) are sorted; nothing else is
    reordered, and no field with content is touched.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not copy.model_version:
        copy.ClearField("model_version")
    _clean(copy)
    return copy


def _clean(message: Any) -> None:
    for field, value in message.ListFields():
        repeated = hasattr(value, "extend")
        if field.type == field.TYPE_STRING and not repeated:
            if value == "" and field.containing_oneof is None:
                message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for inner in value if repeated else [value]:
                _clean(inner)
            if field.name == "type" and value.ByteSize() == 0:
                message.ClearField("type")
            if field.name in _UNORDERED:
                held = sorted(inner.SerializeToString() for inner in value)
                del value[:]
                for data in held:
                    value.add().ParseFromString(data)
