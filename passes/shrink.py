"""Delete coordinates, or write the dense model in which they count for nothing.

Both are views of one law. ``shrink`` takes the removed coordinates out of every tensor, attribute
and size; ``mask`` leaves every tensor as large as it was and puts zeros where removed coordinates
would be summed over. The two models compute the same function.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.axes import Bools, Ids
from onnxprune.rules.analysis import Analyzer, Use
from onnxprune.rules.base import Restated, Site
from onnxprune.rules.rewriter import Constants, Rewriter

PASSING = ("Identity", "Cast", "Transpose", "DequantizeLinear", "QuantizeLinear")


def _take(tensor: ir.TensorProtocol, masks: list[Bools | None]) -> np.ndarray[Any, Any]:
    array = np.asarray(tensor.numpy())
    for axis, mask in enumerate(masks):
        if mask is not None and not mask.all():
            array = np.compress(mask, array, axis=axis)
    return np.ascontiguousarray(array)


def _zeroed(
    axes: dict[int, Bools], zero: np.ndarray[Any, Any], array: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return a copy of ``array`` with ``zero`` at the coordinates of ``axes``."""
    array = np.array(array)
    zero = np.broadcast_to(zero, array.shape)
    for axis, gone in axes.items():
        where = (slice(None),) * axis + (gone,)
        array[where] = zero[where]
    return array


def set_constant(value: ir.Value, new: np.ndarray[Any, Any] | ir.TensorProtocol) -> None:
    """Give an initializer or a Constant node's output a new value of the same dtype."""
    old = ir.convenience.get_const_tensor(value)
    dtype = old.dtype if old is not None else None
    producer = value.producer()
    name = value.name if producer is None or old is None else old.name
    tensor = ir.tensor(new, dtype=dtype, name=name) if isinstance(new, np.ndarray) else new
    if producer is None:
        value.const_value = tensor
    else:
        for name in list(producer.attributes):
            if name.startswith("value") or name == "sparse_value":
                producer.attributes.pop(name)
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
        value.const_value = None
    value.shape = ir.Shape(tensor.shape.numpy())


class Surgery:
    """Applies one choice of removed units to an analyzed model."""

    def __init__(self, analyzer: Analyzer, removed: Bools) -> None:
        self.analyzer = analyzer
        self.model = analyzer.model
        self.removed = removed
        self.constants = Constants(analyzer.graph)
        self._undo: list[Callable[[], object]] = []

    def kept(self, ids: Ids) -> Bools:
        """Return, for every id, whether it stays."""
        return ~self.removed[self.analyzer.partition.labels[ids]]

    # -- shrink -------------------------------------------------------------------------------

    def shrink(self) -> dict[str, list[list[int] | None]]:
        """Delete the removed coordinates.

        Returns:
            For every tensor that lost something: the kept indices of every axis, None for an
            axis that stays whole. A vector that had to be split by use appears under each name.
        """
        plan = self._cut_parameters()  # before a patch puts nodes between a constant and its use
        self._cut_shapes()  # patches may hand a value's name and shape to another
        for node, patch in self.analyzer.patches:
            patch(Rewriter(node, self.constants), self.kept)
        return plan

    def _cut_parameters(self) -> dict[str, list[list[int] | None]]:
        by_value: dict[ir.Value, list[tuple[Use | None, list[Bools | None]]]] = defaultdict(list)
        for (value, use), axes in self.analyzer.parameters.items():
            masks = [None if ids is None else self.kept(ids) for ids in axes]
            by_value[value].append((use, masks))
        plan: dict[str, list[list[int] | None]] = {}
        for value, uses in by_value.items():
            tensor = self.analyzer.tensor(value)
            if tensor is None or all(m is None or m.all() for _, ms in uses for m in ms):
                continue
            variants: dict[bytes, list[tuple[Use | None, list[Bools | None]]]] = defaultdict(list)
            for use, masks in uses:
                key = b"|".join(b"" if m is None else np.packbits(m).tobytes() for m in masks)
                variants[key].append((use, masks))
            # A use that loses nothing, or has no ids, such as Shape of a vector, sees the tensor as
            # it was.
            listed = {use for use, _ in uses}
            whole = any(all(m is None or m.all() for m in masks) for _, masks in uses)
            first = not whole and (
                None in listed or all((u.node, u.idx) in listed for u in value.uses())
            )
            for members in variants.values():
                masks = members[0][1]
                array = _take(tensor, masks)
                name = value.name or ""
                if first and not value.is_graph_output():
                    set_constant(value, array)
                elif any(m is not None and not m.all() for m in masks):
                    clone = self.constants.add(f"{name}_pruned", array)
                    name = clone.name or name
                    for use, _ in members:
                        if use is not None:
                            use[0].replace_input_with(use[1], clone)
                first = False
                plan[name] = [
                    None if m is None or m.all() else np.flatnonzero(m).tolist() for m in masks
                ]
        return plan

    def _cut_shapes(self) -> None:
        for (value, own, axis), ids in self._value_axes():
            if own is None and value.shape is not None and axis < len(value.shape):
                count = int(self.kept(ids).sum())
                if count != len(ids):
                    shape = list(value.shape)
                    shape[axis] = count
                    value.shape = ir.Shape(shape)

    def _value_axes(self) -> list[tuple[tuple[ir.Value, Use | None, int], Ids]]:
        keys: list[tuple[tuple[ir.Value, Use | None, int], Ids]] = []
        for key, ids in self.analyzer.space.keys.items():
            if isinstance(key, tuple) and len(key) == 3 and isinstance(key[0], ir.Value):
                keys.append(((key[0], key[1], key[2]), ids))
        return keys

    # -- mask ---------------------------------------------------------------------------------

    def mask(self, *, restate: bool = True) -> None:
        """Zero what is summed over at removed coordinates; every shape stays as it was.

        :meth:`unmask` takes it back.

        Args:
            restate: let normalisations see the kept coordinates only, as they will once shrunk;
                otherwise they take their statistics over all, as the dense model does.
        """
        if restate:
            for found in self.restated:
                self._restate(found)
        zeros: dict[tuple[ir.Value, Use | None], dict[int, Bools]] = defaultdict(dict)
        for site in self.analyzer.sites:
            if not self.kept(site.operands[0][2]).all() and not self._zero_constant(site, zeros):
                self._insert_mask(site)
        for (value, use), axes in zeros.items():
            tensor = self.analyzer.tensor(value)
            assert tensor is not None
            zero = self._zero(value, np.asarray(tensor.numpy()))
            if use is not None and len(value.uses()) > 1:
                array = _zeroed(axes, zero, np.asarray(tensor.numpy()))
                self._rewire(*use, self.constants.add(f"{value.name}_masked", array))
            else:
                self._undo.append(partial(set_constant, value, tensor))
                set_constant(value, io.derived(tensor, partial(_zeroed, axes, zero)))

    def _zero(self, value: ir.Value, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return what stands for zero in a constant: its zero point where it is quantised."""
        stored = self.analyzer.stored(value)
        return np.zeros([1] * array.ndim, array.dtype) if stored is None else stored.stored_zero()

    def unmask(self) -> None:
        """Take back what :meth:`mask` did."""
        while self._undo:
            self._undo.pop()()

    def _rewire(self, node: ir.Node, index: int, value: ir.Value) -> None:
        old = node.inputs[index]

        def back() -> None:
            node.replace_input_with(index, old)
            maker = value.producer()
            if maker is not None:
                self._remove(maker, old)
            elif value.name in self.analyzer.graph.initializers:
                self.analyzer.graph.initializers.pop(value.name or "")

        self._undo.append(back)
        node.replace_input_with(index, value)

    def _remove(self, node: ir.Node, source: ir.Value | None) -> None:
        """Remove a node put in by :meth:`_before`, and what only it used, up to ``source``."""
        used = [v for v in node.inputs if v is not None and v is not source]
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        for value in used:
            maker = value.producer()
            if value.uses() or value.name not in self.constants.made:
                continue
            if maker is not None:
                self._remove(maker, source)
            elif value.name in self.analyzer.graph.initializers:
                self.analyzer.graph.initializers.pop(value.name or "")

    def _zero_constant(
        self, site: Site, zeros: dict[tuple[ir.Value, Use | None], dict[int, Bools]]
    ) -> bool:
        for index, axis, _ in site.operands:
            value = site.node.inputs[index]
            while value is not None and not self.analyzer.is_const(value):
                producer = value.producer()
                if producer is None or producer.op_type not in PASSING:
                    break
                if producer.op_type == "Transpose":
                    perm = producer.attributes.get("perm")
                    rank = len(value.shape or ())
                    axis = perm.as_ints()[axis] if perm is not None else rank - 1 - axis
                value = producer.inputs[0]
            if value is None or not self.analyzer.is_const(value):
                continue
            stored = self.analyzer.stored(value)
            if stored is not None and stored.fault:
                continue
            for key in ((value, (site.node, index)), (value, None)):
                axes = self.analyzer.parameters.get(key)
                own = None if axes is None else axes[axis]
                if own is not None:
                    zeros[key][axis] = zeros[key].get(axis, np.False_) | ~self.kept(own)
                    return True
        return False

    @property
    def restated(self) -> list[Restated]:
        """The normalisations that lose coordinates."""
        return [
            found
            for found in self.analyzer.restated
            if not all(self.kept(ids).all() for ids in found.over)
        ]

    def _restate(self, found: Restated) -> None:
        """Put a Gather of the kept coordinates before a node, and one behind that spreads them.

        What the second puts at removed coordinates is that of the first kept one: nothing sees it.
        """
        for index, axis, ids in found.inputs:
            source = found.node.inputs[index]
            node, out = self._gather(source, axis, np.flatnonzero(self.kept(ids)))
            found.node.prepend(node)
            self._rewire(found.node, index, out)
        for index in dict.fromkeys(i for i, _, _ in found.outputs):
            old = found.node.outputs[index]
            users, shape, last = list(old.uses()), old.shape, old
            behind = found.node
            for i, axis, ids in found.outputs:
                if i == index:
                    kept = self.kept(ids)
                    spread = np.where(kept, np.cumsum(kept) - 1, 0)
                    node, last = self._gather(last, axis, spread)
                    behind.append(node)
                    behind = node
                    self._undo.append(partial(self._drop, node))
            old.shape = None
            self._undo.append(partial(setattr, old, "shape", shape))
            for user in users:
                user.node.replace_input_with(user.idx, last)
                self._undo.append(partial(user.node.replace_input_with, user.idx, old))

    def _gather(self, source: ir.Value | None, axis: int, take: Ids) -> tuple[ir.Node, ir.Value]:
        base = (source.name if source is not None else None) or "data"
        indices = self.constants.add(f"{base}_kept", take.astype(np.int64))
        name = self.constants.fresh_name(f"{base}_gathered")
        out = ir.Value(name=name, type=None if source is None else source.type)
        attrs = ir.convenience.convert_attributes({"axis": axis})
        node = ir.Node("", "Gather", [source, indices], attrs, outputs=[out], name=name)
        return node, out

    def _drop(self, node: ir.Node) -> None:
        """Take an inserted node and its constants out again."""
        added = node.inputs[1:]
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        for used in added:
            if used is not None:
                self.analyzer.graph.initializers.pop(used.name or "")

    def _insert_mask(self, site: Site) -> None:
        index, axis, ids = site.operands[0]
        source = site.node.inputs[index]
        assert source is not None and source.shape is not None
        rank = len(source.shape)
        keep = self.kept(ids).reshape((-1,) + (1,) * (rank - axis - 1))
        dtype = source.dtype or ir.DataType.FLOAT
        base = f"{source.name}_mask"
        scheme = self.analyzer.schemes.get((site.node, index))
        if scheme is None or not dtype.is_integer():
            factor = self.constants.add(base, keep.astype(dtype.numpy()))
            last = self._before(site.node, "Mul", [source, factor], dtype)
        else:
            # Where exists for few integer types, and zero is wherever the zero point is.
            whole = ir.DataType.INT32
            wide = self._before(site.node, "Cast", [source], whole, to=whole.value)
            nothing = scheme.zero or self.constants.add(f"{base}_zero", np.zeros((), dtype.numpy()))
            zero = self._before(site.node, "Cast", [nothing], whole, to=whole.value)
            chosen = self.constants.add(base, keep)
            picked = self._before(site.node, "Where", [chosen, wide, zero], whole)
            last = self._before(site.node, "Cast", [picked], dtype, to=dtype.value)
        last.shape = source.shape
        self._rewire(site.node, index, last)

    def _before(
        self,
        node: ir.Node,
        op: str,
        inputs: list[ir.Value],
        dtype: ir.DataType,
        **attributes: Any,
    ) -> ir.Value:
        """Put a node in front of another and return its output."""
        name = self.constants.fresh_name(f"{inputs[0].name}_{op.lower()}")
        out = ir.Value(name=name, type=ir.TensorType(dtype))
        given = ir.convenience.convert_attributes(attributes)
        node.prepend(ir.Node("", op, inputs, given, outputs=[out], name=name))
        return out
