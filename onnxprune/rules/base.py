"""What rules are made of: the registry, samples for laws, and what a rule may record.

A rule is a function ``rule(n: NodeView) -> None`` registered for an operator together with samples
that the generated law test runs. It reads shapes, attributes and constants of one node and states
how coordinates of its inputs and outputs go together. Whatever axis it leaves unmentioned is
frozen: silence is never permission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxprune.axes import Bools, Ids

if TYPE_CHECKING:
    from onnxprune.rules.view import NodeView

Dim = int | str | None
KeptOf = Callable[[Ids], Bools]


@dataclass(frozen=True)
class Sample:
    """One node for the law test of a rule.

    Attributes:
        shapes: shape of every input that is fed; None for an omitted optional input.
        attrs: attributes of the node.
        consts: inputs that are constants (index -> array) instead of fed.
        opset: opset of the node's domain.
        outputs: number of outputs.
        dtypes: dtype by input index where it is not float32.
        result: shape of output 0 where the installed inference does not know it.
        result_dtype: its dtype.
    """

    shapes: tuple[tuple[int, ...] | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    consts: Mapping[int, Any] = field(default_factory=dict)
    opset: int = 18
    outputs: int = 1
    dtypes: Mapping[int, str] = field(default_factory=dict)
    result: tuple[int, ...] | None = None
    result_dtype: str = "float32"


Rule = Callable[["NodeView"], object]


@dataclass(frozen=True)
class RuleEntry:
    """A registered rule: how it is applied, how it reads in lists, how it is tested."""

    op: str
    domain: str
    apply: Rule
    text: str
    samples: tuple[Sample, ...]
    exact: str


RULES: dict[tuple[str, str], RuleEntry] = {}


def register(
    ops: str | Iterable[str],
    apply: Rule,
    text: str,
    samples: Sequence[Sample],
    *,
    domain: str = "",
    exact: str = "exact",
) -> None:
    """Register ``apply`` for one or several operators.

    Raises:
        ValueError: no samples: a rule that cannot be tested cannot be registered; or a second
            rule for the same operator.
    """
    if not samples:
        raise ValueError(f"rule for {ops} has no samples for its law test")
    for op in [ops] if isinstance(ops, str) else ops:
        if (domain, op) in RULES:
            raise ValueError(f"two rules for {domain}::{op}")
        RULES[domain, op] = RuleEntry(op, domain, apply, text, tuple(samples), exact)


@dataclass(frozen=True)
class Site:
    """A place where coordinates are summed over, so that a zero there equals absence.

    Attributes:
        node: the contracting node.
        operands: (input index, axis, ids) of every operand that has the contracted axis.
    """

    node: ir.Node
    operands: tuple[tuple[int, int, Ids], ...]


OpenDim = tuple[ir.Value, int]
"""An axis whose size the model leaves open."""


@dataclass(frozen=True)
class Contraction:
    """A node that multiplies and sums: what it costs, and its weight if it has a constant one.

    Attributes:
        node: the node.
        weight: index of the constant operand, or None.
        roles: for every axis of the weight, its atoms as (role, size), role one of
            ``g`` (group), ``o`` (output), ``i`` (input), ``k`` (kernel position).
        macs: ids (or plain sizes, or axes of open size) of the dims whose product is the
            multiply-accumulates.
    """

    node: ir.Node
    weight: int | None
    roles: tuple[tuple[tuple[str, int], ...], ...]
    macs: tuple[Ids | int | OpenDim, ...]


@dataclass(frozen=True)
class Restated:
    """A normalisation that a removed coordinate leaves: it sees what stays, nothing else.

    Zeros do not leave a mean or a variance alone, so the reference of the proof is the dense model
    in which this node gets the kept coordinates only.

    Attributes:
        node: the normalising node.
        inputs: (input index, axis, ids) of every operand axis that it normalises over.
        outputs: (output index, axis, ids) likewise.
        over: ids of what the statistics run over; the axes may hold whole groups of it, and these
            can go without anything being restated.
    """

    node: ir.Node
    inputs: tuple[tuple[int, int, Ids], ...]
    outputs: tuple[tuple[int, int, Ids], ...]
    over: tuple[Ids, ...]


@dataclass(frozen=True)
class Reduction:
    """A reduction that is not a sum, and what makes it right when coordinates go.

    Whether it is a plain reduction or half of a normalisation is known once the whole graph has
    been read: a normalisation meets the axis it reduced again, broadcast.

    Attributes:
        node: the reducing node.
        axes: (axis, ids, the coordinate of size one it leaves, or None) of every reduced axis.
        why: what to say when it is half of a normalisation.
        patch: what must change when it is not.
        mean: whether the statistic can be taken over what stays.
    """

    node: ir.Node
    axes: tuple[tuple[int, Ids, Ids | None], ...]
    why: str
    patch: Callable[..., None]
    mean: bool


class GiveUp(Exception):
    """A rule cannot say what the node does; everything it touches is frozen with this reason."""
