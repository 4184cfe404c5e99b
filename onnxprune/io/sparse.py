"""ONNX sparse tensors: dense while onnxprune works on them, sparse again in the file.

Layout (ONNX IR specification, "Sparse tensors"): ``values`` holds the nnz non-zero elements;
``indices`` is either int64[nnz], linear row-major positions, or int64[nnz, rank], coordinates;
both are sorted ascending (coordinates lexicographically) and hold no position twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.serde import TensorProtoTensor

from onnxprune.errors import LoadError, UnsupportedError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SparseForm:
    """How a tensor was sparse in the file.

    Attributes:
        proto: the serialized SparseTensorProto, with its data inside.
        name: the name of ``values``; empty for most Constant nodes.
        linear: whether ``indices`` is one-dimensional.
        dense: the dense tensor made of it; while a value still holds this very object it is
            unmodified, and ``proto`` is written back byte for byte.
    """

    proto: bytes
    name: str
    linear: bool
    dense: ir.TensorProtocol


def decode(proto: onnx.SparseTensorProto, label: str, base_dir: str) -> SparseForm:
    """Return the dense tensor of a sparse one, with the memory of how it was sparse.

    Args:
        proto: the sparse tensor; ``values`` and ``indices`` may be external.
        label: what to call it in messages.
        base_dir: folder of the external data.

    Raises:
        LoadError: indices outside the shape, repeated, or not matching the values.
        UnsupportedError: string values, or a dense size that does not fit in memory.
    """
    if proto.values.data_type == onnx.TensorProto.STRING:
        raise UnsupportedError(
            f"sparse tensor {label!r} holds strings; store it densely, then try again"
        )
    dims = tuple(proto.dims)
    _inline(proto.values, base_dir)
    _inline(proto.indices, base_dir)
    values = TensorProtoTensor(proto.values)
    positions, linear = _positions(proto, label, dims)
    try:
        dense = np.zeros(dims, dtype=values.dtype.numpy())
    except (MemoryError, ValueError) as error:
        raise UnsupportedError(
            f"sparse tensor {label!r} of shape {list(dims)} is too large to handle densely"
        ) from error
    dense.reshape(-1)[positions] = values.numpy().reshape(-1)
    dense.flags.writeable = False  # a change must make a new tensor, or encode() would miss it
    tensor = ir.Tensor(
        dense, dtype=values.dtype, name=proto.values.name, doc_string=proto.values.doc_string
    )
    return SparseForm(proto.SerializeToString(), proto.values.name, linear, tensor)


def _positions(
    proto: onnx.SparseTensorProto, label: str, dims: tuple[int, ...]
) -> tuple[Array, bool]:
    """Return linear int64[nnz] positions and whether the file's indices were linear."""
    if any(d < 0 for d in dims):
        raise LoadError(f"sparse tensor {label!r} declares a negative size: {list(dims)}")
    indices = TensorProtoTensor(proto.indices).numpy().astype(np.int64)
    nnz = math.prod(proto.values.dims)
    size = math.prod(dims)
    linear = indices.ndim == 1
    if linear:
        positions = indices
    elif indices.ndim == 2 and indices.shape[1] == len(dims):
        if indices.size and ((indices < 0) | (indices >= np.array(dims))).any():
            raise LoadError(f"sparse tensor {label!r} has an index outside {list(dims)}")
        strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
        positions = indices @ np.array(strides, dtype=np.int64)
    else:
        raise LoadError(
            f"sparse tensor {label!r} has indices of shape {list(indices.shape)}; "
            f"[nnz] or [nnz, {len(dims)}] was expected"
        )
    if len(positions) != nnz:
        raise LoadError(f"sparse tensor {label!r} has {nnz} values but {len(positions)} indices")
    if nnz and (positions.min() < 0 or positions.max() >= size):
        raise LoadError(f"sparse tensor {label!r} has an index outside {list(dims)}")
    if len(np.unique(positions)) != nnz:
        raise LoadError(f"sparse tensor {label!r} names a position twice")
    return positions, linear


def _inline(tensor: onnx.TensorProto, base_dir: str) -> None:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    held = ir.serde.deserialize_tensor(tensor, base_dir)
    tensor.raw_data = held.tobytes()
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def encode(tensor: ir.TensorProtocol, form: SparseForm, name: str) -> onnx.SparseTensorProto:
    """Return ``tensor`` as the file held it: verbatim if untouched, else its current non-zeros.

    Args:
        tensor: dense tensor, any shape and dtype but string.
        form: what :func:`decode` remembered; decides linear or coordinate indices.
        name: name of the initializer; empty for the value of a Constant node.
    """
    proto = onnx.SparseTensorProto.FromString(form.proto)
    if tensor is not form.dense:
        array = tensor.numpy()
        # Compare bit patterns as numbers: -0.0 counts as zero, NaN does not.
        positions = np.flatnonzero(array != np.zeros((), dtype=array.dtype))
        kept = ir.Tensor(array.reshape(-1)[positions], dtype=tensor.dtype, name=name)
        del proto.dims[:]
        proto.dims.extend(array.shape)
        _replace(proto.values, kept)
        indices = positions if form.linear else np.argwhere(array != np.zeros((), array.dtype))
        _replace(proto.indices, ir.Tensor(indices.astype(np.int64), name=proto.indices.name))
    if name:
        proto.values.name = name
    return proto


def _replace(target: onnx.TensorProto, tensor: ir.TensorProtocol) -> None:
    doc = target.doc_string
    target.Clear()
    target.CopyFrom(ir.serde.serialize_tensor(tensor))
    if doc:
        target.doc_string = doc
