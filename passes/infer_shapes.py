"""Fill in types and shapes of values by ONNX shape inference."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxprune.passes.base import PASSES, Context, Pass, PassResult


@PASSES.member("infer-shapes")
@dataclass(frozen=True)
class InferShapes(Pass):
    """Infer shapes of the main graph, subgraphs included, with constants propagated.

    Local functions are opaque to inference here; their calls stay without a rule.
    """

    name: ClassVar[str] = "infer-shapes"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Merge inferred shapes into ``model``; what cannot be inferred stays unknown."""
        logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # a failure leaves shapes unknown, which rules report
        try:
            result = ShapeInferencePass(check_type=False, strict_mode=False)(model)
        finally:
            logger.setLevel(level)
        return PassResult(model, bool(result.modified))
