"""An IR model out: to a file with its external data, to bytes, to a ModelProto, to a gs.Graph."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal

import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir

from onnxprune.errors import SaveError, UnsupportedError
from onnxprune.io import atomic, encode, walk
from onnxprune.io.loading import Loaded
from onnxprune.io.origin import origin_of
from onnxprune.io.read import LIMIT

EXTERNAL_THRESHOLD = 1024
"""Bytes below which a tensor stays inside the model even when there is a sidecar."""


def save(
    model: Loaded | ir.Model,
    path: str | os.PathLike[str],
    *,
    external_data: Literal["auto"] | bool = "auto",
    external_threshold: int = EXTERNAL_THRESHOLD,
) -> None:
    """Write a model to ``path``, whole or not at all.

    Tensors are streamed from where they are, one at a time. External data goes to one sidecar,
    ``<name of path>.data``, so ``model.onnx`` has ``model.onnx.data``.

    Args:
        model: what :func:`onnxprune.io.load` returned, or a model derived from that, or any
            other ``onnx_ir.Model``.
        path: the file to write; an existing one is replaced once the new one is complete.
        external_data: True: weights go to the sidecar; False: all inside; "auto": to the sidecar
            if any weight lay or lies in external data, and whenever it would exceed 2 GB.
        external_threshold: bytes from which a tensor goes to the sidecar.

    Raises:
        SaveError: the folder is missing or not writable, the disk is full, the target is the
            model being read or its data, or the model exceeds 2 GB without external data.
            Nothing is left behind then, and an older file at ``path`` is untouched.
    """
    held = model.with_model(model.model).model if isinstance(model, Loaded) else model
    target = Path(path).absolute()
    sidecar = target.with_name(target.name + ".data")
    origin = origin_of(held)
    external_files = _external_files(held)
    protected = [*origin.files, *external_files]
    atomic.check_target(target, protected)
    with encode.guarded(f"cannot write {target}"):
        parts = encode.encode(held)
        outside = external_data is True
        if external_data == "auto":
            outside = origin.had_external or bool(external_files) or parts.size > LIMIT
        if outside:
            atomic.check_target(sidecar, protected)
            outside = parts.move_out(sidecar.name, external_threshold)
        _check_size(parts.size, target, external_data)
        files: list[tuple[Path, atomic.Writer]] = [(target, parts.write)]
        if outside:
            files.insert(0, (sidecar, parts.write_sidecar))
        atomic.write_files(files)


def spread(model: ir.Model, path: Path, *, hollow: bool = False) -> None:
    """Write a model for this process itself to read, its weights in ``<path>.data``.

    Nothing is protected, flushed or undone: use a temporary folder.

    Args:
        model: any model.
        path: the file to write.
        hollow: leave the weights' file empty, as large as it would be: for who does not read it.

    Raises:
        SaveError: the operating system refused, or the model exceeds 2 GB without its weights.
    """
    sidecar = path.with_name(path.name + ".data")
    with encode.guarded(f"cannot write {path}"):
        parts = encode.encode(model)
        outside = parts.move_out(sidecar.name, EXTERNAL_THRESHOLD)
        _check_size(parts.size, path, True)
        with path.open("wb") as file:
            parts.write(file)
        if outside:
            with sidecar.open("wb", buffering=1 << 20) as file:
                if hollow:
                    file.truncate(parts.sidecar_size)
                else:
                    parts.write_sidecar(file)


def _external_files(model: ir.Model) -> list[Path]:
    tensors = (tensor for _, tensor in walk.tensors(model))
    paths = {t.path: None for t in tensors if isinstance(t, ir.ExternalTensor)}
    return [Path(path).absolute() for path in paths]


def _check_size(size: int, target: Path | str, external_data: object) -> None:
    if size > LIMIT:
        remedy = (
            "pass external_data=True or leave it at 'auto'"
            if external_data is False
            else "lower external_threshold, or save it to a path"
        )
        raise SaveError(
            f"cannot write {target}: it has {size} bytes and a protobuf message may have "
            f"{LIMIT}; {remedy}"
        )


def to_bytes(model: ir.Model) -> bytes:
    """Return the model serialized with all weights inside.

    Raises:
        SaveError: it exceeds 2 GB.
    """
    with encode.guarded("cannot serialize the model"):
        parts = encode.encode(model)
        _check_size(parts.size, "the model to memory", "auto")
        buffer = io.BytesIO()
        parts.write(buffer)
        return buffer.getvalue()


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return the model as protobuf with all weights inside.

    Raises:
        SaveError: it exceeds 2 GB.
    """
    return onnx.ModelProto.FromString(to_bytes(model))


def to_graph(model: ir.Model) -> gs.Graph:
    """Return the model as an onnx_graphsurgeon graph.

    Raises:
        UnsupportedError: onnx_graphsurgeon cannot import it.
    """
    proto = to_proto(model)
    try:
        return gs.import_onnx(proto)
    except Exception as error:
        raise UnsupportedError(
            f"onnx_graphsurgeon cannot hold the result: {error}; ask for another kind of model"
        ) from error
