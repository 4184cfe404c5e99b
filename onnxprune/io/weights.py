"""Weights that no score can be computed from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxprune.io import walk

_CHUNK = 1 << 22
_MULTIPLIES = frozenset(
    (
        *("Conv", "ConvTranspose", "DeformConv", "FusedConv", "Gemm", "MatMul", "Einsum"),
        *("FusedGemm", "FusedMatMul", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention"),
        *("GroupQueryAttention", "BatchNormalization", "InstanceNormalization"),
        *("LayerNormalization", "GroupNormalization", "RMSNormalization"),
        *("SkipLayerNormalization", "SimplifiedLayerNormalization"),
        "SkipSimplifiedLayerNormalization",
    )
)
_RELAYS = frozenset(
    (
        *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"),
        "DequantizeLinear",
    )
)


def nonfinite_weights(model: ir.Model) -> list[str]:
    """Return the names of weights that hold NaN or infinity, in graph order.

    A NaN counts in any tensor of more than one element, an infinity only where it is multiplied
    (a weight, bias or statistic of a layer): attention masks and clipping bounds are infinite on
    purpose. Looks at initializers and Constant nodes of the main graph, subgraphs, functions.
    """
    found: dict[str, None] = {}
    for _, graph in walk.ir_graphs(model):
        for value, tensor in _constants(graph):
            has_nan, has_inf = _nonfinite(tensor)
            if not (has_nan or has_inf):
                continue
            weight = _is_weight(value, set())
            if weight or (has_nan and tensor.size > 1):
                found[value.name or ""] = None
    return list(found)


def _constants(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield value, value.const_value
    for node in graph:
        if node.op_type == "Constant" and node.domain == "" and "value" in node.attributes:
            attribute = node.attributes["value"]
            for tensor in walk.attribute_tensors(attribute):
                yield node.outputs[0], tensor


def _is_weight(value: ir.Value, seen: set[int]) -> bool:
    if id(value) in seen:
        return False
    seen.add(id(value))
    for node in value.consumers():
        if node.op_type in _MULTIPLIES:
            return True
        if node.op_type in _RELAYS and any(_is_weight(o, seen) for o in node.outputs):
            return True
    return False


def _nonfinite(tensor: ir.TensorProtocol) -> tuple[bool, bool]:
    """Return whether a tensor holds any NaN, and any infinity; read in pieces."""
    if not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 8 or tensor.size == 0:
        return False, False  # types below 8 bits have no encoding for either
    flat = tensor.numpy().reshape(-1)
    has_nan = has_inf = False
    for start in range(0, flat.size, _CHUNK):
        piece = flat[start : start + _CHUNK]
        if piece.dtype in (np.float32, np.float64):
            # Squares add up to a finite number only if all are; one pass, nothing written.
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(np.dot(piece, piece)):
                    continue
        if not np.isfinite(piece).all():
            nans = np.isnan(piece)
            has_nan = has_nan or bool(nans.any())
            has_inf = has_inf or not bool(np.isfinite(piece[~nans]).all())
    return has_nan, has_inf


def overridable(model: ir.Model) -> set[ir.Value]:
    """Return the initializers a caller may override and which therefore are not constants.

    Before IR version 4 every initializer had to be listed among the inputs, and exporters kept
    doing so for years after: when most of them are listed it says nothing. A few listed among
    many that are not is an intention.
    """
    initializers = list(model.graph.initializers.values())
    listed = {v for v in model.graph.inputs if v.is_initializer()}
    if (model.ir_version or 0) < 4 or 2 * len(listed) > len(initializers):
        return set()
    return listed


def take_from_inputs(model: ir.Model) -> bool:
    """Take the weights out of the graph's inputs, in place, unless a caller may override some.

    Listed there they are no constants to onnxruntime: nothing is folded into them, and no kernel is
    made for them. True where there were any.
    """
    inputs = model.graph.inputs
    kept = [value for value in inputs if not value.is_initializer()]
    if len(kept) == len(inputs) or overridable(model):
        return False
    inputs[:] = kept
    return True
