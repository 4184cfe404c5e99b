"""Walking graphs: the main graph, every subgraph and every function, as protobuf, as IR, or both.

A *place* names one graph inside a model independently of its representation, so that something
noticed in the protobuf can be attached to the IR object that stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

Place: TypeAlias = tuple[str | int, ...]
"""("graph",) or ("function", i), then (node index, attribute name, graph index) per level."""

GraphLike: TypeAlias = Any
"""An ``onnx.GraphProto`` or ``onnx.FunctionProto``: both have ``node`` and ``value_info``."""


def proto_graphs(model: onnx.ModelProto) -> Iterator[tuple[Place, GraphLike]]:
    """Yield (place, graph or function proto) of a model, outer graphs before inner ones."""
    yield from _proto_graph(("graph",), model.graph)
    for i, function in enumerate(model.functions):
        yield from _proto_graph(("function", i), function)


def _proto_graph(place: Place, graph: GraphLike) -> Iterator[tuple[Place, GraphLike]]:
    yield place, graph
    for i, node in enumerate(graph.node):
        for attribute in node.attribute:
            # Models of IR version 1 may leave the type out.
            untyped = attribute.type == onnx.AttributeProto.UNDEFINED
            if attribute.type == onnx.AttributeProto.GRAPH or (untyped and attribute.HasField("g")):
                yield from _proto_graph((*place, i, attribute.name, 0), attribute.g)
            if not untyped and attribute.type != onnx.AttributeProto.GRAPHS:
                continue
            for k, inner in enumerate(attribute.graphs):
                yield from _proto_graph((*place, i, attribute.name, k), inner)


def ir_graphs(model: ir.Model) -> Iterator[tuple[Place, ir.Graph]]:
    """Yield (place, graph) of an IR model in the same order as :func:`proto_graphs`."""
    yield from _ir_graph(("graph",), model.graph)
    for i, function in enumerate(model.functions.values()):
        yield from _ir_graph(("function", i), function.graph)


def _ir_graph(place: Place, graph: ir.Graph) -> Iterator[tuple[Place, ir.Graph]]:
    yield place, graph
    for i, node in enumerate(graph):
        for name, attribute in node.attributes.items():
            for k, inner in enumerate(subgraphs(attribute)):
                yield from _ir_graph((*place, i, name, k), inner)


def subgraphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    """Return the graphs an attribute holds; empty for references and other types."""
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    if attribute.type == ir.AttributeType.GRAPHS:
        return tuple(attribute.as_graphs())
    return ()


def pairs(model: ir.Model, proto: onnx.ModelProto) -> Iterator[tuple[ir.Graph, GraphLike]]:
    """Yield each IR graph with the proto that ``ir.to_proto`` just made of it."""
    inside = dict(proto_graphs(proto))
    for place, graph in ir_graphs(model):
        yield graph, inside[place]


def graph_values(graph: ir.Graph) -> list[ir.Value]:
    """Return every value a graph defines: inputs, initializers, node outputs; each once."""
    found = {id(v): v for v in [*graph.inputs, *graph.initializers.values()]}
    found.update((id(o), o) for node in graph for o in node.outputs)
    return list(found.values())


def attribute_tensors(attribute: ir.Attr) -> tuple[ir.TensorProtocol, ...]:
    """Return the tensors an attribute holds; empty for references and other types."""
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.TENSOR:
        return (attribute.as_tensor(),)
    if attribute.type == ir.AttributeType.TENSORS:
        return tuple(attribute.as_tensors())
    return ()


def tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Yield (name, tensor) of every initializer and tensor attribute, functions included.

    The name of an attribute's tensor is that of its node's first output: what a user sees in
    the graph.
    """
    for _, graph in ir_graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                for tensor in attribute_tensors(attribute):
                    yield node_label(node), tensor


def node_label(node: ir.Node) -> str:
    """Return what to call a node in a message: its first named output, else its name and type."""
    for output in node.outputs:
        if output.name:
            return output.name
    return node.name or node.op_type


def proto_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield (label, tensor proto) of every dense tensor, and of both halves of sparse ones."""
    for _, graph in proto_graphs(model):
        for tensor in getattr(graph, "initializer", ()):
            yield tensor.name, tensor
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield sparse.values.name, sparse.values
            yield sparse.values.name + " (indices)", sparse.indices
        for node in graph.node:
            for attribute in node.attribute:
                yield from attribute_proto_tensors(node, attribute)


def attribute_proto_tensors(
    node: onnx.NodeProto, attribute: onnx.AttributeProto
) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield (label, tensor proto) of one attribute, and of both halves of its sparse ones."""
    label = next((o for o in node.output if o), node.name or node.op_type)
    if attribute.HasField("t"):
        yield label, attribute.t
    for tensor in attribute.tensors:
        yield label, tensor
    sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for sparse in [*sparse_tensors, *attribute.sparse_tensors]:
        yield label, sparse.values
        yield label + " (indices)", sparse.indices
