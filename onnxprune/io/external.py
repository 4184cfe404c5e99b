"""External data: checked when a model is read, before anything maps it into memory.

ONNX IR specification, "External Data Representation": ``location`` is a path relative to the
folder of the model, ``offset`` and ``length`` are in bytes.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxprune.errors import LoadError, UnsupportedError
from onnxprune.io import walk
from onnxprune.io.infile import Far

_TYPED_FIELD = {
    onnx.TensorProto.FLOAT: ("float_data", 1),
    onnx.TensorProto.COMPLEX64: ("float_data", 2),
    onnx.TensorProto.DOUBLE: ("double_data", 1),
    onnx.TensorProto.COMPLEX128: ("double_data", 2),
    onnx.TensorProto.INT64: ("int64_data", 1),
    onnx.TensorProto.UINT32: ("uint64_data", 1),
    onnx.TensorProto.UINT64: ("uint64_data", 1),
    onnx.TensorProto.STRING: ("string_data", 1),
}
_TYPES = {t.value for t in ir.DataType}


def check_tensors(
    model: onnx.ModelProto, label: str, base_dir: Path | None, far: Far | None = None
) -> tuple[Path, ...]:
    """Check that every tensor holds, or points at, as many bytes as its shape needs.

    Args:
        model: the model as parsed.
        label: what to call it in messages.
        base_dir: folder that external locations are relative to; None if there is none.
        far: the data that was left in the model's own file.

    Returns:
        The external data files, absolute, each once, in order of first use.

    Raises:
        LoadError: a tensor whose data is missing, too short, too long, or outside ``base_dir``;
            the message names the tensor and the file.
        UnsupportedError: a data type the installed onnx-ir does not know, or a segmented tensor.
    """
    files: dict[str, tuple[Path, int]] = {}
    for name, tensor in walk.proto_tensors(model):
        needed = _needed_bytes(name, tensor, label)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(name, tensor, needed, label, base_dir, files)
        else:
            _check_inside(name, tensor, needed, label, far)
    return tuple(path for path, _ in files.values())


def _needed_bytes(name: str, tensor: onnx.TensorProto, label: str) -> int:
    if tensor.data_type not in _TYPES:
        raise UnsupportedError(
            f"{label}: tensor {name!r} has data type {tensor.data_type}, which the installed "
            "onnx-ir does not know; upgrade onnx-ir"
        )
    if tensor.HasField("segment"):
        raise UnsupportedError(
            f"{label}: tensor {name!r} is stored in segments, which no onnx release reads; "
            "store it in one piece"
        )
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise LoadError(f"{label}: tensor {name!r} states no data type; the file is damaged")
    if any(d < 0 for d in tensor.dims):
        raise LoadError(f"{label}: tensor {name!r} has a negative size: {list(tensor.dims)}")
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    bits: int = ir.DataType(tensor.data_type).bitwidth
    elements: int = math.prod(tensor.dims)
    return -(-elements * bits // 8)


def _check_inside(
    name: str, tensor: onnx.TensorProto, needed: int, label: str, far: Far | None
) -> None:
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        held, unit = len(raw) if far is None else far.length(raw), "bytes"
    else:
        field, each = _TYPED_FIELD.get(tensor.data_type, ("int32_data", 1))
        held, unit, needed = len(getattr(tensor, field)), "elements", elements * each
        bits = ir.DataType(tensor.data_type).bitwidth if field == "int32_data" else 8
        if bits < 8 and held != needed:  # packed: one byte of elements in each int32
            needed = -(-elements * bits // 8)
    if held != needed:
        raise LoadError(
            f"{label}: tensor {name!r} of shape {list(tensor.dims)} needs {needed} {unit} of data "
            f"but holds {held}; the file is damaged, export or download it again"
        )


def _check_external(
    name: str,
    tensor: onnx.TensorProto,
    needed: int,
    label: str,
    base_dir: Path | None,
    files: dict[str, tuple[Path, int]],
) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"{label}: tensor {name!r} lies in external data file {location!r}"
    if tensor.data_type == onnx.TensorProto.STRING:
        raise LoadError(f"{where}, but strings cannot be external; store it inside the model")
    if not location:
        raise LoadError(f"{label}: tensor {name!r} is external but names no file")
    if base_dir is None:
        raise LoadError(
            f"{where}, and a model from memory has no folder to look in; pass base_dir=, or load "
            "the model by its path"
        )
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except ValueError:
        raise LoadError(f"{where} at an offset or length that is no number") from None
    if offset < 0 or length != needed:
        raise LoadError(
            f"{where} at offset {offset} with {length} bytes, but shape {list(tensor.dims)} "
            f"needs {needed}"
        )
    if location not in files:
        files[location] = _resolve(location, base_dir, where)
    path, size = files[location]
    if offset + length > size:
        raise LoadError(
            f"{where}, bytes {offset} to {offset + length}, but {path} has only {size}; it is cut "
            "off or belongs to another model, get both files again"
        )


def _resolve(location: str, base_dir: Path, where: str) -> tuple[Path, int]:
    """Return the absolute path and size of an external file that lies inside ``base_dir``."""
    plain = base_dir / location
    try:
        real = plain.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, loop of links
        raise LoadError(f"{where}, which is not a usable path: {error}") from None
    if Path(location).is_absolute() or os.path.normpath(location).startswith(".."):
        raise LoadError(
            f"{where}, which is outside the model's folder {base_dir}; a model may only read "
            "files beside it, so move the file there and correct the location"
        )
    if not real.is_relative_to(base_dir.resolve()):
        raise LoadError(
            f"{where}, a link to {real} outside the model's folder; copy the model and its data "
            "into one folder without links (cp -L)"
        )
    try:
        status = real.stat()
    except OSError as error:
        raise LoadError(
            f"{where}, but {plain} cannot be opened: {error.strerror}; put the file beside the "
            "model"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise LoadError(f"{where}, but {plain} is not a regular file")
    if status.st_nlink > 1:
        # onnx-ir refuses these when the data is first read; better said now, with the remedy.
        raise LoadError(
            f"{where}, which has several hard links and might be a file of somebody else's; "
            "make a copy of its own for the model (cp)"
        )
    return plain, status.st_size


def set_base_dir(model: ir.Model, base_dir: Path) -> None:
    """Tell every external tensor, also in functions, which folder its location is relative to."""
    for _, tensor in walk.tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = str(base_dir)
