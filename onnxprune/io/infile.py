"""Tensors that stay in the model file and are mapped into memory only while somebody reads them."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.serde import TensorProtoTensor, deserialize_metadata_props

from onnxprune.errors import LoadError
from onnxprune.io import walk
from onnxprune.io.skim import MalformedError, Skimmed, Span, skim

SMALL_FILE = 1 << 23
"""Bytes below which a file is simply read."""

LARGE = 1 << 16
"""Bytes from which the data of a tensor stays in a larger file."""


PIECE = 1 << 20
"""Values that a derived tensor computes at a time; a multiple of 8."""

Piece = Callable[[int, npt.NDArray[Any]], npt.NDArray[Any]]


class ModelFile:
    """An open model file.

    The file stays the one that was opened, also after it was renamed, deleted or replaced by
    another; only a change of its content is noticed, and refused.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``; raises OSError."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)
        self._stamp = self._now()

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._stamp[0]

    def whole(self) -> mmap.mmap:
        """Map the file; close the result after use."""
        return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def map(self, span: Span) -> npt.NDArray[np.uint8]:
        """Return uint8[span.length], read-only; unmapped once the last view of it is gone.

        Raises:
            LoadError: the file is no longer what it was.
        """
        if self._now() != self._stamp:
            raise LoadError(f"{self.path} was changed while its weights were in use; load it again")
        start = span.offset - span.offset % mmap.ALLOCATIONGRANULARITY
        skip = span.offset - start
        held = mmap.mmap(
            self._descriptor, skip + span.length, access=mmap.ACCESS_READ, offset=start
        )
        return np.frombuffer(held, np.uint8, span.length, skip)

    def read(self, span: Span) -> bytes:
        """Return a copy of some bytes."""
        return self.map(span).tobytes()


class FileTensor(ir.LazyTensor):
    """A tensor whose data lies in the model file.

    Attributes:
        template: the message it was read from, without its data.
    """

    __slots__ = ("template",)

    def __init__(self, file: ModelFile, span: Span, template: onnx.TensorProto) -> None:
        """Describe the tensor; nothing is read yet."""
        dtype = ir.DataType(template.data_type)
        shape = ir.Shape(template.dims, frozen=True)
        super().__init__(
            partial(_read, file, span, dtype, shape),
            dtype,
            shape,
            name=template.name,
            doc_string=template.doc_string,
            metadata_props=deserialize_metadata_props(template.metadata_props),
        )
        self.template = template


def _read(file: ModelFile, span: Span, dtype: ir.DataType, shape: ir.Shape) -> ir.Tensor[Any]:
    stored = np.dtype(dtype.numpy()).newbyteorder("<")
    array = file.map(span).view(stored).reshape(shape.numpy())
    return ir.Tensor(array, dtype=dtype, shape=shape)


class DerivedTensor(ir.LazyTensor):
    """A tensor whose values are computed from another's each time they are read.

    Attributes:
        source: the other tensor, of the same type and shape.
        piece: what makes a run of flat values, from where it starts and the source's values.
        zeros: how many values are zero, None if nobody counted.
    """

    __slots__ = ("piece", "source", "zeros")

    def __init__(self, source: ir.TensorProtocol, piece: Piece, zeros: int | None = None) -> None:
        """Describe the tensor; nothing is computed yet."""
        self.source = source
        self.piece = piece
        self.zeros = zeros
        super().__init__(
            self._made, source.dtype, ir.Shape(source.shape.numpy()), name=source.name, cache=False
        )

    def _made(self) -> ir.Tensor[Any]:
        array = np.empty(tuple(self.source.shape.numpy()), self.source.dtype.numpy())
        flat, start = array.reshape(-1), 0
        for values in self.pieces():
            flat[start : start + values.size] = values
            start += values.size
        return ir.Tensor(array, dtype=self.source.dtype, name=self.source.name)

    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the flat values in runs of a few megabytes at most."""
        flat = np.asarray(self.source.numpy()).reshape(-1)
        for start in range(0, flat.size, PIECE):
            yield self.piece(start, flat[start : start + PIECE])


def stays_out(tensor: ir.TensorProtocol) -> bool:
    """Return whether a tensor's data is in a file and only mapped while it is read."""
    return isinstance(tensor, (FileTensor, ir.ExternalTensor, DerivedTensor))


def derived(
    tensor: ir.TensorProtocol, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> ir.TensorProtocol:
    """Return a tensor of the same name, type and shape with the values that ``change`` makes.

    They are computed now, or, where ``tensor`` stays in a file, each time they are read, so that
    nobody holds them in memory.

    Args:
        tensor: any tensor but strings.
        change: gets an array it must not write to, returns a new one; the same on every call.
    """

    def made() -> ir.Tensor[Any]:
        array = change(np.asarray(tensor.numpy()))
        return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)

    if stays_out(tensor):
        return ir.LazyTensor(made, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name)
    return made()


class Far:
    """The data of one model that was left in its file."""

    def __init__(self, file: ModelFile, spans: Mapping[bytes, Span]) -> None:
        """Take over the tokens of a skimmed model."""
        self.file = file
        self.spans = dict(spans)

    def length(self, raw: bytes) -> int:
        """Return how many bytes ``raw_data`` holds, or stands for."""
        span = self.spans.get(raw)
        return len(raw) if span is None else span.length

    def fetch(self, model: onnx.ModelProto) -> None:
        """Put data back that cannot be used from where it is: strings, types of odd width.

        Raises:
            MalformedError: the parsed model does not hold each token once.
        """
        left = dict(self.spans)
        for _, tensor in walk.proto_tensors(model):
            span = left.pop(tensor.raw_data, None) if _is_token(tensor) else None
            if span is not None and not _mappable(tensor.data_type):
                del self.spans[tensor.raw_data]
                tensor.raw_data = self.file.read(span)
        if left:
            raise MalformedError("data that no tensor of the model holds")

    def attach(self, model: ir.Model) -> None:
        """Give ``model`` the tensors that its tokens stand for.

        Raises:
            MalformedError: it does not hold each token once.
        """
        left = dict(self.spans)

        def far(tensor: Any) -> FileTensor | None:
            if not isinstance(tensor, TensorProtoTensor) or not _is_token(tensor.raw):
                return None
            span = left.pop(tensor.raw.raw_data, None)
            if span is None:
                return None
            template = onnx.TensorProto()
            template.CopyFrom(tensor.raw)
            template.ClearField("raw_data")
            return FileTensor(self.file, span, template)

        for _, graph in walk.ir_graphs(model):
            for value in graph.initializers.values():
                value.const_value = far(value.const_value) or value.const_value
            for node in graph:
                for attribute in list(node.attributes.values()):
                    held = walk.attribute_tensors(attribute)
                    found = [far(tensor) or tensor for tensor in held]
                    if any(a is not b for a, b in zip(found, held, strict=True)):
                        node.attributes.add(_with_tensors(attribute, found))
        if left:
            raise MalformedError("data that no tensor of the model holds")


def _is_token(tensor: onnx.TensorProto) -> bool:
    # Small enough to look at without copying data about.
    return bool(tensor.HasField("raw_data") and tensor.ByteSize() < 1 << 16)


def _mappable(data_type: int) -> bool:
    known = {t.value: t for t in ir.DataType}
    dtype = known.get(data_type, ir.DataType.UNDEFINED)
    if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return False
    return bool(dtype.bitwidth % 8 == 0)


def _with_tensors(attribute: ir.Attr, tensors: list[Any]) -> ir.Attr:
    value = tensors[0] if attribute.type == ir.AttributeType.TENSOR else tensors
    return ir.Attr(attribute.name, attribute.type, value, doc_string=attribute.doc_string)


def open_far(path: Path) -> tuple[Skimmed, Far] | None:
    """Return a large model file without its weights, and where they are.

    Returns:
        None when it is small, or is better parsed whole: that will say what is wrong with it.
    """
    try:
        file = ModelFile(path)
        if file.size < max(SMALL_FILE, 1):
            return None
        with file.whole() as data:
            skimmed = skim(data, LARGE)
    except (OSError, ValueError):
        return None
    return (skimmed, Far(file, skimmed.spans)) if skimmed.spans else None
