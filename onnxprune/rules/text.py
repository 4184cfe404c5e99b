"""Rules as text, in the spirit of einsum.

    Conv    "n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t"
    MatMul  "*b m k, *b k n -> *b m n"

Each operand is a list of axes. An axis is a named factor, or a parenthesised product of factors,
row-major. ``1`` is an axis of size one, a trailing ``?`` marks an optional operand.

* A factor on both sides passes through: it links.
* A factor on the left only is contracted: a zero there equals absence.
* ``*name`` stands for any number of axes. On both sides they pass, aligned at the right and
  broadcasting as numpy does; on one side only they are positions (pixels, kernel taps): frozen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.axes import Ids
from onnxprune.rules.base import Contraction, Dim, GiveUp, OpenDim
from onnxprune.rules.view import NodeView

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Operand:
    """One comma-separated term: its axes, each a tuple of factor names."""

    axes: tuple[tuple[str, ...], ...]
    optional: bool

    def expand(self, rank: int, both: frozenset[str], tag: str) -> list[tuple[str, ...]]:
        """Spell out the starred axes for a tensor of ``rank``.

        Raises:
            GiveUp: the rank does not fit.
        """
        fixed = sum(not a[0].startswith("*") for a in self.axes)
        stars = len(self.axes) - fixed
        extra = rank - fixed
        if extra < 0 or (extra and not stars):
            raise GiveUp(f"a tensor of rank {rank} where the rule expects {fixed}")
        out: list[tuple[str, ...]] = []
        for axis in self.axes:
            if not axis[0].startswith("*"):
                out.append(axis)
                continue
            name = axis[0][1:]
            owner = "" if axis[0] in both else f"@{tag}"
            out.extend((f"*{name}{owner}.{i}",) for i in range(extra, 0, -1))
        return out


def _parse_operand(text: str) -> Operand:
    optional = text.endswith("?")
    axes = [
        tuple(token[1:-1].split()) if token.startswith("(") else (token,)
        for token in re.findall(r"\([^)]*\)|[^\s()]+", text.rstrip("?"))
    ]
    return Operand(tuple(axes), optional)


@dataclass(frozen=True)
class TextRule:
    """A parsed rule; calling it states what the text says about one node.

    Attributes:
        text: the rule.
        bind: sizes of factors that come from attributes, by name.
        weight: indices of operands that may be the constant weight, best first; () when the
            operator has none.
        macs_over_input: the cost is per input position (transposed convolution), not per output.
        size_attrs: attributes that hold the size of a factor, or of a product of several.
        keep: factors that are not ours to prune (directions of a recurrent layer).
        mixed: factors inside which the operator mixes: frozen.
        normalised: factors over which it takes statistics and scales by them.
        marks: factors that are attention heads.
        fed: factors whose place in an operand the caller states.
        heads: the starred batch factor is the natural carrier when no operand is constant.
    """

    text: str
    bind: Callable[[NodeView], Sizes] | None = None
    weight: tuple[int, ...] = ()
    macs_over_input: bool = False
    size_attrs: Mapping[str, str] = field(default_factory=dict)
    heads: bool = False
    mixed: tuple[str, ...] = ()
    normalised: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    fed: tuple[str, ...] = ()

    def parsed(self) -> tuple[list[Operand], list[Operand]]:
        """Return (inputs, outputs)."""
        left, right = self.text.split("->")
        return (
            [_parse_operand(t.strip()) for t in left.split(",")],
            [_parse_operand(t.strip()) for t in right.split(",")],
        )

    def __call__(self, n: NodeView) -> Mapping[str, Ids]:
        """Apply to one node; returns the coordinates of every factor of known size."""
        state = _Binding(self, n)
        state.link_axes()
        state.contract()
        for name, ids in state.factors.items():
            if name in self.mixed or name.split(".")[0] in self.mixed:
                n.freeze(ids, f"{n.op} mixes this axis")
        state.normalise()
        for name in self.marks:
            n.heads(state.factors.get(name))
        for name in self.keep:
            n.freeze(state.factors.get(name), f"{n.op} has a fixed number of these")
        for attr, product in self.size_attrs.items():
            state.patch_size(attr, product.split())
        if self.weight:
            state.record()
        return state.factors


class _Binding:
    """One application of a text rule: operands spelled out, factor sizes, factor ids."""

    def __init__(self, rule: TextRule, n: NodeView) -> None:
        self.rule = rule
        self.n = n
        inputs, outputs = rule.parsed()
        given = [o for i, o in enumerate(inputs) if n.has(i)]
        starred_in = {a[0] for o in given for a in o.axes if a[0].startswith("*")}
        starred_out = {a[0] for o in outputs for a in o.axes if a[0].startswith("*")}
        both = frozenset(starred_in & starred_out)
        # (is input, operand index, axis) -> factor names
        self.axes: list[tuple[bool, int, int, tuple[str, ...]]] = []
        for i, operand in enumerate(inputs):
            if not n.has(i):
                if not operand.optional:
                    raise GiveUp(f"input {i} is missing")
                continue
            for axis, names in enumerate(operand.expand(n.rank(i), both, f"i{i}")):
                self.axes.append((True, i, axis, names))
        for i, operand in enumerate(outputs):
            if 0 <= i < n.n_outputs and n.out_dims(i) is None:
                self._learn(i, operand, both)
            unused = i > 0 and i < n.n_outputs and not n.node.outputs[i].uses()
            if i >= n.n_outputs or (unused and n.out_dims(i) is None):
                continue
            for axis, names in enumerate(operand.expand(n.out_rank(i), both, f"o{i}")):
                self.axes.append((False, i, axis, names))
        self.sizes = self._solve(dict(rule.bind(n)) if rule.bind else {})
        # A factor of size one says nothing: (g i) with one group is just i.
        self.axes = [
            (is_in, i, axis, tuple(x for x in names if self.sizes.get(x) != 1) or names[-1:])
            for is_in, i, axis, names in self.axes
        ]
        self.factors: dict[str, Ids] = {
            name: n.space.new(size) for name, size in self.sizes.items() if size is not None
        }
        self.outputs_have = {x for is_in, _, _, names in self.axes if not is_in for x in names}

    def _learn(self, i: int, operand: Operand, both: frozenset[str]) -> None:
        """Tell the shape of an output that inference does not know, from those of the inputs."""
        sizes = self._solve(dict(self.rule.bind(self.n)) if self.rule.bind else {})
        stars = {names[0] for _, _, _, names in self.axes if names[0].startswith("*")}
        extra = sum(names[0].startswith("*") and j == 0 for _, j, _, names in self.axes)
        shared = {name.split(".")[0] for name in stars if "@" not in name}
        rank = 0
        for axis in operand.axes:
            if axis[0] in shared:
                rank += sum(name.split(".")[0] == axis[0] for name in stars)
            else:
                rank += extra if axis[0].startswith("*") else 1
        dims: list[Dim] = []
        for names in operand.expand(rank, both, f"o{i}"):
            known = [1 if x == "1" else sizes.get(x) for x in names]
            dims.append(None if None in known else math.prod(k for k in known if k is not None))
        for k, names in enumerate(operand.expand(rank, both, f"o{i}")):
            if dims[k] is None and len(names) == 1:
                dims[k] = self.symbols.get(names[0])
        self.n.learn(i, dims)

    def _dim(self, is_in: bool, i: int, axis: int) -> Dim:
        dims = self.n.dims(i) if is_in else self.n.out_dims(i)
        assert dims is not None
        return dims[axis]

    @property
    def symbols(self) -> dict[str, str]:
        """Symbolic sizes of factors that are an axis of their own and have one name everywhere."""
        met: dict[str, set[str]] = {}
        for is_in, i, axis, names in self.axes:
            dim = self._dim(is_in, i, axis)
            if len(names) == 1 and isinstance(dim, str):
                met.setdefault(names[0], set()).add(dim)
        return {name: dims.pop() for name, dims in met.items() if len(dims) == 1}

    def _solve(self, bound: dict[str, int]) -> dict[str, int | None]:
        sizes: dict[str, int | None] = dict(bound)
        unknown: set[str] = set()
        for is_in, i, axis, names in self.axes:
            if len(names) == 1:
                dim = self._dim(is_in, i, axis)
                name = names[0]
                if isinstance(dim, int):
                    old = sizes.get(name)
                    sizes[name] = dim if old is None else max(old, dim)
                else:
                    sizes.setdefault(name, None)
                    unknown.add(name)
        # One coordinate is repeated along an axis of unknown size: that size stays unknown.
        sizes |= {name: None for name in unknown - set(bound) if sizes[name] == 1}
        for is_in, i, axis, names in self.axes:
            open_names = [x for x in names if sizes.get(x) is None]
            dim = self._dim(is_in, i, axis)
            if len(names) > 1 and len(open_names) == 1 and isinstance(dim, int):
                rest = 1
                for x in names:
                    if x != open_names[0]:
                        rest *= sizes[x] or 1
                if dim % rest:
                    raise GiveUp(f"an axis of {dim} that is not a multiple of {rest}")
                sizes[open_names[0]] = dim // rest
        return sizes

    def _position(self, name: str) -> bool:
        return name.startswith("*") and "@" in name

    def link_axes(self) -> None:
        """Tie every axis to its factors."""
        n = self.n
        fed = {x for is_in, _, _, names in self.axes if is_in for x in names} | {*self.rule.fed}
        for is_in, i, axis, names in self.axes:
            ids = n.ids(i, axis) if is_in else n.out_ids(axis, i)
            if len(names) > 1:
                n.product(ids, [self.factors.get(x) for x in names])
                continue
            name = names[0]
            factor = self.factors.get(name)
            if name == "1":
                n.freeze(ids, "has size one here")
            elif self._position(name):
                n.freeze(ids, "is a spatial or kernel position")
            elif name not in fed:
                n.freeze(ids, "is made here")
            elif ids is not None and factor is not None and len(ids) == len(factor):
                n.space.link(ids, factor)
            elif ids is not None and len(ids) == 1:
                n.broadcasts(ids, factor)
                n.freeze(ids, "is broadcast here")
            else:
                n.freeze(ids, "has an unknown size on another operand here")
                n.freeze(factor, "has an unknown size on one operand here")
        if self.rule.heads and not any(n.is_weight(i) for i in range(n.n_inputs)):
            for name, ids in self.factors.items():
                if name.startswith("*") and not self._position(name) and len(ids) > 1:
                    n.heads(ids)

    def normalise(self) -> None:
        """State over which axes statistics are taken."""
        met: list[list[tuple[int, int]]] = [[], []]
        for is_in, i, axis, names in self.axes:
            if any(x.split(".")[0] in self.rule.normalised for x in names):
                met[not is_in].append((i, axis))
        over = [ids for x, ids in self.factors.items() if x.split(".")[0] in self.rule.normalised]
        if met[0]:
            self.n.normalises(met[0], met[1], over)

    def _contracted(self) -> list[str]:
        names = dict.fromkeys(x for is_in, _, _, ns in self.axes if is_in for x in ns)
        return [
            x for x in names if x not in self.outputs_have and not self._position(x) and x != "1"
        ]

    def contract(self) -> None:
        """Record where factors are summed over."""
        for name in self._contracted():
            factor = self.factors.get(name)
            if factor is None:
                continue
            operands = []
            for is_in, i, axis, names in sorted(self.axes, key=lambda a: len(a[3])):
                ids = self.n.ids(i, axis) if is_in and name in names else None
                if ids is not None and (len(names) > 1 or len(ids) == len(factor)):
                    operands.append((i, axis, ids))
            if operands:
                self.n.contract(*operands)
            else:
                self.n.freeze(factor, "is contracted over an axis of unknown size")

    def patch_size(self, attr: str, product: Sequence[str]) -> None:
        """Keep an attribute equal to the number of kept coordinates of a product of factors."""
        blocks = [self.factors[name] for name in product if name in self.factors]
        if len(blocks) == len(product) and any(len(ids) > 1 for ids in blocks):
            self.n.on_rewrite(
                lambda rw, kept: rw.set_attr(
                    attr, math.prod(int(kept(ids).sum()) for ids in blocks)
                )
            )

    def record(self) -> None:
        """Record cost, weight layout and which axes of the weight make new units."""
        n = self.n
        weight = next((i for i in self.rule.weight if n.is_weight(i)), None)
        contracted = set(self._contracted())
        others = {
            x
            for is_in, i, _, ns in self.axes
            if is_in and i != weight and i in (*self.rule.weight, 0, 1)
            for x in ns
        }
        roles: list[tuple[tuple[str, int], ...]] = []
        for is_in, i, axis, names in self.axes:
            if not is_in or i != weight:
                continue
            row = []
            for name in names:
                count = self.sizes.get(name) or 1
                if self._position(name):
                    role = "k"
                elif name in contracted and (name in others or count == 1):
                    role = "i"
                else:  # also query, key and value of one weight, which nothing is summed over
                    role = "g" if name in others and name in self.outputs_have else "o"
                row.append((role, count))
            roles.append(tuple(row))
            if any(role in "go" for role, _ in row):
                n.produces(i, axis)
        macs: list[Ids | int | OpenDim] = []
        for is_in, i, axis, names in self.axes:
            counted = (is_in and i == 0) if self.rule.macs_over_input else (not is_in)
            kernel = is_in and i == max(self.rule.weight[0], 1)
            dim = self._dim(is_in, i, axis)
            value = (n.node.inputs if is_in else n.node.outputs)[i]
            assert value is not None
            size = dim if isinstance(dim, int) else (value, axis)
            ids = n.ids(i, axis) if is_in else n.out_ids(axis, i)
            if counted:
                macs.append(ids if ids is not None else size)
            elif kernel and len(names) == 1:
                # Over the output: taps and summed channels; over the input: taps and outputs.
                summed = names[0] in contracted
                if self._position(names[0]) or summed != self.rule.macs_over_input:
                    macs.append(ids if ids is not None else size)
        n.contraction(Contraction(n.node, weight, tuple(roles), tuple(macs)))
