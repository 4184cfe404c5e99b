"""Graphs inside nodes: the bodies of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def graphs_of(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that a node holds as attributes."""
    out: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            out.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS:
            out.extend(attr.as_graphs())
    return out


def nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield a graph and every graph inside it, outer ones first."""
    yield graph
    for node in graph:
        for inner in graphs_of(node):
            yield from nested(inner)


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values a graph itself defines: inputs, initializers, node outputs."""
    yield from graph.inputs
    for value in graph.initializers.values():
        if not value.is_graph_input():
            yield value
    for node in graph:
        yield from node.outputs


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Return outer values that a body (or a body inside it) uses, in order of first use."""
    inside: set[ir.Value] = set()
    used: dict[ir.Value, None] = {}
    for one in nested(graph):
        inside.update(values_of(one))
        for node in one:
            used.update(dict.fromkeys(v for v in node.inputs if v is not None))
        used.update(dict.fromkeys(one.outputs))
    return [v for v in used if v not in inside]


def unique_names(model: ir.Model) -> int:
    """Give values of bodies whose name something else in the model has a name of their own.

    The branches of an If may use one name for two things; a plan, which speaks by name, could not
    tell them apart. Values of the main graph keep their names.

    Returns:
        How many values were renamed.
    """
    graphs = list(nested(model.graph))
    if len(graphs) == 1:
        return 0
    taken: set[str] = set()
    clashes: list[ir.Value] = []
    for graph in graphs:
        for value in values_of(graph):
            if not value.name:
                continue
            if value.name in taken and graph is not model.graph:
                clashes.append(value)
            taken.add(value.name)
    for value in clashes:
        count = 1
        while f"{value.name}_{count}" in taken:
            count += 1
        value.name = f"{value.name}_{count}"
        taken.add(value.name)
    return len(clashes)
