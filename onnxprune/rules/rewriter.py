"""Editing nodes and constants of a graph without disturbing anybody else's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.axes import Ids
from onnxprune.rules.bodies import nested, values_of


class Rewriter:
    """Edits one node: attributes and constant inputs, cloning constants that others use."""

    def __init__(self, node: ir.Node, constants: Constants) -> None:
        self.node = node
        self._constants = constants

    def set_attr(self, name: str, value: Any) -> None:
        """Replace or add an attribute, keeping its kind."""
        self.node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def set_input(self, index: int, array: np.ndarray[Any, Any]) -> None:
        """Give input ``index`` a new constant value."""
        self._constants.replace(self.node, index, array)

    def override(self, index: int, sizes: Mapping[int, int], old: Sequence[Any] | int) -> None:
        """Replace elements of a size vector; of a computed one through a Where behind it.

        Args:
            index: the input that holds the vector.
            sizes: new element by position.
            old: the elements of a constant vector, or the length of a computed one.
        """
        n = old if isinstance(old, int) else len(old)
        fixed = np.array(
            [sizes.get(i, 0 if isinstance(old, int) else old[i]) for i in range(n)], np.int64
        )
        if not isinstance(old, int):
            self.set_input(index, fixed)
            return
        mask = np.array([i in sizes for i in range(n)])
        computed = self.node.inputs[index]
        base = computed.name if computed is not None and computed.name else "size"
        chosen = [
            self._constants.add(f"{base}_{part}", array)
            for part, array in (("fixed", mask), ("sizes", fixed))
        ]
        self._insert("Where", [*chosen, computed], index, base)

    @property
    def _name(self) -> str:
        return self.node.name or self.node.outputs[0].name or self.node.op_type

    @property
    def _dtype(self) -> ir.DataType:
        source = self.node.inputs[0]
        return (source.dtype if source is not None else None) or ir.DataType.FLOAT

    def constant(self, part: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """Add a constant named after the node, in the type of the node's first input."""
        return self._constants.add(f"{self._name}_{part}", array.astype(self._dtype.numpy()))

    def before(self, op: str, inputs: Sequence[ir.Value | None], part: str) -> ir.Value:
        """Put another node in front and return its output."""
        name = self._constants.fresh_name(f"{self._name}_{part}")
        out = ir.Value(name=name, type=ir.TensorType(self._dtype))
        self.node.prepend(ir.Node("", op, inputs, outputs=[out], name=name))
        return out

    def become(self, op: str, inputs: Sequence[ir.Value | None]) -> None:
        """Put a node of another kind in the node's place, under its name."""
        out = ir.Value(name="", type=self.node.outputs[0].type, shape=self.node.outputs[0].shape)
        new = ir.Node("", op, inputs, outputs=[out], name=self.node.name)
        self._hand_over(out)
        self.node.prepend(new)
        assert self.node.graph is not None
        self.node.graph.remove(self.node, safe=True)

    def after(self, op: str, operand: np.ndarray[Any, Any], part: str) -> None:
        """Put ``op`` with a constant operand behind the node; it takes over the output's name."""
        out = self.node.outputs[0]
        factor = self.constant(part, operand)
        new = ir.Value(name="", type=out.type, shape=out.shape)
        node = ir.Node(
            "",
            op,
            [None, factor],
            outputs=[new],
            name=self._constants.fresh_name(f"{self._name}_{part}_{op}"),
        )
        self._hand_over(new)
        node.replace_input_with(0, out)
        out.name = self._constants.fresh_name(f"{new.name}_{part}ed")
        self.node.append(node)

    def _hand_over(self, new: ir.Value) -> None:
        """Let ``new`` stand for the node's first output: in its users, outputs and name."""
        old = self.node.outputs[0]
        name = old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = f"{name}_replaced"
        new.name = name

    def gather_before(self, index: int, axis: int, take: Ids) -> None:
        """Take coordinates of an input through a Gather put in front of the node."""
        source = self.node.inputs[index]
        base = source.name if source is not None and source.name else "data"
        indices = self._constants.add(f"{base}_indices", take.astype(np.int64))
        self._insert("Gather", [source, indices], index, base, {"axis": axis})

    def _insert(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        index: int,
        base: str,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        name = self._constants.fresh_name(f"{base}_pruned")
        source = inputs[-1] if op == "Where" else inputs[0]
        out = ir.Value(name=name, type=None if source is None else source.type)
        attributes = ir.convenience.convert_attributes(dict(attrs or {}))
        node = ir.Node("", op, inputs, attributes, outputs=[out], name=name)
        self.node.prepend(node)
        self.node.replace_input_with(index, out)


class Constants:
    """Creates and replaces constants of a graph; one new initializer a distinct need.

    New ones belong to the main graph, where nodes of bodies find them too.

    Attributes:
        made: every name given out.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._taken: set[str] | None = None
        self.made: set[str] = set()

    def fresh_name(self, base: str) -> str:
        """Return a value name that nothing in the model uses."""
        if self._taken is None:
            self._taken = {
                v.name for graph in nested(self._graph) for v in values_of(graph) if v.name
            }
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        self.made.add(name)
        return name

    def add(self, base: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """Add an initializer holding ``array``."""
        name = self.fresh_name(base)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, index: int, array: np.ndarray[Any, Any]) -> None:
        """Give one input of one node a new constant, leaving other users of the old one alone."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and old.is_initializer() and not old.is_graph_input():
            users = [u for u in old.uses() if (u.node, u.idx) != (node, index)]
            if not users and not old.is_graph_output():
                tensor = ir.tensor(array, name=old.name)
                old.const_value = tensor
                old.shape = ir.Shape(array.shape)
                old.dtype = tensor.dtype
                return
        base = (old.name if old is not None else None) or f"{node.name or node.op_type}_{index}"
        value = self.add(f"{base}_pruned", array)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
