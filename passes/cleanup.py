"""Remove what nothing needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.rules.shapes import infer_shapes


@PASSES.member("cleanup")
@dataclass(frozen=True)
class Cleanup(Pass):
    """Remove nodes and initializers that no output depends on; infer shapes anew.

    Main graph, subgraphs and functions. Inputs and outputs, node names and the names of surviving
    initializers stay as they are.

    Attributes:
        identity: also remove Identity nodes.
        shapes: infer the shapes of intermediate values anew and store them.
    """

    name: ClassVar[str] = "cleanup"
    identity: bool = False
    shapes: bool = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Clean up; ``stats`` counts the nodes and initializers that went."""
        before = _count(model)
        if self.identity:
            IdentityEliminationPass()(model)
        RemoveUnusedNodesPass()(model)
        changed = infer_shapes(model) if self.shapes else False
        after = _count(model)
        stats = {"nodes": before[0] - after[0], "initializers": before[1] - after[1]}
        return PassResult(model, before != after or changed, stats)


def _count(model: ir.Model) -> tuple[int, int]:
    graphs = [model.graph, *model.graph.subgraphs()]
    nodes = sum(1 for _ in model.graph.all_nodes())
    nodes += sum(1 for f in model.functions.values() for _ in f.all_nodes())
    return nodes, sum(len(g.initializers) for g in graphs)
