"""From bytes to a checked ``onnx.ModelProto``, or a LoadError that says what the bytes are."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from onnxprune.errors import LoadError
from onnxprune.io import infile
from onnxprune.io.skim import MalformedError, Span

LIMIT = 2**31 - 1
"""Bytes a protobuf message may have at most."""

_HEAD = 64  # bytes that hold every signature
_OPSET_SINCE = 3  # IR version from which opset_import is required
_SIGNATURES = (
    (0, b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to get the real file"),
    (0, b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?); export the model to ONNX first"),
    (0, b"\x1f\x8b", "gzip-compressed; decompress it first"),
    (0, b"\x80\x02", "a Python pickle; export the model to ONNX first"),
    (4, b"ORTM", "in onnxruntime's ORT format; use the ONNX file it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX first"),
    (0, b"<!DOCTYPE", "an HTML page, probably a failed download; download it again"),
    (0, b"<html", "an HTML page, probably a failed download; download it again"),
    (0, b"\x89HDF", "an HDF5 file; convert the model to ONNX first"),
    (8, b'{"', "a safetensors file: weights without a graph; export the model to ONNX"),
)


def check_file(path: Path) -> None:
    """Raise LoadError unless ``path`` is a regular file that may be an ONNX model by its size."""
    with _explaining(path):
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise LoadError(f"{path} is a folder; give the .onnx file inside it")
        if not stat.S_ISREG(status.st_mode):
            raise LoadError(f"{path} is not a regular file; give the path of an .onnx file")
        if status.st_size > LIMIT:
            raise LoadError(
                f"{path} has {status.st_size} bytes; an ONNX file may have {LIMIT}, larger weights "
                "belong in external data; save the model with external data"
            )


def read_file(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        LoadError: it does not exist, is a folder, is too large, or cannot be read.
    """
    check_file(path)
    with _explaining(path):
        return path.read_bytes()


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise LoadError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise LoadError(f"{str(path)!r} is not a path: {error}") from None


def parse(data: bytes, label: str) -> onnx.ModelProto:
    """Return the model that ``data`` holds, checked as far as that needs no graph walk.

    Args:
        data: a serialized ModelProto.
        label: what to call it in messages: the path, or "the given bytes".

    Raises:
        LoadError: not a complete ONNX model, or of a version the installed onnx does not know.
    """
    if not data:
        raise LoadError(f"{label} is empty; it should hold an ONNX model")
    _check_signature(data, label)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise LoadError(
            f"{label} is not an ONNX model, or is cut off: its {len(data)} bytes do not parse as "
            "one protobuf message; export or download it again"
        ) from None
    check(model, label)
    return model


def parse_file(path: Path) -> tuple[onnx.ModelProto, infile.Far | None]:
    """Return the model in a file; the data of a large one stays there.

    Returns:
        The model, and what the tokens in its ``raw_data`` stand for, None where there are none.

    Raises:
        LoadError: see :func:`read_file` and :func:`parse`.
    """
    check_file(path)
    if opened := infile.open_far(path):
        skimmed, far = opened
        _check_signature(far.file.read(Span(0, _HEAD)), str(path))
        with contextlib.suppress(DecodeError, MalformedError):
            model = onnx.ModelProto.FromString(skimmed.data)
            far.fetch(model)
            check(model, str(path))
            return model, far
    return parse(read_file(path), str(path)), None


def _check_signature(data: bytes, label: str) -> None:
    for offset, signature, meaning in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            raise LoadError(f"{label} is not an ONNX model: it is {meaning}")


def check(model: onnx.ModelProto, label: str) -> None:
    """Raise LoadError unless ``model`` has a graph and versions the installed onnx knows."""
    if not model.HasField("graph") or not (len(model.graph.node) or len(model.graph.output)):
        raise LoadError(
            f"{label} parses as protobuf but holds no ONNX graph; it is some other message, or "
            "cut off; export or download it again"
        )
    if model.ir_version < 1:
        raise LoadError(f"{label} states no IR version; it is not a complete ONNX model")
    if model.ir_version > onnx.IR_VERSION:
        raise LoadError(
            f"{label} has IR version {model.ir_version}; onnx {onnx.__version__} knows up to "
            f"{onnx.IR_VERSION}; upgrade onnx, or export with an older version"
        )
    if model.ir_version >= _OPSET_SINCE and not len(model.opset_import):
        raise LoadError(f"{label} imports no opset; it is cut off or not a complete ONNX model")
    _check_opsets(model, label)


def check_text(message: Any, label: str) -> None:
    """Raise LoadError if any text in ``message`` is not UTF-8.

    The protobuf runtime does not check this for ONNX; it hands out bytes where text was meant.
    """
    for field, value in message.ListFields():
        values = value if hasattr(value, "extend") else (value,)  # repeated or not
        if field.type == field.TYPE_STRING:
            for text in values:
                if not isinstance(text, str):
                    raise LoadError(
                        f"{label} is damaged: {field.full_name} holds {text!r}, which is not "
                        "UTF-8 text; export or download it again"
                    )
        elif field.type == field.TYPE_MESSAGE:
            for inner in values:
                if isinstance(inner, onnx.TensorProto):
                    # Listing its fields would copy the data.
                    for text in (inner.name, inner.doc_string):
                        if not isinstance(text, str):
                            raise LoadError(f"{label} is damaged: a tensor is named {text!r}")
                else:
                    check_text(inner, label)


def _check_opsets(model: onnx.ModelProto, label: str) -> None:
    known = {
        "": onnx.defs.onnx_opset_version(),
        "ai.onnx.ml": onnx.defs.onnx_ml_opset_version(),
    }
    for owner in (model, *model.functions):
        seen: dict[str, int] = {}
        for entry in owner.opset_import:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if seen.setdefault(domain, entry.version) != entry.version:
                raise LoadError(
                    f"{label} imports opset domain {domain or 'ai.onnx'!r} in two versions, "
                    f"{seen[domain]} and {entry.version}; remove one"
                )
            if domain in known and not 1 <= entry.version <= known[domain]:
                raise LoadError(
                    f"{label} uses {domain or 'ai.onnx'} opset {entry.version}; onnx "
                    f"{onnx.__version__} knows 1 to {known[domain]}; upgrade onnx, or export with "
                    "an older opset"
                )
