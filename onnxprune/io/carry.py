"""Carry around onnx-ir what it would drop or refuse: the way in.

``strip`` runs on the protobuf before ``ir.from_proto``: it takes out what the IR cannot express
and returns it; ``attach`` hangs it on the IR objects. ``put_back``, in the module of that name, is
the way out. What can neither be expressed nor carried is an UnsupportedError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir

from onnxprune.errors import LoadError, UnsupportedError
from onnxprune.io import origin, sparse, walk, wire

_TYPES = {t.value for t in ir.DataType}
_ATTRIBUTE_FIELDS = (
    ("f", "FLOAT"),
    ("i", "INT"),
    ("s", "STRING"),
    ("t", "TENSOR"),
    ("g", "GRAPH"),
    ("tp", "TYPE_PROTO"),
    ("sparse_tensor", "SPARSE_TENSOR"),
    ("floats", "FLOATS"),
    ("ints", "INTS"),
    ("strings", "STRINGS"),
    ("tensors", "TENSORS"),
    ("graphs", "GRAPHS"),
    ("type_protos", "TYPE_PROTOS"),
    ("sparse_tensors", "SPARSE_TENSORS"),
)
_DEVICES_SINCE = 11  # IR version that introduced multi-device configuration
_FUNCTION_VALUE_INFO_SINCE = 10  # IR version that introduced FunctionProto.value_info


@dataclass
class GraphCarry:
    """What one graph keeps for later, by the names and positions of the things it belongs to."""

    extras: origin.GraphExtras = field(default_factory=origin.GraphExtras)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[int, dict[str, Any]] = field(default_factory=dict)

    def value(self, name: str, key: str, item: Any) -> None:
        """Remember ``item`` for the value called ``name``."""
        self.values.setdefault(name, {})[key] = item

    def node(self, index: int, key: str, item: Any) -> None:
        """Remember ``item`` for the node at ``index``."""
        self.nodes.setdefault(index, {})[key] = item


Carried = dict[walk.Place, GraphCarry]


def strip(model: onnx.ModelProto, base_dir: str) -> Carried:
    """Take out of ``model`` what onnx-ir cannot hold, and return it by place.

    Sparse tensors become dense ones in the same place. Training information and the unknown
    fields of the model itself are the business of the caller.

    Raises:
        UnsupportedError: something that cannot be carried either; the message names it.
        LoadError: a sparse tensor or an attribute list that is broken.
    """
    _check_functions(model)
    functions = {(f.domain, f.name) for f in model.functions}
    carried: Carried = {}
    for place, graph in walk.proto_graphs(model):
        carry = GraphCarry()
        carry.extras.unknown = wire.unknown_fields(graph)
        for i, node in enumerate(graph.node):
            _strip_node(carry, i, node, base_dir, model.ir_version)
        if isinstance(graph, onnx.GraphProto):
            _strip_initializers(carry, graph, base_dir)
            _strip_passed(carry, graph)
        is_main = place == ("graph",) and model.ir_version < _FUNCTION_VALUE_INFO_SINCE
        _strip_names(carry, graph, functions if is_main else set())
        for info in infos(graph):
            _strip_info(carry, info)
        if carry.extras or carry.values or carry.nodes:
            carried[place] = carry
    return carried


def _check_functions(model: onnx.ModelProto) -> None:
    names = [(f.domain, f.name, f.overload) for f in model.functions]
    for i, (function, name) in enumerate(zip(model.functions, names, strict=True)):
        label = f"{function.domain}::{function.name}"
        if name in names[:i]:
            raise LoadError(f"function {label!r} is defined twice: not valid ONNX")
        for attribute in function.attribute_proto:
            plain = attribute.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            tensors = walk.attribute_proto_tensors(onnx.NodeProto(), attribute)
            outside = any(t.data_location == onnx.TensorProto.EXTERNAL for _, t in tensors)
            if not (plain and _expressible_attribute(attribute)) or outside:
                raise UnsupportedError(
                    f"the default of attribute {attribute.name!r} of function {label!r} is a "
                    "graph, a sparse or external tensor, or of a type that cannot be carried; "
                    "inline the function first"
                )


def infos(graph: walk.GraphLike) -> list[onnx.ValueInfoProto]:
    """Return every description of a value that a graph or function holds."""
    if isinstance(graph, onnx.GraphProto):
        return [*graph.input, *graph.output, *graph.value_info]
    return list(graph.value_info)


def _strip_node(
    carry: GraphCarry, index: int, node: onnx.NodeProto, base_dir: str, ir_version: int
) -> None:
    label = node.name or next((o for o in node.output if o), node.op_type)
    if unknown := wire.unknown_fields(node):
        carry.node(index, origin.UNKNOWN, unknown)
    if ir_version < _DEVICES_SINCE and len(getattr(node, "device_configurations", ())):
        raise UnsupportedError(
            f"node {label!r} has device configurations, which IR version {ir_version} lacks; "
            f"set the model's ir_version to {_DEVICES_SINCE}"
        )
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise LoadError(f"node {label!r} has two attributes named {twice!r}: not valid ONNX")
    if is_constant(node.op_type, node.domain):
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                held = onnx.SparseTensorProto()
                held.CopyFrom(attribute.sparse_tensor)
                carry.node(index, origin.SPARSE, sparse.decode(held, label, base_dir))
                attribute.Clear()
                attribute.name = "value"
                attribute.type = onnx.AttributeProto.TENSOR
                _stand_in(attribute.t, held)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
            _infer_attribute_type(attribute)
    if any(not _expressible_attribute(a) for a in node.attribute):
        _strip_attributes(carry, index, node, label)


def _stand_in(target: onnx.TensorProto, form: onnx.SparseTensorProto) -> None:
    # Right type and shape, no data: attach() puts the dense tensor in its place, which saves a
    # second dense copy inside the protobuf.
    target.data_type = form.values.data_type
    target.dims.extend(form.dims)


def is_constant(op_type: str, domain: str) -> bool:
    """Whether a node is ONNX's own Constant."""
    return op_type == "Constant" and domain in ("", "ai.onnx")


def _infer_attribute_type(attribute: onnx.AttributeProto) -> None:
    # Models of IR version 1 may leave the type out; exactly one field then tells it.
    for name, kind in _ATTRIBUTE_FIELDS:
        held = getattr(attribute, name)
        repeated = hasattr(held, "extend")
        if len(held) if repeated else attribute.HasField(name):
            attribute.type = onnx.AttributeProto.AttributeType.Value(kind)
            return


def _expressible_attribute(attribute: onnx.AttributeProto) -> bool:
    kinds = onnx.AttributeProto
    kind = attribute.type
    if kind in (kinds.INT, kinds.FLOAT, kinds.INTS, kinds.FLOATS) or attribute.ref_attr_name:
        return True
    if kind in (kinds.STRING, kinds.STRINGS):
        try:
            for text in [attribute.s, *attribute.strings]:
                text.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True
    if kind in (kinds.TYPE_PROTO, kinds.TYPE_PROTOS):
        types = [attribute.tp] if kind == kinds.TYPE_PROTO else attribute.type_protos
        return all(expressible(t) for t in types)
    return kind in (kinds.TENSOR, kinds.GRAPH, kinds.TENSORS, kinds.GRAPHS)


def _strip_attributes(carry: GraphCarry, index: int, node: onnx.NodeProto, label: str) -> None:
    kept = [a for a in node.attribute if _expressible_attribute(a)]
    gone = [a for a in node.attribute if not _expressible_attribute(a)]
    for attribute in gone:
        for _, tensor in walk.attribute_proto_tensors(node, attribute):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise UnsupportedError(
                    f"attribute {attribute.name!r} of node {label!r} is a sparse tensor with "
                    "external data; store it inside the model file"
                )
    carry.node(index, origin.ATTRIBUTES, tuple(a.SerializeToString() for a in gone))
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(copies)


def _strip_initializers(carry: GraphCarry, graph: onnx.GraphProto, base_dir: str) -> None:
    for tensor in graph.initializer:
        if not tensor.name:
            raise UnsupportedError(
                f"graph {graph.name!r} has an initializer without a name; name or remove it"
            )
    for proto in graph.sparse_initializer:
        name = proto.values.name
        if not name:
            raise UnsupportedError(
                f"graph {graph.name!r} has a sparse initializer without a name; name or remove it"
            )
        form = sparse.decode(proto, name, base_dir)
        carry.value(name, origin.SPARSE, form)
        _stand_in(graph.initializer.add(name=name), proto)
    graph.ClearField("sparse_initializer")


def _strip_passed(carry: GraphCarry, graph: onnx.GraphProto) -> None:
    inputs = {info.name: info for info in graph.input}
    for output in graph.output:
        given = inputs.get(output.name)
        if given is None or given == output:
            continue
        richer = given.type if _has_shape(given.type) else output.type
        merged = richer.SerializeToString()
        carry.extras.passed[output.name] = (
            given.SerializeToString(),
            output.SerializeToString(),
            merged,
        )
        given.type.ParseFromString(merged)
        output.type.ParseFromString(merged)


def _has_shape(proto: onnx.TypeProto) -> bool:
    kind = proto.WhichOneof("value")
    return kind in ("tensor_type", "sparse_tensor_type") and getattr(proto, kind).HasField("shape")


def _strip_names(carry: GraphCarry, graph: walk.GraphLike, functions: set[tuple[str, str]]) -> None:
    """Remember value_info and annotations that name nothing, and which initializers had one."""
    is_graph = isinstance(graph, onnx.GraphProto)
    annotations = graph.quantization_annotation if is_graph else ()
    if not len(graph.value_info) and not len(annotations):
        return
    constants = {t.name for t in graph.initializer} if is_graph else set()
    names = {i.name for i in graph.input} if is_graph else set(graph.input)
    names.update(constants, (o for node in graph.node for o in node.output))
    for info in graph.value_info:
        if info.name in constants:
            carry.value(info.name, origin.VALUE_INFO, True)
        elif info.name not in names and not _describes_function(info.name, functions):
            carry.extras.value_info[info.name] = info.SerializeToString()
    carry.extras.annotations = tuple(
        a.SerializeToString() for a in annotations if a.tensor_name not in names
    )


def _describes_function(name: str, functions: set[tuple[str, str]]) -> bool:
    # Before IR 10 the exporter wrote "domain::function/value" entries into the main graph.
    function, slash, _ = name.partition("/")
    domain, colons, base = function.partition("::")
    return bool(slash and colons) and (domain, base) in functions


def _strip_info(carry: GraphCarry, info: onnx.ValueInfoProto) -> None:
    if not expressible(info.type):
        carry.value(info.name, origin.TYPE, info.type.SerializeToString())
        info.ClearField("type")
        return
    bare = onnx.ValueInfoProto()
    bare.CopyFrom(info)
    bare.DiscardUnknownFields()
    if bare.ByteSize() != info.ByteSize():
        raise UnsupportedError(
            f"the description of value {info.name!r} has fields that onnx {onnx.__version__} "
            "does not know; upgrade onnx"
        )


def expressible(proto: onnx.TypeProto) -> bool:
    """Whether onnx-ir can hold a type and write it back unchanged."""
    kind = proto.WhichOneof("value")
    if kind is None:
        return not proto.denotation
    held = getattr(proto, kind)
    if kind in ("tensor_type", "sparse_tensor_type"):
        return held.HasField("elem_type") and held.elem_type in _TYPES
    if kind in ("sequence_type", "optional_type"):
        inner = held.elem_type
        return inner.WhichOneof("value") is not None and expressible(inner)
    return False


def attach(model: ir.Model, carried: Carried) -> None:
    """Hang what :func:`strip` returned on the IR made of the stripped protobuf."""
    if not carried:
        return
    for place, graph in walk.ir_graphs(model):
        carry = carried.get(place)
        if carry is None:
            continue
        if carry.extras:
            graph.meta[origin.GRAPH] = carry.extras
        if carry.values:
            _attach_values(graph, carry.values)
        if carry.nodes:
            for i, node in enumerate(graph):
                node.meta.update(carry.nodes.get(i, {}))
                form = node.meta.get(origin.SPARSE)
                if form is not None:
                    # The very object, so that encode() can tell whether it was replaced.
                    node.attributes.add(ir.AttrTensor("value", form.dense))


def _attach_values(graph: ir.Graph, values: dict[str, dict[str, Any]]) -> None:
    for value in walk.graph_values(graph):
        if value.name in values:
            value.meta.update(values[value.name])
            if form := value.meta.get(origin.SPARSE):
                value.const_value = form.dense
