"""Fill in types and shapes of values by ONNX shape inference, and by what folding would tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.passes.fold_constants import FoldConstants
from onnxprune.rules.bodies import nested
from onnxprune.rules.shapes import correct_shapes, infer_shapes


@PASSES.member("infer-shapes")
@dataclass(frozen=True)
class InferShapes(Pass):
    """Infer shapes of the main graph, subgraphs included, with constants propagated.

    Declared shapes that inference contradicts give way, those that it cannot tell stay. Where it
    does not even tell a rank (behind a Reshape to sizes that the graph computes), a copy is folded
    and asked; nodes and constants of the model stay as they are.
    Local functions are opaque to inference here; their calls stay without a rule.
    """

    name: ClassVar[str] = "infer-shapes"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Merge inferred shapes into ``model``; what cannot be inferred stays unknown."""
        corrected = correct_shapes(model)
        changed = infer_shapes(model) or corrected
        open_values = _open_values(model)
        if any(value.shape is None for value in open_values):
            changed = _learn(model, open_values, context) or changed
        return PassResult(model, changed)


def _open_values(model: ir.Model) -> list[ir.Value]:
    """Values that are read and whose rank or sizes are not told."""
    return [
        value
        for graph in nested(model.graph)
        for node in graph
        for value in node.outputs
        if value.uses() and (value.shape is None or value.shape.has_unknown_dim())
    ]


def _learn(model: ir.Model, open_values: list[ir.Value], context: Context) -> bool:
    """Give values the shapes that they have in a folded copy; return whether any was told."""
    copy = model.clone()
    FoldConstants().run(copy, context)
    told = {v.name: v.shape for graph in nested(copy.graph) for n in graph for v in n.outputs}
    changed = False
    for value in open_values:
        shape = told.get(value.name)
        if shape is not None and (value.shape is None or len(value.shape) == len(shape)):
            changed |= value.shape != shape
            value.shape = shape
    return changed
