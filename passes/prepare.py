"""What is done to a model before it is analyzed."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.passes.base import Context
from onnxprune.passes.fold_constants import FoldConstants
from onnxprune.passes.infer_shapes import InferShapes


def prepare(model: ir.Model, context: Context, *, structural: bool) -> None:
    """Make a model tell its shapes, and its layers what they multiply by, in place.

    Args:
        model: as it was loaded, local functions inlined.
        context: of the run.
        structural: units are to be deleted, for which arithmetic on sizes is folded; else nodes
            stay, but for those that mix the elements of weights.
    """
    if structural:
        FoldConstants().run(model, context)
        return
    FoldConstants(only_weights=True).run(model, context)
    InferShapes().run(model, context)
