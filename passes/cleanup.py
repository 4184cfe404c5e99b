"""Remove what nothing needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.rules.analysis import STANDARD
from onnxprune.rules.shapes import infer_shapes


@PASSES.member("cleanup")
@dataclass(frozen=True)
class Cleanup(Pass):
    """Remove nodes and initializers that no output depends on; infer shapes anew.

    Main graph, subgraphs and functions. Inputs and outputs, node names and the names of surviving
    initializers stay as they are. Optional outputs that nothing reads are left out.

    Attributes:
        identity: also remove Identity nodes, and Dropout nodes, which do nothing outside training.
        shapes: infer the shapes of intermediate values anew and store them; what inference cannot
            tell stays as it was.
    """

    name: ClassVar[str] = "cleanup"
    identity: bool = False
    shapes: bool = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Clean up; ``stats`` counts the nodes and initializers that went."""
        before, facts = _count(model), _facts(model)
        if self.identity:
            _skip_dropouts(model)
            IdentityEliminationPass()(model)
        RemoveUnusedNodesPass()(model)
        for graph in model.graph.subgraphs():
            _drop_initializers(graph)
        if self.shapes:
            _infer_anew(model)
        after = _count(model)
        stats = {"nodes": before[0] - after[0], "initializers": before[1] - after[1]}
        return PassResult(model, facts != _facts(model), stats)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _count(model: ir.Model) -> tuple[int, int]:
    graphs = [model.graph, *model.graph.subgraphs()]
    return sum(1 for _ in _nodes(model)), sum(len(g.initializers) for g in graphs)


def _facts(model: ir.Model) -> list[Any]:
    """Return everything that this pass may change."""
    graphs = [model.graph, *model.graph.subgraphs()]
    nodes = [
        (
            id(node),
            [v and v.name for v in node.inputs],
            [(v.name, str(v.shape)) for v in node.outputs],
        )
        for node in _nodes(model)
    ]
    return [nodes, [sorted(g.initializers) for g in graphs]]


def _drop_initializers(graph: ir.Graph) -> None:
    held = {*graph.inputs, *graph.outputs}
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in held:
            graph.initializers.pop(name)


def _skip_dropouts(model: ir.Model) -> None:
    """Let readers of a Dropout read its input, unless it may be in training."""
    for node in _nodes(model):
        if node.op_type != "Dropout" or node.domain not in STANDARD or not node.inputs:
            continue
        source, out = node.inputs[0], node.outputs[0]
        trains = len(node.inputs) > 2 and node.inputs[2] is not None
        if source is None or trains or out.is_graph_output():
            continue
        if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            continue
        ir.convenience.replace_all_uses_with(out, source)


def _infer_anew(model: ir.Model) -> None:
    """Infer the shapes of intermediate values of the main graph from nothing."""
    inner = [v for n in model.graph for v in n.outputs if not v.is_graph_output()]
    old = [v.shape for v in inner]
    for value in inner:
        value.shape = None
    infer_shapes(model)
    for value, shape in zip(inner, old, strict=True):
        if shape is None:
            continue
        if value.shape is None or len(value.shape) != len(shape):
            value.shape = shape
            continue
        # A name that the model gave to a size beats one that inference made up.
        value.shape = ir.Shape(
            [
                new if isinstance(new, int) else kept
                for new, kept in zip(value.shape, shape, strict=True)
            ]
        )
