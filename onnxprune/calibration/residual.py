"""The other side of an addition: what a layer's output is added to.

The last layer before a residual addition can make up for what the shortcut lost: its target is then
the dense sum less the shortcut as it is now (He et al., "Channel Pruning for Accelerating Very Deep
Neural Networks", 2017, section 3.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.calibration.operands import CONVS, Operand
from onnxprune.rules.analysis import Analyzer

F32 = npt.NDArray[np.float32]


def shortcut_of(analyzer: Analyzer, operand: Operand) -> str | None:
    """Return the name of what the layer's output is added to, biases aside; None without any.

    Only where nothing else reads the layer's output, so that the sum is all that matters.
    """
    node = operand.layer.node
    if node.op_type not in (*CONVS, "MatMul"):
        return None
    rank = analyzer.dims(node.outputs[0])
    value = node.outputs[0]
    for _ in range(3):
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != "Add":
            return None
        add = uses[0].node
        other: ir.Value | None = add.inputs[1 - uses[0].idx]
        if other is None:
            return None
        if not analyzer.is_weight(other):
            dims = analyzer.dims(other)
            same = rank is not None and dims is not None and list(rank) == list(dims)
            return other.name if same else None
        value = add.outputs[0]
    return None


def rows_like(operand: Operand, array: npt.NDArray[Any], chosen: npt.NDArray[Any] | None) -> F32:
    """Return a value shaped like the layer's output as [G, R, N], at the columns' positions.

    Args:
        operand: the layer.
        array: shaped like its output.
        chosen: positions that the columns were taken at; None for all.
    """
    groups, rows = operand.layer.view_shape[:2]
    if operand.layer.node.op_type in CONVS:
        flat = array.reshape(array.shape[0], groups, rows, -1)
        flat = flat if chosen is None else flat[..., chosen]
        return np.ascontiguousarray(flat.transpose(1, 2, 0, 3), np.float32).reshape(
            groups, rows, -1
        )
    rows_of = array.reshape(-1, array.shape[-1])
    rows_of = rows_of if chosen is None else rows_of[chosen]
    return np.ascontiguousarray(rows_of.T, np.float32)[None]
