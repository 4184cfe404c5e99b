"""The same model computed in float32, for types that onnxruntime's CPU provider has no kernels for.

Every value of a narrow type keeps its (rounded) weights but is computed with as float32. What two
such twins agree on, the models agree on up to the rounding that the narrow type adds between
operators, which is the same for both.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune import io
from onnxprune.io import walk

NARROW = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def narrow_types(model: ir.Model) -> list[str]:
    """Return the names of the narrow types a model computes in."""
    found = set()
    for _, graph in walk.ir_graphs(model):
        for value in walk.graph_values(graph):
            dtype = value.dtype if value.const_value is None else value.const_value.dtype
            if dtype in NARROW:
                found.add(dtype.name.lower())
    return sorted(found)


def widened(model: ir.Model) -> ir.Model:
    """Return a copy of ``model`` that computes in float32 where it had a narrow type."""
    return _widen(io.load(model).model)


def widened_proto(model: onnx.ModelProto) -> onnx.ModelProto:
    """:func:`widened` of a model in which a narrow type may be nowhere: then it is returned."""
    twin = ir.from_proto(model)
    if not narrow_types(twin):
        return model
    made: onnx.ModelProto = ir.to_proto(_widen(twin))
    return made


def _widen(twin: ir.Model) -> ir.Model:
    for _, graph in walk.ir_graphs(twin):
        for value in walk.graph_values(graph):
            if value.const_value is not None:
                value.const_value = _wide(value.const_value)
            if isinstance(value.type, ir.TensorType) and value.type.dtype in NARROW:
                value.type = ir.TensorType(ir.DataType.FLOAT)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR:
                    tensor = _wide(attribute.as_tensor())
                    node.attributes[name] = ir.AttrTensor(name, tensor)
                elif name in _TYPE_ATTRIBUTES and attribute.value in [t.value for t in NARROW]:
                    node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
    return twin


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in NARROW:
        return tensor
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(partial(_made, tensor), ir.DataType.FLOAT, shape, name=tensor.name)


def _made(tensor: ir.TensorProtocol) -> ir.Tensor[Any]:
    return ir.Tensor(np.asarray(tensor.numpy()).astype(np.float32), name=tensor.name)


def wide_feed(array: Any) -> Any:
    """Return an input as the widened model takes it."""
    held = np.asarray(array)
    return held.astype(np.float32) if str(held.dtype) in ("bfloat16", "float16") else held
