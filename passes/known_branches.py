"""Putting the branch of an If that always runs in its place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxprune.rules.bodies import graphs_of, nested, values_of


def take_known_branches(
    model: ir.Model, const: Callable[[ir.Value], ir.TensorProtocol | None]
) -> int:
    """Replace every If whose condition is a constant by the nodes of the branch it takes.

    Exporters wrap what depends on a size (torch's ``squeeze``) into an If even when the size is
    known; the branch that never runs often does not even fit the shapes. Names in the model must
    be unique, bodies included.

    Args:
        model: changed in place; main graph and bodies.
        const: the constant behind a value, or None.

    Returns:
        How many If nodes were replaced.
    """
    count = 0
    for graph in list(nested(model.graph)):
        for node in list(graph):
            if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
                continue
            condition = None if node.inputs[0] is None else const(node.inputs[0])
            if condition is None or condition.size != 1:
                continue
            taken = bool(np.asarray(condition.numpy()).reshape(-1)[0])
            attr = node.attributes.get("then_branch" if taken else "else_branch")
            if attr is None or attr.type != ir.AttributeType.GRAPH:
                continue
            branch = attr.as_graph()
            if len(branch.outputs) != len(node.outputs):
                continue
            _splice(model.graph, graph, node, branch)
            count += 1
    return count


def _splice(main: ir.Graph, graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> None:
    results = list(branch.outputs)
    del branch.outputs[:]
    for name, value in list(branch.initializers.items()):
        branch.initializers.pop(name)
        main.register_initializer(value)
    inner = list(branch)
    for one in inner:
        branch.remove(one)
    graph.insert_before(node, inner)
    for old, new in zip(node.outputs, results, strict=True):
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, new)
    ends = [(i, old) for i, old in enumerate(graph.outputs) if old in node.outputs]
    for place, old in ends:
        # The output keeps its name, whatever the branch called it.
        out = ir.Value(name=old.name, type=old.type, shape=old.shape)
        relay = ir.Node("", "Identity", [results[old.index() or 0]], outputs=[out], name=node.name)
        graph.insert_before(node, relay)
        graph.outputs[place] = out
    for body in graphs_of(node):
        _let_go(body)
    graph.remove(node, safe=True)


def _let_go(body: ir.Graph) -> None:
    """Drop what a body holds, so that outer values no longer count it among their users."""
    del body.outputs[:]
    for one in reversed(list(body)):
        for inner in graphs_of(one):
            _let_go(inner)
        body.remove(one, safe=True)
    for value in list(values_of(body)):
        if value.is_initializer() and not value.is_graph_input():
            body.initializers.pop(value.name or "")
