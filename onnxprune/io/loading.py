"""Every accepted kind of model in, one ``onnx_ir.Model`` out, and the way back."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_ir.serde import TensorProtoTensor

from onnxprune.errors import LoadError, ModelError, UnsupportedError
from onnxprune.io import carry, external, origin, read, walk, wire
from onnxprune.io.infile import Far
from onnxprune.io.quiet import quiet
from onnxprune.io.skim import MalformedError

Kind = Literal["path", "bytes", "proto", "ir", "gs"]
Source: TypeAlias = Union[str, "os.PathLike[str]", bytes, onnx.ModelProto, ir.Model, gs.Graph]


@dataclass(frozen=True)
class Loaded:
    """A model inside onnxprune, with what is needed to give it back as it came.

    Attributes:
        model: a private copy; changing it never touches the caller's object or file. Tensors of
            in-memory kinds may share (read-only) memory with the caller's.
        kind: how it was given: path, bytes, proto (ModelProto), ir (Model), gs (Graph).
        path: the file it came from, None for in-memory kinds.
        origin: what the file held that the IR has no place for.
    """

    model: ir.Model
    kind: Kind
    path: Path | None
    origin: origin.Origin

    def with_model(self, model: ir.Model) -> Loaded:
        """Return the same origin around another model: the rewritten one."""
        model.meta[origin.ORIGIN] = self.origin
        return replace(self, model=model)

    def restore(self, model: ir.Model | None = None) -> Any:
        """Return ``model`` (default: the one held) as the kind that was given.

        A path gives the ``ir.Model`` itself: write it with :func:`onnxprune.io.save`. Bytes and
        ModelProto hold all weights inside.

        Raises:
            SaveError: it does not fit the 2 GB a protobuf message may have.
            UnsupportedError: onnx_graphsurgeon cannot hold the model.
        """
        from onnxprune.io.saving import to_bytes, to_graph, to_proto

        held = self.with_model(model if model is not None else self.model).model
        if self.kind == "bytes":
            return to_bytes(held)
        if self.kind == "proto":
            return to_proto(held)
        return to_graph(held) if self.kind == "gs" else held


def load(source: Source | Loaded, *, base_dir: str | os.PathLike[str] | None = None) -> Loaded:
    """Return ``source`` as an IR model that nobody else holds.

    Args:
        source: path of an ONNX file, its bytes, an ``onnx.ModelProto``, an ``onnx_ir.Model`` or
            an ``onnx_graphsurgeon.Graph``.
        base_dir: folder of the external data, for kinds that are not a path.

    Raises:
        LoadError: it cannot be read; the message says what it is instead, or names the tensor
            and external file at fault.
        UnsupportedError: it holds something that would be lost; the message names it.
        TypeError: ``source`` is none of these kinds.
    """
    base = Path(base_dir).absolute() if base_dir is not None else None
    if isinstance(source, Loaded):
        return replace(source, model=_private(source.model, source.origin))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).absolute()
        proto, far = read.parse_file(path)
        try:
            return _from_proto(proto, "path", path, path.parent, str(path), far)
        except MalformedError:  # data in a place where it cannot stay in the file
            proto = read.parse(read.read_file(path), str(path))
            return _from_proto(proto, "path", path, path.parent, str(path))
    if isinstance(source, (bytes, bytearray, memoryview)):
        proto = read.parse(bytes(source), "the given bytes")
        return _from_proto(proto, "bytes", None, base, "the given bytes")
    if isinstance(source, onnx.ModelProto):
        read.check(source, "the given ModelProto")
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        return _from_proto(proto, "proto", None, base, "the given ModelProto")
    if isinstance(source, ir.Model):
        found = origin.origin_of(source)
        return Loaded(_private(source, found), "ir", None, found)
    if isinstance(source, gs.Graph):
        return _from_proto(_export(source), "gs", None, base, "the given onnx_graphsurgeon.Graph")
    raise TypeError(
        f"cannot load a {type(source).__name__}; give a path, bytes, onnx.ModelProto, "
        "onnx_ir.Model or onnx_graphsurgeon.Graph"
    )


def _from_proto(
    proto: onnx.ModelProto,
    kind: Kind,
    path: Path | None,
    base: Path | None,
    label: str,
    far: Far | None = None,
) -> Loaded:
    """Consume ``proto``: it is changed, and its tensors become those of the model."""
    try:
        read.check_text(proto, label)
        files = external.check_tensors(proto, label, base, far)
        facts = _facts(proto, path, files)
        carried = carry.strip(proto, str(base) if base else "")
        with quiet():
            model = ir.from_proto(proto)
        if far is not None:
            far.attach(model)
    except (ModelError, MalformedError):
        raise
    except Exception as error:  # onnx-ir wraps whatever goes wrong; the root says what it was
        raise _explained(error, label) from error
    if base is not None:
        external.set_base_dir(model, base)
    carry.attach(model, carried)
    if facts.opset_alias:
        _rename_opset(model)
    model.meta[origin.ORIGIN] = facts
    _check_names(model, label)
    return Loaded(model, kind, path, facts)


def _explained(error: Exception, label: str) -> ModelError:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, NotImplementedError):
        return UnsupportedError(f"{label} holds something onnx-ir cannot represent: {root}")
    return LoadError(f"{label} is not a valid ONNX model: {str(root)[:500]}")


def _facts(proto: onnx.ModelProto, path: Path | None, files: tuple[Path, ...]) -> origin.Origin:
    """Take out of ``proto`` what belongs to the model as a whole."""
    bound = {
        binding.value
        for info in proto.training_info
        for binding in [*info.update_binding, *info.initialization_binding]
    } | {
        binding.key
        for info in proto.training_info
        for binding in [*info.update_binding, *info.initialization_binding]
    }
    facts = origin.Origin(
        path=path,
        had_external=bool(files),
        files=((path,) if path else ()) + files,
        opset_alias=any(e.domain == "ai.onnx" for e in proto.opset_import)
        and all(e.domain for e in proto.opset_import),
        training=tuple(info.SerializeToString() for info in proto.training_info),
        bound_shapes={t.name: tuple(t.dims) for t in proto.graph.initializer if t.name in bound},
        unknown=wire.unknown_fields(proto),
    )
    proto.ClearField("training_info")
    return facts


def _rename_opset(model: ir.Model) -> None:
    # Everything that asks for the default opset asks for "".
    imports = model.graph.opset_imports
    renamed = {"" if domain == "ai.onnx" else domain: v for domain, v in imports.items()}
    imports.clear()
    imports.update(renamed)


def _check_names(model: ir.Model, label: str) -> None:
    """Raise LoadError if a node reads, or a graph returns, a value that nothing produces."""
    defined = {id(v) for _, g in walk.ir_graphs(model) for v in walk.graph_values(g)}
    for _, graph in walk.ir_graphs(model):
        for node in graph:
            for value in node.inputs:
                if value is not None and id(value) not in defined:
                    raise LoadError(
                        f"{label} is not a valid ONNX model: node {walk.node_label(node)!r} reads "
                        f"{value.name!r}, which nothing produces"
                    )
        for value in graph.outputs:
            if id(value) not in defined:
                raise LoadError(
                    f"{label} is not a valid ONNX model: its output {value.name!r} is produced "
                    "by nothing"
                )


def _private(model: ir.Model, facts: origin.Origin) -> ir.Model:
    """Return a copy of ``model`` whose tensors are renamed or replaced without touching it."""
    try:
        clone = model.clone()
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise UnsupportedError(
            f"the given onnx_ir.Model cannot be copied: {root}; if its nodes are out of order, "
            "call model.graph.sort() first"
        ) from error
    for _, graph in walk.ir_graphs(clone):
        for value in walk.graph_values(graph):
            if value.const_value is not None:
                form = value.meta.get(origin.SPARSE)
                if form is None or form.dense is not value.const_value:
                    value.const_value = _view(value.const_value)
    clone.meta.update(model.meta)
    clone.meta[origin.ORIGIN] = facts
    return clone


def _view(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor of its own name that shares, and cannot write, the data of ``tensor``."""
    if isinstance(tensor, TensorProtoTensor):
        return ir.LazyTensor(
            lambda: tensor,
            dtype=tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
    if type(tensor) is ir.Tensor and isinstance(tensor.raw, np.ndarray):
        array = tensor.raw.view()
        array.flags.writeable = False
        return ir.Tensor(
            array,
            dtype=tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
    return copy.copy(tensor)


def _export(graph: gs.Graph) -> onnx.ModelProto:
    # Exporting adds missing domains to these lists in place; the caller's must stay as they are.
    owners = [graph, *graph.functions]
    held = [owner.import_domains for owner in owners]
    try:
        for owner, domains in zip(owners, held, strict=True):
            owner.import_domains = None if domains is None else list(domains)
        return gs.export_onnx(graph)
    except Exception as error:
        raise UnsupportedError(
            f"onnx_graphsurgeon cannot export the given graph: {error}; give the ONNX model itself"
        ) from error
    finally:
        for owner, domains in zip(owners, held, strict=True):
            owner.import_domains = domains
