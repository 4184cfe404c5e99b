"""From a model to units: run every node's rule, solve the space, group what is left free."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.axes import Group, Ids, Partition, Reason, Space, group_units, solve
from onnxprune.io import overridable
from onnxprune.rules.base import (
    RULES,
    Contraction,
    Dim,
    GiveUp,
    KeptOf,
    OpenDim,
    Reduction,
    Restated,
    Site,
)
from onnxprune.rules.bodies import captured, graphs_of, nested, unique_names, values_of
from onnxprune.rules.nominal import nominal_shapes
from onnxprune.rules.reading import Scheme, read
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.shapes import infer_shapes
from onnxprune.rules.sizes import SizeTracer
from onnxprune.rules.states import Pair, find_states
from onnxprune.rules.stored import Stored
from onnxprune.rules.view import NodeView

Use = tuple[ir.Node, int]
Patch = Callable[[Rewriter, KeptOf], None]
# Inputs that are sizes and that a rule keeps right when the sizes change.
SIZE_INPUTS = {("Reshape", 1), ("Expand", 1), ("Resize", 3), ("Split", 1), ("ConstantOfShape", 0)}
ROUNDS = 64  # of learning shapes; the last one learns nothing, this only bounds a surprise
STANDARD = ("", "ai.onnx")
FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


class Analyzer:
    """Runs the rules over one graph; :attr:`result` holds what came out.

    ``through_norms`` lets coordinates leave the axis that a normalisation mixes: its statistics are
    then those of what stays, which is not what zeros would give (:class:`Restated`).
    ``inside_heads`` lets the inside of attention heads be cut beside the heads themselves.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        freeze_interface: bool = True,
        free: Container[ir.Value] = (),
        states: Sequence[Pair] = (),
        through_norms: bool = False,
        inside_heads: bool = False,
    ) -> None:
        self.model = model
        self.graph = model.graph
        self.through_norms = through_norms
        self.inside_heads = inside_heads
        self.space = Space()
        self.sites: list[Site] = []
        self.contractions: list[Contraction] = []
        self.patches: list[tuple[ir.Node, Patch]] = []
        self.restated: list[Restated] = []
        self.reductions: list[Reduction] = []
        # (coordinate of size one, axis it is broadcast against)
        self.broadcasts: list[tuple[Ids, Ids]] = []
        self.producers: list[tuple[ir.Node, Ids]] = []
        self.ordered: list[Ids] = []  # axes whose units may go, but not change places
        # Constants with coordinates: ids of their axes. A vector (at most one axis longer than 1)
        # has its own at every use, so that a bias which an exporter shared between two layers
        # does not tie them; a matrix has one set, and layers that share it are tied.
        self.parameters: dict[tuple[ir.Value, Use | None], list[Ids | None]] = {}
        # What nodes take the numbers of an operand for.
        self.schemes: dict[Use, Scheme] = {}
        self.unsupported: dict[str, int] = {}
        self.unknown: set[ir.Node] = set()  # no rule, or one that gave up
        self.learned = 0
        self._times = 1
        self._overridable = overridable(model)
        self._tensors: dict[ir.Value, ir.TensorProtocol | None] = {}
        self._weights: dict[ir.Value, bool] = {}
        self._stored: dict[ir.Value, Stored | None] = {}
        self._labels: dict[ir.Node, str] = {}
        self.sizes = SizeTracer(self.tensor, self.dims)
        self.states = list(states)
        self._run(freeze_interface, free)
        self._settle_reductions()
        self.partition: Partition = solve(self.space, inside_heads=inside_heads)

    # -- facts about values -------------------------------------------------------------------

    def label(self, node: ir.Node) -> str:
        """Return how a person would call the node."""
        if node not in self._labels:
            name = node.name or (node.outputs[0].name if node.outputs else "") or "?"
            self._labels[node] = f"{node.op_type} {name}"
        return self._labels[node]

    def opset(self, node: ir.Node) -> int:
        """Return the opset version that gives ``node`` its meaning."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        imports = self.graph.opset_imports
        return int(node.version or imports.get(domain) or imports.get("ai.onnx") or 1)

    def tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """Return the constant behind ``value``, or None."""
        if value not in self._tensors:
            tensor = None
            producer = value.producer()
            if producer is not None:
                if producer.op_type == "Constant" and producer.domain in STANDARD:
                    tensor = ir.convenience.get_const_tensor(value)
            elif value.is_initializer() and value not in self._overridable:
                tensor = value.const_value
            self._tensors[value] = tensor
        return self._tensors[value]

    def is_const(self, value: ir.Value) -> bool:
        """Return whether ``value`` is a constant of the model."""
        return self.tensor(value) is not None

    def is_weight(self, value: ir.Value) -> bool:
        """Return whether ``value`` is a constant, or made of constants alone."""
        if value not in self._weights:
            producer = value.producer()
            self._weights[value] = self.is_const(value) or (
                producer is not None
                and bool(producer.inputs)
                and not graphs_of(producer)  # a body may read what is no constant
                and producer.op_type != "Shape"
                and all(v is None or self.is_weight(v) for v in producer.inputs)
            )
        return self._weights[value]

    def stored(self, value: ir.Value) -> Stored | None:
        """Return a constant with the numbers it stands for.

        None for integers that stand for themselves (indices, shapes) and for what is no constant.
        """
        if value not in self._stored:
            self._stored[value] = read(self, value)
        return self._stored[value]

    def known(self, value: ir.Value) -> np.ndarray[Any, Any] | None:
        """Return the elements of ``value`` when they do not depend on inputs or on sizes."""
        tensor = self.tensor(value)
        if tensor is not None:
            return np.asarray(tensor.numpy())
        entries = self.sizes.of(value)
        if entries is None or any(e.value is None or e.leaves for e in entries.reshape(-1)):
            return None
        flat = np.array([e.value for e in entries.reshape(-1)])
        known: np.ndarray[Any, Any] = flat.reshape(entries.shape)
        return known

    def dims(self, value: ir.Value) -> list[Dim] | None:
        """Return the dims of ``value``: int, symbol name or None; None when rank is unknown."""
        tensor = self.tensor(value)
        shape = tensor.shape if tensor is not None else value.shape
        if shape is None:
            return None
        if tensor is not None:
            return list(tensor.shape.numpy())
        # Some exporters write 0 or -1 where they mean any size.
        return [(d if d > 0 else None) if isinstance(d, int) else d.value for d in shape]

    def nominal(self, dim: OpenDim) -> int:
        """Return the size to count with for an axis whose size the model leaves open."""
        return self.counted(dim, self._nominal)

    @staticmethod
    def counted(dim: OpenDim, shapes: Mapping[str, Sequence[int | None]]) -> int:
        """Return the size of an open axis, among the dims of values by name; 1 where unknown."""
        value, axis = dim
        dims = shapes.get(value.name or "", ())
        return (dims[axis] if axis < len(dims) else None) or 1

    @cached_property
    def _nominal(self) -> dict[str, list[int | None]]:
        return nominal_shapes(self.model)

    def ids(self, value: ir.Value, axis: int, use: Use | None) -> Ids | None:
        """Return the ids of one axis, allocating them at first sight."""
        dims = self.dims(value)
        if dims is None or not isinstance(dims[axis], int):
            return None
        const = self.is_const(value)
        own = use if const and sum(d != 1 for d in dims) <= 1 else None
        key = (value, own, axis)
        found = self.space.keys.get(key)
        if found is None:
            size = dims[axis]
            assert isinstance(size, int)
            found = self.space.new(size, key)
            if const:
                axes = self.parameters.setdefault((value, own), [None] * len(dims))
                axes[axis] = found
        return found

    def parameter(self, value: ir.Value, node: ir.Node) -> list[Ids | None] | None:
        """Return the ids of a parameter's axes as ``node`` uses it; None where it has none.

        Parameters of one line, such as a layer of one output has, have ids of their own for every
        use.
        """
        for (other, use), axes in self.parameters.items():
            if other is value and (use is None or use[0] is node):
                return axes
        return None

    def produces(self, value: ir.Value, axis: int, use: Use) -> None:
        """Record that a weight axis makes new units."""
        ids = self.ids(value, axis, use)
        if ids is not None:
            self.producers.append((use[0], ids))

    # -- the run ------------------------------------------------------------------------------

    def _freeze_value(self, value: ir.Value, reason: Reason, use: Use | None = None) -> None:
        for axis in range(len(self.dims(value) or ())):
            ids = self.ids(value, axis, use)
            if ids is not None:
                self.space.freeze(ids, reason)

    def _run(self, freeze_interface: bool, free: Container[ir.Value]) -> None:
        if freeze_interface:
            for value in self.graph.inputs:
                if value in free:
                    continue
                if value not in self.graph.initializers.values() or value in self._overridable:
                    self._freeze_value(value, Reason(f"graph input {value.name}", "is an input"))
            for value in self.graph.outputs:
                if value not in free:
                    self._freeze_value(value, Reason(f"graph output {value.name}", "is an output"))
        self.enter(self.graph)

    def enter(self, graph: ir.Graph, times: int = 1) -> None:
        """Apply the rules of a graph's nodes, in order; ``times``: how often it runs."""
        outside, self._times = self._times, self._times * times
        for node in graph:
            if node.op_type != "Constant" or node.domain not in STANDARD:
                self._apply(node)
        for value in graph.outputs:
            self._hold_sizes(value, f"output {value.name}")
        self._times = outside

    def contract(self, contraction: Contraction) -> None:
        """Record the cost of a node, as often as the body it is in runs."""
        if self._times > 1:
            contraction = replace(contraction, macs=(*contraction.macs, self._times))
        self.contractions.append(contraction)

    def _apply(self, node: ir.Node) -> None:
        is_size = self.sizes.visit(node)
        if is_size and node.op_type == "Shape":
            return
        if not is_size:
            self._check_size_inputs(node)
        domain = "" if node.domain in STANDARD else node.domain
        entry = RULES.get((domain, node.op_type))
        view = NodeView(self, node)
        records: tuple[list[Any], ...] = (
            self.sites,
            self.contractions,
            self.patches,
            self.restated,
            self.reductions,
        )
        marks = [len(r) for r in records]
        times = self._times
        try:
            if entry is None:
                key = f"{domain}::{node.op_type}" if domain else node.op_type
                self.unsupported[key] = self.unsupported.get(key, 0) + 1
                raise GiveUp(f"{key} has no rule")
            entry.apply(view)
        except (GiveUp, LookupError, ValueError, TypeError) as stop:
            # A malformed node makes a rule stumble; like a rule that gives up, it only freezes.
            for record, mark in zip(records, marks, strict=True):
                del record[mark:]
            self._times = times
            self.unknown.add(node)
            self._freeze_node(node, str(stop) or f"{node.op_type} could not be read")
        view.finish()

    def _settle_reductions(self) -> None:
        """Tell plain reductions from halves of normalisations, which mix what they come back to."""
        if not self.reductions:
            return
        labels = self.space.components()[1]
        met: dict[int, set[int]] = {}
        for one, wide in self.broadcasts:
            met.setdefault(int(labels[one[0]]), set()).update(labels[wide].tolist())
        for found in self.reductions:
            returns = any(
                one is not None and not met.get(int(labels[one[0]]), set()).isdisjoint(labels[ids])
                for _, ids, one in found.axes
            )
            inputs = tuple((0, axis, ids) for axis, ids, _ in found.axes)
            if not returns:
                self.sites.extend(Site(found.node, (operand,)) for operand in inputs)
                self.patches.append((found.node, found.patch))
            elif found.mean and self.through_norms:
                over = tuple(ids for _, _, ids in inputs)
                self.restated.append(Restated(found.node, inputs, (), over))
            else:
                for _, _, ids in inputs:
                    self.space.freeze(ids, Reason(self.label(found.node), found.why))

    def _freeze_node(self, node: ir.Node, why: str) -> None:
        reason = Reason(self.label(node), why)
        bodies = graphs_of(node)
        outer = [v for body in bodies for v in captured(body)]
        for index, value in enumerate([*node.inputs, *outer]):
            if value is not None:
                self._freeze_value(value, reason, (node, index))
        for value in node.outputs:
            self._freeze_value(value, reason)
        for graph in (g for body in bodies for g in nested(body)):
            for value in values_of(graph):
                self._freeze_value(value, reason)
            for inner in graph:
                for index, used in enumerate(inner.inputs):
                    if used is not None:
                        self._freeze_value(used, reason, (inner, index))

    def _check_size_inputs(self, node: ir.Node) -> None:
        """Freeze axes whose size flows into something other than a shape that a rule patches."""
        for index, value in enumerate(node.inputs):
            entries = self.sizes.of(value)
            if entries is None or (
                (node.op_type, index) in SIZE_INPUTS and node.domain in STANDARD
            ):
                continue
            self._hold_sizes(value, self.label(node))

    def _hold_sizes(self, value: ir.Value | None, where: str) -> None:
        """Freeze the axes whose sizes ``value`` is made of."""
        entries = self.sizes.of(value)
        if entries is None:
            return
        leaves = {x for e in entries.reshape(-1) for x in e.leaves}
        for leaf in sorted(leaves, key=lambda x: (x[0].name or "", x[1])):
            ids = self.ids(leaf[0], leaf[1], None)
            if ids is not None:
                why = f"its size is used as a number (axis {leaf[1]} of {leaf[0].name})"
                self.space.freeze(ids, Reason(where, why))

    # -- results ------------------------------------------------------------------------------

    def parameter_axes(self) -> list[tuple[str, int, Ids]]:
        """Return (name, axis, ids) of every parameter axis, in order of first use.

        Vectors come last: exporters gather equal ones, and relay them, at the top of the graph, far
        from the layers they belong to, and a group takes its place and name from its first axis.
        """
        rows = [
            (value.name or "", axis, ids)
            for (value, _), axes in self.parameters.items()
            for axis, ids in enumerate(axes)
            if ids is not None
        ]
        vectors = {value.name or "" for value, use in self.parameters if use is not None}
        return sorted(rows, key=lambda row: row[0] in vectors)

    @cached_property
    def by_name(self) -> dict[str, ir.Value]:
        """Every parameter by name."""
        return {value.name or "": value for (value, _) in self.parameters}

    @cached_property
    def groups(self) -> list[Group]:
        """Groups of free units; see :func:`onnxprune.axes.group_units`."""
        made = np.zeros(self.partition.count, np.bool_)
        for _, ids in self.producers:
            made[self.partition.labels[ids]] = True
        return group_units(self.partition, self.parameter_axes(), made)


def analyze(
    model: ir.Model,
    *,
    freeze_interface: bool = True,
    states: str | None = None,
    through_norms: bool = False,
    inside_heads: bool = False,
) -> Analyzer:
    """Run the rules over ``model`` (shapes already inferred) and return what they found.

    Args:
        model: shapes that rules know and inference does not are filled in.
        freeze_interface: inputs and outputs of the graph stay.
        states: regular expression; inputs of these names that an output gives back are streaming
            state, which may shrink at both ends. They are :attr:`Analyzer.states`.
        through_norms: see :class:`Analyzer`.
        inside_heads: likewise; what is then removed must be closed
            (:meth:`onnxprune.axes.Partition.closed`).
    """
    import onnxprune.rules.families  # noqa: F401  (registers every rule)

    unique_names(model)

    def run(**free: Any) -> Analyzer:
        return Analyzer(model, through_norms=through_norms, inside_heads=inside_heads, **free)

    found = run(freeze_interface=freeze_interface)
    for _ in range(ROUNDS):
        if not found.learned:
            break
        infer_shapes(model)  # a rule knew a shape; what follows it may be inferable now
        found = run(freeze_interface=freeze_interface)
    if states is not None and freeze_interface:
        pairs = find_states(model, states, lambda free: run(free=free))
        if pairs:
            found = run(free={v for pair in pairs for v in pair}, states=pairs)
    return found
