"""Carry around onnx-ir what it would drop or refuse: the way out.

``put_back`` runs on the protobuf that ``ir.to_proto`` made of a model, and gives it what
``carry.strip`` took out of the file, wherever the graph still has the place for it.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from onnxprune.io import carry, origin, walk


def put_back(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Give ``proto``, just made of ``model``, all that was carried around onnx-ir but sparsity."""
    shapes = _type_finder(model)
    for graph, target in walk.pairs(model, proto):
        extras = graph.meta.get(origin.GRAPH)
        for node, node_proto in zip(graph, target.node, strict=True):
            if not node.meta:
                continue
            for held in node.meta.get(origin.ATTRIBUTES, ()):
                node_proto.attribute.add().ParseFromString(held)
            node_proto.MergeFromString(node.meta.get(origin.UNKNOWN, b""))
        _put_back_infos(graph, target)
        if extras is not None:
            _put_back_extras(graph, target, extras, shapes)


def _put_back_infos(graph: ir.Graph, target: walk.GraphLike) -> None:
    held = {
        value.name: value.meta[origin.TYPE]
        for value in walk.graph_values(graph)
        if origin.TYPE in value.meta and value.type is None and value.name
    }
    is_graph = isinstance(target, onnx.GraphProto)
    if is_graph:
        _drop_redundant(graph, target)
        _drop_doubled(target)
    if not held:
        return
    described = {info.name for info in carry.infos(target)}
    for name in held:
        if name not in described:
            target.value_info.add().name = name
    for info in carry.infos(target):
        if info.name in held:
            info.type.ParseFromString(held[info.name])


def _drop_redundant(graph: ir.Graph, target: onnx.GraphProto) -> None:
    """Remove value_info that onnx-ir adds for each initializer and that the file did not have."""
    redundant = {
        name
        for name, value in graph.initializers.items()
        if not (value.meta.get(origin.VALUE_INFO) or value.metadata_props or value.doc_string)
    }
    kept = [info for info in target.value_info if info.name not in redundant]
    if len(kept) < len(target.value_info):
        copies = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in kept]
        del target.value_info[:]
        target.value_info.extend(copies)


def _drop_doubled(target: onnx.GraphProto) -> None:
    # onnx-ir annotates a value that is both input and output of a graph twice.
    names = [a.tensor_name for a in target.quantization_annotation]
    for i in reversed(range(len(names))):
        if names[i] in names[:i]:
            del target.quantization_annotation[i]


TypeFinder = Callable[[str], "ir.Value | None"]


def _type_finder(model: ir.Model) -> TypeFinder:
    cache: dict[str, ir.Value] = {}

    def find(name: str) -> ir.Value | None:
        if not cache:
            for _, graph in walk.ir_graphs(model):
                cache.update((v.name, v) for v in walk.graph_values(graph) if v.name)
        return cache.get(name)

    return find


def _put_back_extras(
    graph: ir.Graph, target: walk.GraphLike, extras: origin.GraphExtras, find: TypeFinder
) -> None:
    target.MergeFromString(extras.unknown)
    names = {value.name for value in walk.graph_values(graph)}
    for name, held in extras.value_info.items():
        if name in names:
            continue
        info = target.value_info.add()
        info.ParseFromString(held)
        outer = find(name)
        if outer is not None and outer.type is not None:
            # It describes a value of an enclosing graph, whose shape may have changed since.
            info.type.CopyFrom(ir.serde.serialize_value(outer).type)
    for held in extras.annotations:
        target.quantization_annotation.add().ParseFromString(held)
    infos = {info.name: info for info in target.input} if extras.passed else {}
    for output in target.output if extras.passed else ():
        given, held, merged = extras.passed.get(output.name, (b"", b"", b""))
        if given and output.type == onnx.TypeProto.FromString(merged):
            infos[output.name].ParseFromString(given)
            output.ParseFromString(held)
