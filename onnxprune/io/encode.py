"""From an IR model to the bytes of its file, without a second copy of the weights.

``ir.to_proto`` sees stand-ins instead of the main graph's initializers; the file is then written
as the model's fields, the graph's fields, and each initializer straight from where it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import onnx
import onnx_ir as ir
from onnx import helper

from onnxprune.errors import OnnxPruneError, SaveError, UnsupportedError
from onnxprune.io import carry, origin, sparse, walk, wire
from onnxprune.io.payload import Slot, copy_data
from onnxprune.io.put_back import put_back
from onnxprune.io.quiet import quiet

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_PAGE = 4096  # runtimes map external data by pages; a large tensor starts on one
_LARGE = 1 << 20
_SMALL_ALIGNMENT = 64  # a cache line
_FREE_INITIALIZERS_SINCE = 4  # IR version; before, an initializer had to be a graph input too
_CONSTANTS_OF_ANY_TYPE_SINCE = 9  # opset; before, a Constant could only be float
_MANY = 1 << 30  # bytes of tensors in attributes from which they are moved out too


@dataclass
class Parts:
    """A model ready to be written.

    Attributes:
        proto: everything but the graph.
        graph: the graph without its streamed initializers.
        streamed: dense initializers of the main graph, in order.
        placed: tensors in ``graph`` or ``proto`` itself that may move to the sidecar: those of
            subgraphs and of Constant nodes.
        sidecar: location that moved tensors name.
    """

    proto: onnx.ModelProto
    graph: onnx.GraphProto
    streamed: list[Slot]
    placed: list[Slot] = field(default_factory=list)
    sidecar: str = ""

    @property
    def size(self) -> int:
        """Bytes of the model file as it would be written now."""
        graph = self._graph_size()
        return int(self.proto.ByteSize()) + len(wire.delimited(_GRAPH, graph)) + graph

    def _graph_size(self) -> int:
        sizes = [_message_size(slot, self.sidecar) for slot in self.streamed]
        framed = sum(len(wire.delimited(_INITIALIZER, size)) + size for size in sizes)
        return int(self.graph.ByteSize()) + framed

    def write(self, file: BinaryIO) -> None:
        """Write the model file."""
        file.write(self.proto.SerializeToString(deterministic=True))
        file.write(wire.delimited(_GRAPH, self._graph_size()))
        file.write(self.graph.SerializeToString(deterministic=True))
        for slot in self.streamed:
            message, rest = slot.message(self.sidecar)
            file.write(wire.delimited(_INITIALIZER, _message_size(slot, self.sidecar)))
            file.write(message.SerializeToString(deterministic=True))
            if rest:
                file.write(wire.delimited(_RAW_DATA, slot.tensor.nbytes))
                copy_data(slot.tensor, file)

    def move_out(self, sidecar: str, threshold: int) -> bool:
        """Give every tensor of at least ``threshold`` bytes a place in ``sidecar``.

        Tensors in attributes move only if they were external before, or are too many to stay.

        Returns:
            Whether any tensor moved.
        """
        self.sidecar = sidecar
        many = self.graph.ByteSize() > _MANY
        end = 0
        for slot in [*self.streamed, *(s for s in self.placed if s.moves or many)]:
            size = slot.tensor.nbytes
            if size < max(threshold, 1) or slot.tensor.dtype == ir.DataType.STRING:
                continue
            alignment = _PAGE if size >= _LARGE else _SMALL_ALIGNMENT
            slot.offset = -(-end // alignment) * alignment
            end = slot.offset + size
        for slot in self.placed:
            slot.fill(sidecar)
        return end > 0

    @property
    def sidecar_size(self) -> int:
        """Bytes of the sidecar, 0 if nothing moved there."""
        slots = [*self.streamed, *self.placed]
        return max((s.offset + s.tensor.nbytes for s in slots if s.offset is not None), default=0)

    def write_sidecar(self, file: BinaryIO) -> None:
        """Write the tensors that :meth:`move_out` moved, each at its place, gaps zero."""
        end = 0
        for slot in [*self.streamed, *self.placed]:
            if slot.offset is not None:
                file.write(bytes(slot.offset - end))
                copy_data(slot.tensor, file)
                end = slot.offset + slot.tensor.nbytes


def _message_size(slot: Slot, sidecar: str) -> int:
    message, rest = slot.message(sidecar)
    size = int(message.ByteSize())
    if rest:
        size += len(wire.delimited(_RAW_DATA, slot.tensor.nbytes)) + slot.tensor.nbytes
    return size


def encode(model: ir.Model) -> Parts:
    """Return ``model`` with all that was carried around onnx-ir back in place.

    Raises:
        SaveError: an initializer without data.
        UnsupportedError: training information that no longer fits the model.
    """
    facts = origin.origin_of(model)
    held = _initializers(model.graph)
    _check_training(facts, held)
    with _stand_ins(held), quiet():
        proto = ir.to_proto(model)
    put_back(model, proto)
    for message in facts.training:
        proto.training_info.add().ParseFromString(message)
    if facts.opset_alias:
        for entry in proto.opset_import:
            entry.domain = entry.domain or "ai.onnx"
    proto.MergeFromString(facts.unknown)
    placed = []
    for graph, target in walk.pairs(model, proto):
        is_main = graph is model.graph
        if is_main:
            del target.initializer[:]
        elif isinstance(target, onnx.GraphProto):
            placed += _inner_initializers(graph, target)
        placed += _attributes(graph, target, in_function=isinstance(target, onnx.FunctionProto))
    old = (model.ir_version or 0) < _FREE_INITIALIZERS_SINCE
    inputs = {value.name for value in model.graph.inputs} if old else set(held)
    # Last, because nothing that reads protobuf strictly expects a sparse weight.
    streamed = []
    for name, value in held.items():
        tensor = value.const_value
        assert tensor is not None  # _initializers saw to it
        if name not in inputs and _fits_constant(model, tensor):
            _prepend_constant(proto.graph, name, tensor)
            continue
        if name not in inputs:  # the form of the time: an input with a default
            proto.graph.input.append(
                helper.make_tensor_value_info(name, tensor.dtype.value, tensor.shape.numpy())
            )
        if form := value.meta.get(origin.SPARSE):
            proto.graph.sparse_initializer.append(sparse.encode(tensor, form, name))
        else:
            streamed.append(Slot(tensor, name))
    for slot in placed:
        slot.fill("")
    inner = proto.graph
    proto.ClearField("graph")  # detaches it: ``inner`` and the slots' targets stay one message
    return Parts(proto, inner, streamed, placed)


def _fits_constant(model: ir.Model, tensor: ir.TensorProtocol) -> bool:
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    floats = (ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)
    return opset >= _CONSTANTS_OF_ANY_TYPE_SINCE or tensor.dtype in floats


def _prepend_constant(target: onnx.GraphProto, name: str, tensor: ir.TensorProtocol) -> None:
    """Put a Constant node that yields ``tensor`` as ``name`` before all nodes of ``target``."""
    node = onnx.NodeProto(op_type="Constant", output=[name])
    value = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    Slot(tensor, name).render(value.t)
    target.node.insert(0, node)


def _initializers(graph: ir.Graph) -> dict[str, ir.Value]:
    for name, value in graph.initializers.items():
        if value.const_value is None:
            raise SaveError(f"initializer {name!r} has no data; give it some or remove it")
    return dict(graph.initializers.items())


@contextlib.contextmanager
def _stand_ins(held: dict[str, ir.Value]) -> Iterator[None]:
    """While inside, initializers hold the right type and shape but no data."""
    tensors = {name: value.const_value for name, value in held.items()}
    try:
        for value in held.values():
            tensor = value.const_value
            assert tensor is not None
            value.const_value = ir.ExternalTensor(
                "", None, None, dtype=tensor.dtype, shape=ir.Shape([]), name=value.name or ""
            )
        yield
    finally:
        for name, value in held.items():
            value.const_value = tensors[name]


def _check_training(facts: origin.Origin, held: dict[str, ir.Value]) -> None:
    for name, shape in facts.bound_shapes.items():
        tensor = held[name].const_value if name in held else None
        if tensor is None or tuple(tensor.shape.numpy()) != shape:
            raise UnsupportedError(
                f"the model carries training information that updates {name!r}, whose shape "
                "has changed; strip training_info from the model before pruning its structure"
            )


def _inner_initializers(graph: ir.Graph, target: onnx.GraphProto) -> list[Slot]:
    """Return the slots of a subgraph's initializers, after making sparse again what was."""
    forms = {
        name: value.meta[origin.SPARSE]
        for name, value in graph.initializers.items()
        if origin.SPARSE in value.meta
    }
    if forms:
        kept = [t.SerializeToString() for t in target.initializer if t.name not in forms]
        del target.initializer[:]
        for data in kept:
            target.initializer.add().ParseFromString(data)
        for name, form in forms.items():
            tensor = graph.initializers[name].const_value
            assert tensor is not None  # onnx-ir serialized it a moment ago
            target.sparse_initializer.append(sparse.encode(tensor, form, name))
    slots = []
    for proto in target.initializer:
        tensor = graph.initializers[proto.name].const_value
        assert tensor is not None
        slots.append(Slot(tensor, proto.name, proto, moves=True))
    return slots


def _attributes(graph: ir.Graph, target: walk.GraphLike, in_function: bool) -> list[Slot]:
    """Return the slots of tensors in attributes, after making sparse again what was."""
    slots = []
    for node, node_proto in zip(graph, target.node, strict=True):
        protos = {a.name: a for a in node_proto.attribute}
        for name, attribute in node.attributes.items():
            tensors = walk.attribute_tensors(attribute)
            if not tensors:
                continue
            proto = protos[name]
            form = node.meta.get(origin.SPARSE)
            constant = carry.is_constant(node.op_type, node.domain) and name == "value"
            if constant and form is not None:
                made = sparse.encode(tensors[0], form, form.name)
                proto.Clear()
                proto.name = "sparse_value"
                proto.type = onnx.AttributeProto.SPARSE_TENSOR
                proto.sparse_tensor.CopyFrom(made)
                continue
            inside = [proto.t] if attribute.type == ir.AttributeType.TENSOR else proto.tensors
            for tensor, held in zip(tensors, inside, strict=True):
                was_external = isinstance(tensor, ir.ExternalTensor) and not in_function
                slots.append(Slot(tensor, "", held, moves=was_external and constant))
    return slots


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside onnx-ir into a SaveError that starts with ``what``."""
    try:
        yield
    except OnnxPruneError:
        raise
    except MemoryError as error:
        raise SaveError(f"{what}: not enough memory") from error
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise SaveError(f"{what}: {type(root).__name__}: {str(root)[:500]}") from error
