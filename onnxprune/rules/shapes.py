"""Shapes: what ONNX infers, and what the rules know beyond it."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass


def infer_shapes(model: ir.Model) -> bool:
    """Merge what ONNX's inference finds into ``model``; return whether anything changed.

    What it cannot infer stays unknown, and the rules say so where it matters.
    """
    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return bool(ShapeInferencePass(check_type=False, strict_mode=False)(model).modified)
    finally:
        logger.setLevel(level)
