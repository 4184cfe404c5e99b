"""Fill in types and shapes of values by ONNX shape inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.rules.shapes import correct_shapes, infer_shapes


@PASSES.member("infer-shapes")
@dataclass(frozen=True)
class InferShapes(Pass):
    """Infer shapes of the main graph, subgraphs included, with constants propagated.

    Declared shapes that inference contradicts give way, those that it cannot tell stay.
    Local functions are opaque to inference here; their calls stay without a rule.
    """

    name: ClassVar[str] = "infer-shapes"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Merge inferred shapes into ``model``; what cannot be inferred stays unknown."""
        corrected = correct_shapes(model)
        return PassResult(model, infer_shapes(model) or corrected)
