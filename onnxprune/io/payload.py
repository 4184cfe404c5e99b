"""One tensor on its way to a file: its message, and its bytes wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.serde import TensorProtoTensor

from onnxprune.errors import SaveError
from onnxprune.io.infile import DerivedTensor, FileTensor


@dataclass
class Slot:
    """A tensor and where it goes.

    Attributes:
        tensor: the tensor.
        name: the name to write; empty for attributes, which keep the tensor's own.
        target: its message inside a larger one; None if it is streamed.
        moves: whether external data includes it as a matter of course.
        offset: its place in the sidecar in bytes, None while it is inside the model.
    """

    tensor: ir.TensorProtocol
    name: str
    target: onnx.TensorProto | None = None
    moves: bool = False
    offset: int | None = None

    def message(self, sidecar: str) -> tuple[onnx.TensorProto, bool]:
        """Return the tensor's message, and whether ``raw_data`` is still to be appended."""
        tensor = self.tensor
        if self.offset is None and isinstance(tensor, TensorProtoTensor):
            return self._verbatim(tensor.raw), False
        if self.offset is None and isinstance(tensor, FileTensor):
            return self._verbatim(tensor.template), True
        proto = onnx.TensorProto()
        if name := self.name or tensor.name:
            proto.name = name
        if tensor.doc_string:
            proto.doc_string = tensor.doc_string
        proto.data_type = tensor.dtype.value
        proto.dims.extend(int(d) for d in tensor.shape.numpy())
        _set_metadata(proto, dict(tensor.metadata_props))
        if self.offset is not None:
            proto.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": sidecar, "offset": self.offset, "length": tensor.nbytes}
            for key, value in place.items():
                proto.external_data.add(key=key, value=str(value))
            return proto, False
        if tensor.dtype == ir.DataType.STRING:
            strings = tensor if isinstance(tensor, ir.StringTensor) else tensor.numpy().reshape(-1)
            held = strings.string_data() if isinstance(strings, ir.StringTensor) else strings
            proto.string_data.extend(s.encode() if isinstance(s, str) else s for s in held)
            return proto, False
        return proto, True

    def _verbatim(self, held: onnx.TensorProto) -> onnx.TensorProto:
        """Return the message the tensor was read from, so that its fields stay as they were."""
        props = dict(self.tensor.metadata_props)
        name = self.name or self.tensor.name
        if (not name or held.name == name) and _metadata(held) == props:
            return held
        proto = onnx.TensorProto()
        proto.CopyFrom(held)
        if name:
            proto.name = name
        _set_metadata(proto, props)
        return proto

    def fill(self, sidecar: str) -> None:
        """Bring ``target`` up to date if onnx-ir's own rendering of the tensor does not do.

        It does not for external tensors, whose file is not ours to point at, for moved ones, for
        those in the model's file, and for those with metadata, which onnx-ir writes twice.
        """
        if self.target is None:
            return
        if self.offset is None and not (
            isinstance(self.tensor, (ir.ExternalTensor, FileTensor)) or self.tensor.metadata_props
        ):
            return
        self.render(self.target, sidecar)

    def render(self, target: onnx.TensorProto, sidecar: str = "") -> None:
        """Make ``target`` this tensor."""
        message, rest = self.message(sidecar)
        target.CopyFrom(message)
        if rest:
            target.raw_data = self.tensor.tobytes() if self.tensor.nbytes else b""


def _metadata(proto: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def _set_metadata(proto: onnx.TensorProto, props: dict[str, str]) -> None:
    del proto.metadata_props[:]
    for key in sorted(props):
        proto.metadata_props.add(key=key, value=props[key])


def _ahead(pieces: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator does, the next one made while the caller writes this one."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, pieces, None)
        while (piece := pending.result()) is not None:
            pending = pool.submit(next, pieces, None)
            yield piece


def copy_data(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Write the ``tensor.nbytes`` bytes of a tensor as ONNX stores them: little-endian, packed.

    External tensors are copied from file to file and never come into memory.

    Raises:
        SaveError: the tensor holds another number of bytes than its shape says.
    """
    if not tensor.nbytes:
        return
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(file)
        return
    if isinstance(tensor, DerivedTensor) and tensor.dtype.bitwidth % 8 == 0:
        for piece in _ahead(tensor.pieces()):
            if not piece.dtype.newbyteorder("<").isnative:
                piece = piece.astype(piece.dtype.newbyteorder("<"))
            file.write(piece.view(np.uint8).data)
        return
    array = tensor.numpy() if tensor.dtype.bitwidth % 8 == 0 else None
    if array is not None and array.flags.c_contiguous and array.dtype.newbyteorder("<").isnative:
        data = array.reshape(-1).view(np.uint8).data
    else:
        data = memoryview(tensor.tobytes())
    if data.nbytes != tensor.nbytes:
        raise SaveError(
            f"tensor {tensor.name!r} of shape {list(tensor.shape.numpy())} should have "
            f"{tensor.nbytes} bytes but holds {data.nbytes}"
        )
    file.write(data)
