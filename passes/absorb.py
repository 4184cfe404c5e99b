"""What nodes that sum over constant units lose with them, and how a bias makes up for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxprune.axes import Bools, Ids
from onnxprune.passes.constant_values import ConstantValues
from onnxprune.passes.known import Known
from onnxprune.passes.linear_node import LinearNode
from onnxprune.passes.one_node import Array
from onnxprune.rules.analysis import STANDARD, Analyzer
from onnxprune.rules.base import Site
from onnxprune.rules.rewriter import Constants

FOLDABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Offset:
    """What constant units add to a node's output.

    Attributes:
        axis: output axis along which it differs; None if it is one number.
        vector: float [size of the axis], or [1].
    """

    axis: int | None
    vector: Array

    @property
    def nothing(self) -> bool:
        """Whether the units add exactly zero."""
        return not self.vector.any()


class Summation:
    """One site: a node that sums over units."""

    def __init__(self, constants: ConstantValues, site: Site) -> None:
        self.constants = constants
        self.analyzer: Analyzer = constants.analyzer
        self.node = site.node
        self.site = site
        self.where = self.analyzer.label(site.node)
        self._labels = self.analyzer.partition.labels

    @cached_property
    def _linear(self) -> LinearNode:
        return LinearNode(self.constants, self.node)

    def touches(self, units: Bools) -> bool:
        """Return whether any of ``units`` (bool [components]) is summed over here."""
        return bool(units[self._labels[self.site.operands[0][2]]].any())

    def here(self, units: Bools) -> Bools:
        """Return those of ``units`` that are summed over here."""
        mask = np.zeros(len(units), np.bool_)
        mask[self._labels[self.site.operands[0][2]]] = True
        return mask & units

    def judge(self, removed: Bools) -> tuple[Bools, Bools]:
        """Say of every component summed over here whether its part of the sum is zero, or fixed.

        Args:
            removed: components that go; what a weight says about them does not count.

        Returns:
            (zero, fixed), bool [components]; True too for what is not summed over here.
        """
        count = self.analyzer.partition.count
        own = self.site.operands[0][2]
        zero_at, fixed_at = np.zeros(len(own), np.bool_), np.zeros(len(own), np.bool_)
        zero, fixed = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        for index, axis, ids in self.site.operands:
            known = self.constants.of(self.node.inputs[index])
            if known is None:
                continue
            all_known, all_zero = known.at(axis, len(ids), self._gone(index, removed))
            all_known = all_known & (index == self.active)
            if len(ids) == len(own):
                zero_at |= all_zero
                fixed_at |= all_known
            else:  # the channels of a grouped convolution: several to a coordinate of the weight
                zero |= self._every(ids, all_zero, absent=False)
                fixed |= self._every(ids, all_known, absent=False)
        zero |= self._every(own, zero_at)
        fixed |= self._every(own, zero_at | fixed_at) | zero
        return zero, fixed

    def _gone(self, index: int, removed: Bools) -> list[Bools | None]:
        value = self.node.inputs[index]
        if value is None or not removed.any():
            return []
        axes = dict(self._axes(value, index))
        return [
            removed[axes[axis]] if axis in axes else None
            for axis in range(len(self.analyzer.dims(value) or ()))
        ]

    def _every(self, ids: Ids, flags: Bools, *, absent: bool = True) -> Bools:
        """Return, for every component, whether all its coordinates are flagged.

        Components without a coordinate here are called ``absent``.
        """
        labels = self._labels[ids]
        out = np.full(self.analyzer.partition.count, absent)
        out[labels] = True
        np.logical_and.at(out, labels, flags)
        return out

    @cached_property
    def active(self) -> int | None:
        """The operand that is not a constant, of a product whose other operand is one."""
        if self.node.op_type not in FOLDABLE or self.node.domain not in STANDARD:
            return None
        parts = [self.constants.of(v) for v in self.node.inputs[:2]]
        whole = [p is not None and bool(p.known.all()) for p in parts]
        return 0 if whole[1] else 1 if whole[0] else None

    def _axes(self, value: ir.Value, index: int) -> Iterable[tuple[int, Ids]]:
        for axis in range(len(self.analyzer.dims(value) or ())):
            ids = self.analyzer.ids(value, axis, (self.node, index))
            if ids is not None:
                yield axis, self._labels[ids]

    # -- offsets ------------------------------------------------------------------------------

    def offset(self, units: Bools, scale: Array | None = None) -> Offset | None:
        """Return what ``units`` add to the output; None unless it is the same everywhere.

        Args:
            units: bool [components].
            scale: float [components], factors that tell units apart: what does not depend on the
                position for factors drawn at random does not for any single unit.
        """
        if self.active is None:
            return None
        value = self.node.inputs[self.active]
        known = self.constants.of(value)
        if value is None or known is None:
            return None
        other = 1 - self.active
        parts = {
            self.active: self._restricted(known, value, units, scale),
            other: self.constants.of(self.node.inputs[other]),
        }
        found = self._linear.evaluate(parts, bias=False)
        if found is None or not found.known.all():
            return None
        wide = [axis for axis, size in enumerate(found.values.shape) if size > 1]
        if len(wide) > 1:
            return None
        return Offset(wide[0] if wide else None, found.values.reshape(-1))

    def _restricted(
        self, known: Known, value: ir.Value, units: Bools, scale: Array | None
    ) -> Known:
        """Return the input with everything but ``units`` known to be zero.

        Elements that are not known there count as zero too: :meth:`judge` has seen that the weights
        they meet are.
        """
        factor: Array = np.zeros([1] * known.values.ndim, known.values.dtype)
        assert self.active is not None
        each = units if scale is None else units * scale
        for axis, labels in self._axes(value, self.active):
            if units[labels].any():
                shape = [1] * known.values.ndim
                shape[axis] = len(labels)
                factor = np.maximum(factor, each[labels].reshape(shape).astype(factor.dtype))
        values = np.where(known.known, known.values, np.zeros((), factor.dtype)) * factor
        return Known(values, np.broadcast_to(np.True_, values.shape))

    # -- biases -------------------------------------------------------------------------------

    def refusal(self, offset: Offset | None) -> str | None:
        """Return why an offset cannot be folded here; None when it can."""
        if self.node.op_type not in FOLDABLE or self.node.domain not in STANDARD:
            return f"{self.node.op_type} has no bias to fold a constant into"
        if offset is None:
            if any(name in self.node.attributes for name in ("pads", "auto_pad")):
                return "zero padding makes the border differ from the inside"
            return "the constant does not add the same everywhere"
        if offset.nothing or self.node.op_type == "MatMul":
            return None
        if offset.axis not in (1, None):
            return "the constant differs along an axis that has no bias"
        bias = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        if bias is not None and not self.analyzer.is_const(bias):
            return "its bias is computed, not a constant"
        if self.node.op_type == "Gemm" and self.analyzer.opset(self.node) < 7:
            return "a Gemm before opset 7 says by an attribute how its bias is broadcast"
        return None

    def fold(self, offset: Offset, constants: Constants) -> None:
        """Add the offset to the node's bias, making one where there is none."""
        if offset.nothing:
            return
        if self.node.op_type == "MatMul":
            self._add_behind(offset, constants)
            return
        out = self.node.outputs[0]
        dims = self.analyzer.dims(out) or []
        size = dims[1]
        assert isinstance(size, int)
        vector = np.broadcast_to(offset.vector.astype(np.float64), (size,))
        bias = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        weight = self.node.inputs[1]
        assert weight is not None
        dtype = (out.dtype or weight.dtype or ir.DataType.FLOAT).numpy()
        if self.node.op_type == "Gemm":
            beta = self.node.attributes.get("beta")
            factor = 1.0 if beta is None else beta.as_float()
            if factor == 0.0:
                self.node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
                bias, factor = None, 1.0
            vector = vector / factor
        if bias is None:
            name = f"{self.node.name or weight.name}.bias"
            self._set_input(2, constants.add(name, vector.astype(dtype)))
            return
        tensor = self.analyzer.tensor(bias)
        assert tensor is not None
        old = np.asarray(tensor.numpy())
        constants.replace(self.node, 2, (old.astype(np.float64) + vector).astype(old.dtype))

    def _set_input(self, index: int, value: ir.Value) -> None:
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def _add_behind(self, offset: Offset, constants: Constants) -> None:
        """Fold into the Add behind a MatMul, or put one there."""
        out = self.node.outputs[0]
        rank = len(self.analyzer.dims(out) or ())
        shape = [-1] + [1] * (0 if offset.axis is None else rank - 1 - offset.axis)
        vector = offset.vector.astype(np.float64).reshape(shape)
        users = list(out.uses())
        if len(users) == 1 and users[0].node.op_type == "Add" and not out.is_graph_output():
            node, index = users[0].node, 1 - users[0].idx
            bias = node.inputs[index]
            tensor = None if bias is None else self.analyzer.tensor(bias)
            if tensor is not None and len(tensor.shape) <= rank:
                old = np.asarray(tensor.numpy())
                constants.replace(node, index, (old.astype(np.float64) + vector).astype(old.dtype))
                return
        dtype = (out.dtype or ir.DataType.FLOAT).numpy()
        base = self.node.name or out.name or "matmul"
        bias = constants.add(f"{base}.bias", vector.astype(dtype))
        name = constants.fresh_name(f"{base}_plus_bias")
        total = ir.Value(name=name, type=out.type, shape=out.shape)
        node = ir.Node("", "Add", [out, bias], outputs=[total], name=name)
        graph = self.node.graph  # the main one or a body
        assert graph is not None
        for user in users:
            user.node.replace_input_with(user.idx, total)
        if out.is_graph_output():
            position = list(graph.outputs).index(out)
            graph.outputs[position] = total
            out.name, total.name = name, out.name
        graph.insert_after(self.node, node)
