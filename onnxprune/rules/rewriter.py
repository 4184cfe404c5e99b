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
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._taken: set[str] | None = None

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
