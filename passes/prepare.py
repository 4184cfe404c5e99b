"""What is done to a model before it is analyzed."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.passes.base import Context
from onnxprune.passes.fold_constants import FoldConstants
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.passes.inline_functions import InlineFunctions
from onnxprune.rules.bodies import nested


def prepare(model: ir.Model, context: Context, *, structural: bool) -> None:
    """Make a model tell its shapes, and its layers what they multiply by, in place.

    Local functions are put in the place of their calls.

    Nodes that come before what they read (onnxruntime does not mind, and converters to half
    precision leave them at the end of the file) are put in order.

    Args:
        model: as it was loaded.
        context: of the run.
        structural: units are to be deleted, for which arithmetic on sizes is folded; else nodes
            stay, but for those that mix the elements of weights.
    """
    InlineFunctions().run(model, context)
    if not all(map(_in_order, nested(model.graph))):
        model.graph.sort()
    if structural:
        FoldConstants().run(model, context)
        return
    FoldConstants(only_weights=True).run(model, context)
    InferShapes().run(model, context)


def _in_order(graph: ir.Graph) -> bool:
    """Whether every node of a graph comes behind those of the graph that it reads."""
    seen: set[ir.Node] = set()
    for node in graph:
        makers = (v.producer() for v in node.inputs if v is not None)
        if any(m is not None and m.graph is graph and m not in seen for m in makers):
            return False
        seen.add(node)
    return True
