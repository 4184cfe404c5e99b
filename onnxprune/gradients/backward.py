"""Derivatives of scalars with respect to weights, by a rule an operator (vector-Jacobian products).

The rules write ONNX nodes, so that gradients run in the runtime that the network runs in and need
no other framework (methods.md 4). All shapes are known when they are written, which makes every
Reshape and sum of theirs a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnxprune.gradients.emit import Emitter


class NoGradient(Exception):
    """A node that a derivative would have to pass has no rule, or a form without one."""


@dataclass(frozen=True)
class View:
    """What a rule sees.

    Attributes:
        e: where it writes.
        node: the node of the graph.
        dy: derivatives of the node's outputs; None where nothing depends on one.
        wants: which inputs need a derivative.
        makers: the node that makes a value.
    """

    e: Emitter
    node: onnx.NodeProto
    dy: list[str | None]
    wants: list[bool]
    makers: Mapping[str, onnx.NodeProto] = field(default_factory=dict)

    @property
    def g(self) -> str:
        """Derivative of the first output.

        Raises:
            NoGradient: only other outputs have one.
        """
        if self.dy[0] is None:
            raise NoGradient(f"{self.node.op_type}: a derivative of its second output alone")
        return self.dy[0]

    @property
    def x(self) -> list[str]:
        """Names of the inputs."""
        return list(self.node.input)

    @property
    def y(self) -> str:
        """Name of the first output."""
        return str(self.node.output[0])

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of an input."""
        return self.e.shapes[self.node.input[index]]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or ``default``."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return onnx.helper.get_attribute_value(attribute)
        return default

    def number(self, index: int) -> Any:
        """The numbers of a constant input; None where it is absent.

        Raises:
            NoGradient: it is computed.
        """
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        found = self.e.known.get(self.node.input[index])
        if found is None:
            raise NoGradient(f"{self.node.op_type}: input {index} is no constant")
        return found


#: Gives the derivative of every input, None for those without.
Rule = Callable[[View], Sequence[str | None]]
RULES: dict[str, Rule] = {}
#: Operators that see no numbers, only how many there are.
SIZES = ("Shape", "Size")


def rule(*kinds: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators of a domain, the standard one unless it is named."""

    def add(function: Rule) -> Rule:
        for kind in kinds:
            RULES[f"{domain}:{kind}" if domain else kind] = function
        return function

    return add


def backward(
    e: Emitter,
    nodes: Sequence[onnx.NodeProto],
    seeds: Mapping[str, str],
    wanted: Sequence[str],
    ends: dict[str, str] | None = None,
) -> dict[str, str]:
    """Write the derivative of a scalar with respect to ``wanted``.

    Args:
        e: knows the shapes of all values; the nodes go there.
        nodes: the graph, in order.
        seeds: value -> name of the scalar's partial derivative with respect to it.
        wanted: values (inputs, or made by a node) whose derivatives are wanted.
        ends: where given, a node without a rule ends the way instead of raising: nothing of what
            lies behind it reaches what lies before. What it reads is put here, with the reason.

    Returns:
        wanted value -> name of its derivative; values nothing depends on are left out.

    Raises:
        NoGradient: a node on the way has no rule.
    """
    from onnxprune.gradients import (
        rules_activations,
        rules_attention,
        rules_layers,
        rules_norms,
        rules_pointwise,
        rules_recurrent,
        rules_resize,
        rules_select,
        rules_shape,
    )

    assert rules_layers and rules_pointwise and rules_recurrent and rules_shape
    assert rules_attention and rules_activations and rules_norms and rules_resize and rules_select
    reached = set(wanted)
    for node in nodes:
        if node.op_type in SIZES:
            continue
        if any(name in reached for name in node.input):
            reached.update(name for name in node.output if name)
    makers = {name: node for node in nodes for name in node.output if name}
    found: dict[str, str] = dict(seeds)
    for node in reversed(nodes):
        dy = [found.get(name) for name in node.output]
        wants = [name in reached for name in node.input]
        if not any(wants) or all(d is None for d in dy):
            continue
        mark = len(e.nodes)
        try:
            given = _rule_of(node)(View(e, node, dy, wants, makers))
        except NoGradient as stop:
            if ends is None:
                raise
            del e.nodes[mark:]
            ends.update((n, str(stop)) for n, want in zip(node.input, wants, strict=True) if want)
            continue
        for name, want, part in zip(node.input, wants, given, strict=False):
            if want and part is not None:
                found[name] = part if name not in found else e.binary("Add", found[name], part)
    return {name: found[name] for name in wanted if name in found}


def _rule_of(node: onnx.NodeProto) -> Rule:
    standard = node.domain in ("", "ai.onnx")
    entry = RULES.get(node.op_type if standard else f"{node.domain}:{node.op_type}")
    if entry is None:
        raise NoGradient(f"{node.op_type} has no derivative here")
    return entry
