"""Fold BatchNormalization into the layer before or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxprune.io import overridable
from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.rules.analysis import STANDARD
from onnxprune.rules.rewriter import Constants

Array = np.ndarray[Any, Any]
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@PASSES.member("fold-bn")
@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Merge inference-mode BatchNormalization into the weights of a neighbouring layer.

    y = gamma (Wx + b - mean) / sqrt(var + eps) + beta is again a layer of the same kind (Ioffe and
    Szegedy, 2015). Folded into the Conv, ConvTranspose, Gemm or MatMul (with or without an Add)
    before it, else into the Conv or Gemm behind it, where everything is constant, nothing else
    reads the value in between, and it is exact: not forward into a convolution that pads with
    zeros. The layer keeps its node name and takes over the name of the BatchNormalization's
    output; weight names stay; weights that others use are cloned. Arithmetic is float64, results
    keep their dtype. Main graph only: weights captured by a subgraph are cloned, not followed.

    Attributes:
        forward: also fold into the layer behind.
    """

    name: ClassVar[str] = "fold-bn"
    forward: bool = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Fold wherever it is exact; ``stats`` names what was folded and what was not, and why."""
        folder = _Folder(model)
        folded: list[str] = []
        left: dict[str, str] = {}
        for node in list(model.graph):
            if node.op_type == "BatchNormalization" and node.domain in STANDARD:
                label = node.name or node.outputs[0].name or "?"
                why = folder.fold(node, self.forward)
                if why is None:
                    folded.append(label)
                else:
                    left[label] = why
        return PassResult(model, bool(folded), {"folded": folded, "left": left})


def _number(node: ir.Node, name: str, default: float) -> float:
    attr = node.attributes.get(name)
    return default if attr is None else float(attr.value)


def _padded(layer: ir.Node) -> bool:
    """Return whether a convolution pads with zeros."""
    auto = layer.attributes.get("auto_pad")
    if auto is not None and auto.as_string() not in ("NOTSET", "VALID"):
        return True
    pads = layer.attributes.get("pads")
    return pads is not None and any(pads.as_ints())


@dataclass(frozen=True)
class _Affine:
    """A normalisation as y = scale x + shift, one number a channel, float64."""

    scale: Array
    shift: Array


class _Folder:
    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.constants = Constants(model.graph)
        self._open = overridable(model)

    def _constant(self, value: ir.Value | None) -> Array | None:
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if tensor is None or value in self._open:
            return None
        return np.asarray(tensor.numpy())

    def fold(self, norm: ir.Node, forward: bool) -> str | None:
        """Fold one node; return why not, or None when it is done."""
        if _number(norm, "training_mode", 0) or _number(norm, "spatial", 1) != 1:
            return "it is in training mode"
        if any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
            return "its running statistics are used"
        numbers = [self._constant(v) for v in norm.inputs[1:5]]
        if any(s is None for s in numbers):
            return "its parameters are not constant"
        gamma, beta, mean, var = (s.astype(np.float64) for s in numbers if s is not None)
        scale = gamma / np.sqrt(var + _number(norm, "epsilon", 1e-5))
        affine = _Affine(scale, beta - mean * scale)
        why = self._backward(norm, affine)
        if why is None or not forward:
            return why
        ahead = self._forward(norm, affine)
        return None if ahead is None else f"{why}; {ahead}"

    # -- into the layer before ----------------------------------------------------------------

    def _backward(self, norm: ir.Node, affine: _Affine) -> str | None:
        source = norm.inputs[0]
        chain = None if source is None else _Layer.before(source)
        if chain is None:
            return "no layer with weights comes before it"
        if any(len(v.uses()) != 1 or v.is_graph_output() for v in chain.between):
            return "something else reads the layer's output"
        weight, bias = self._constant(chain.weight), self._constant(chain.bias)
        if weight is None or (chain.bias is not None and bias is None):
            return "the layer's parameters are not constant"
        channels = len(affine.scale)
        old = np.zeros(1) if bias is None else bias.astype(np.float64) * chain.beta
        if old.ndim > 2 or (old.size > 1 and (old.shape[-1] != channels or old.size != channels)):
            return "the layer's bias differs from row to row"
        if chain.layer.op_type == "MatMul" and (weight.ndim != 2 or not chain.flat):
            return "its channels are not the columns of the matrix product"
        shift = old.reshape(-1) * affine.scale + affine.shift
        scaled = _scaled(chain.layer, weight, affine.scale).astype(weight.dtype)
        self.constants.replace(chain.layer, 1, scaled)
        self._give_bias(chain, np.broadcast_to(shift, (channels,)).astype(weight.dtype), norm)
        return None

    def _give_bias(self, chain: _Layer, bias: Array, norm: ir.Node) -> None:
        if chain.layer.op_type != "MatMul":
            self._set(chain.layer, 2, bias)
            if "beta" in chain.layer.attributes:
                chain.layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
        elif chain.add is not None:
            index = chain.add.inputs.index(chain.bias)
            self.constants.replace(chain.add, index, bias)
        else:
            name = chain.layer.name or norm.name or "matmul"
            value = self.constants.add(f"{name}.bias", bias)
            product = chain.layer.outputs[0]
            total = ir.Value(
                name=self.constants.fresh_name(f"{name}_plus_bias"),
                type=product.type,
                shape=product.shape,
            )
            add = ir.Node("", "Add", [product, value], outputs=[total], name=total.name)
            norm.prepend(add)
            norm.replace_input_with(0, total)
        self._take_place(norm)

    def _set(self, node: ir.Node, index: int, array: Array) -> None:
        """Give a node a constant, one of a telling name where it had none."""
        if index < len(node.inputs) and node.inputs[index] is not None:
            self.constants.replace(node, index, array)
            return
        weight = node.inputs[1]
        base = node.name or (weight.name if weight is not None else None) or node.op_type
        value = self.constants.add(f"{base}.bias", array)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def _take_place(self, norm: ir.Node) -> None:
        """Let the normalisation's input stand where its output did, under its name."""
        old, new = norm.outputs[0], norm.inputs[0]
        assert new is not None
        name, shape, kind = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._drop(norm)
        new.name, new.shape = name, shape
        new.type = new.type if kind is None else kind

    def _drop(self, norm: ir.Node) -> None:
        used = [v for v in norm.inputs[1:5] if v is not None]
        self.graph.remove(norm, safe=True)
        for value in used:
            if (
                value.is_initializer()
                and not value.uses()
                and not value.is_graph_output()
                and not value.is_graph_input()
            ):
                self.graph.initializers.pop(value.name or "", None)

    # -- into the layer behind ----------------------------------------------------------------

    def _forward(self, norm: ir.Node, affine: _Affine) -> str | None:
        out = norm.outputs[0]
        users = list(out.uses())
        layer = users[0].node if len(users) == 1 and users[0].idx == 0 else None
        if layer is None or layer.op_type not in ("Conv", "Gemm") or out.is_graph_output():
            return "nor is a layer with weights its only reader"
        has_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
        weight = self._constant(layer.inputs[1])
        bias = self._constant(layer.inputs[2]) if has_bias else None
        if weight is None or (has_bias and bias is None):
            return "nor are the parameters of the layer behind it constant"
        if layer.op_type == "Conv" and affine.shift.any() and _padded(layer):
            return "and the layer behind it pads with zeros"
        if _number(layer, "transA", 0):
            return "nor are its channels the columns of the layer behind it"
        wide = weight.astype(np.float64)
        scaled, added = _pulled(layer, wide, affine)
        old = np.zeros(1) if bias is None else bias.astype(np.float64)
        beta = _number(layer, "beta", 1.0) if layer.op_type == "Gemm" else 1.0
        total = (old * beta + added).astype(weight.dtype)
        self.constants.replace(layer, 1, scaled.astype(weight.dtype))
        self._set(layer, 2, total)
        if "beta" in layer.attributes:
            layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
        source = norm.inputs[0]
        assert source is not None
        layer.replace_input_with(0, source)
        self._drop(norm)
        return None


@dataclass(frozen=True)
class _Layer:
    """What comes before a normalisation: a layer, and for a MatMul the Add of its bias."""

    layer: ir.Node
    add: ir.Node | None
    bias: ir.Value | None

    @classmethod
    def before(cls, value: ir.Value) -> _Layer | None:
        """Find the layer that makes ``value``."""
        node = value.producer()
        if node is None or node.domain not in STANDARD:
            return None
        if node.op_type == "Add":
            for index in (0, 1):
                operand = node.inputs[index]
                maker = None if operand is None else operand.producer()
                if maker is not None and maker.op_type == "MatMul" and maker.domain in STANDARD:
                    return cls(maker, node, node.inputs[1 - index])
            return None
        if node.op_type not in LAYERS:
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return cls(node, None, bias)

    @property
    def weight(self) -> ir.Value | None:
        """The operand that may hold weights."""
        return self.layer.inputs[1]

    @property
    def beta(self) -> float:
        """The factor of the bias."""
        return _number(self.layer, "beta", 1.0) if self.layer.op_type == "Gemm" else 1.0

    @property
    def flat(self) -> bool:
        """Whether the output is a matrix, so that its channels are the columns."""
        shape = self.layer.outputs[0].shape
        return shape is not None and len(shape) == 2

    @cached_property
    def between(self) -> list[ir.Value]:
        """The values from the layer to the normalisation."""
        nodes = [self.layer] if self.add is None else [self.layer, self.add]
        return [n.outputs[0] for n in nodes]


def _scaled(layer: ir.Node, weight: Array, scale: Array) -> Array:
    """Multiply every output channel of a weight by its scale."""
    wide = weight.astype(np.float64)
    shape: tuple[int, ...] = wide.shape
    if layer.op_type == "Conv":
        scale = scale.reshape((-1,) + (1,) * (wide.ndim - 1))
    elif layer.op_type == "ConvTranspose":
        groups = int(_number(layer, "group", 1))
        wide = wide.reshape((groups, shape[0] // groups, *shape[1:]))
        scale = scale.reshape((groups, 1, -1) + (1,) * (wide.ndim - 3))
    elif _number(layer, "transB", 0):
        scale = scale[:, None]
    product: Array = (wide * scale).reshape(shape)
    return product


def _pulled(layer: ir.Node, weight: Array, affine: _Affine) -> tuple[Array, Array]:
    """Return the weight that takes x for scale x + shift, and what the shift adds to the output."""
    if layer.op_type == "Gemm":
        transposed = bool(_number(layer, "transB", 0))
        alpha = _number(layer, "alpha", 1.0)
        matrix = weight.T if transposed else weight
        pulled: Array = matrix * affine.scale[:, None]
        return (pulled.T if transposed else pulled), alpha * (affine.shift @ matrix)
    groups = int(_number(layer, "group", 1))
    wide = weight.reshape((groups, -1, *weight.shape[1:]))
    channels = (groups, 1, -1) + (1,) * (weight.ndim - 2)
    added = (wide * affine.shift.reshape(channels)).sum(axis=tuple(range(2, wide.ndim)))
    return (wide * affine.scale.reshape(channels)).reshape(weight.shape), added.reshape(-1)
