"""Fold BatchNormalization into the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.rules.analysis import STANDARD
from onnxprune.rules.rewriter import Constants

Array = np.ndarray[Any, Any]
LAYERS = ("Conv", "ConvTranspose", "Gemm")


@PASSES.member("fold-bn")
@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Merge inference-mode BatchNormalization into Conv, ConvTranspose and Gemm weights.

    y = gamma (Wx + b - mean) / sqrt(var + eps) + beta is again a layer of the same kind (Ioffe and
    Szegedy, 2015). Folded where all of it is constant and nothing else reads the layer's output.
    The layer keeps its node name and takes over the name of the BatchNormalization's output; weight
    names stay; weights that others use are cloned. Arithmetic is float64, results keep their dtype.
    Main graph only.
    """

    name: ClassVar[str] = "fold-bn"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Fold wherever it is exact; ``stats`` names what was folded and what was not, and why."""
        constants = Constants(model.graph)
        folded: list[str] = []
        left: dict[str, str] = {}
        for node in list(model.graph):
            if node.op_type == "BatchNormalization" and node.domain in STANDARD:
                label = node.name or node.outputs[0].name or "?"
                why = _fold(model.graph, node, constants)
                if why is None:
                    folded.append(label)
                else:
                    left[label] = why
        return PassResult(model, bool(folded), {"folded": folded, "left": left})


def _constant(value: ir.Value | None) -> Array | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or value is None or value.is_graph_input():
        return None
    return np.asarray(tensor.numpy())


def _number(node: ir.Node, name: str, default: float) -> float:
    attr = node.attributes.get(name)
    return default if attr is None else float(attr.value)


def _fold(graph: ir.Graph, norm: ir.Node, constants: Constants) -> str | None:
    """Fold one node; return why not, or None when it is done."""
    if _number(norm, "training_mode", 0) or _number(norm, "spatial", 1) != 1:
        return "it is in training mode"
    if any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        return "its running statistics are used"
    source = norm.inputs[0]
    layer = None if source is None else source.producer()
    if source is None or layer is None or layer.op_type not in LAYERS:
        return "no layer with weights comes before it"
    if len(source.uses()) != 1 or source.is_graph_output():
        return "something else reads the layer's output"
    statistics = [_constant(v) for v in norm.inputs[1:5]]
    weight = _constant(layer.inputs[1])
    has_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
    bias = _constant(layer.inputs[2]) if has_bias else None
    if weight is None or (has_bias and bias is None) or any(s is None for s in statistics):
        return "its parameters or the layer's are not constant"
    gamma, beta, mean, var = (s.astype(np.float64) for s in statistics if s is not None)
    scale = gamma / np.sqrt(var + _number(norm, "epsilon", 1e-5))
    old = np.zeros(1) if bias is None else bias.astype(np.float64)
    if layer.op_type == "Gemm":
        old = old * _number(layer, "beta", 1.0)
    if old.ndim > 1 and old.shape[0] != 1:
        return "the layer's bias differs from row to row"
    shift = (old.reshape(-1) - mean) * scale + beta
    constants.replace(layer, 1, _scaled(layer, weight, scale).astype(weight.dtype))
    constants.replace(layer, 2, shift.astype(weight.dtype))
    if layer.op_type == "Gemm" and "beta" in layer.attributes:
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    _take_place(graph, norm, layer)
    return None


def _scaled(layer: ir.Node, weight: Array, scale: Array) -> Array:
    """Multiply every output channel of a weight by its scale."""
    wide = weight.astype(np.float64)
    if layer.op_type == "Conv":
        scaled: Array = wide * scale.reshape((-1,) + (1,) * (wide.ndim - 1))
        return scaled
    if layer.op_type == "Gemm":
        turned: Array = wide * (scale[:, None] if _number(layer, "transB", 0) else scale[None, :])
        return turned
    groups = int(_number(layer, "group", 1))
    shape = (groups, wide.shape[0] // groups, *wide.shape[1:])
    by_group = scale.reshape((groups, 1, -1) + (1,) * (wide.ndim - 2))
    product: Array = (wide.reshape(shape) * by_group).reshape(wide.shape)
    return product


def _take_place(graph: ir.Graph, norm: ir.Node, layer: ir.Node) -> None:
    """Let the layer's output stand where the normalisation's did, under its name."""
    old, new = norm.outputs[0], layer.outputs[0]
    name, shape, dtype = old.name, old.shape, old.type
    used = [v for v in norm.inputs[1:5] if v is not None]
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    new.name, new.shape = name, shape
    new.type = new.type if dtype is None else dtype
    for value in used:
        if value.is_initializer() and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(value.name or "", None)
