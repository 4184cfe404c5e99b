"""One node as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxprune.axes import Ids, Reason
from onnxprune.rules.base import Contraction, Dim, GiveUp, KeptOf, Reduction, Restated, Site
from onnxprune.rules.packing import Packing
from onnxprune.rules.reading import Scheme
from onnxprune.rules.rewriter import Rewriter
from onnxprune.rules.symbols import MADE_UP

if TYPE_CHECKING:
    from onnxprune.rules.analysis import Analyzer


_LEARNED = "onnxprune.learned"  # marks a shape that a rule found, not inference


class NodeView:
    """One node as its rule sees it; all statements go to the analyzer's space."""

    def __init__(self, analyzer: Analyzer, node: ir.Node) -> None:
        self._analyzer = analyzer
        self.node = node
        self.space = analyzer.space
        self.op = node.op_type
        self.where = analyzer.label(node)
        self.opset = analyzer.opset(node)
        self._spoken: set[tuple[str, int, int]] = set()
        self._learned: set[int] = set()

    # -- what the node is -------------------------------------------------------------------

    @property
    def n_inputs(self) -> int:
        """Number of inputs, omitted optional ones in the middle counted."""
        return len(self.node.inputs)

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return len(self.node.outputs)

    def has(self, index: int) -> bool:
        """Return whether input ``index`` is given."""
        return index < self.n_inputs and self.node.inputs[index] is not None

    def dims(self, index: int) -> list[Dim] | None:
        """Return the dims of input ``index``: int, symbol name or None; None if rank unknown."""
        value = self.node.inputs[index] if index < self.n_inputs else None
        return None if value is None else self._analyzer.dims(value)

    def out_dims(self, index: int = 0) -> list[Dim] | None:
        """Return the dims of output ``index``; None if they may be learned better than before."""
        value = self.node.outputs[index]
        dims = self._analyzer.dims(value)
        again = _LEARNED in value.meta and index not in self._learned
        # A name that inference made up may have given way to another since.
        vague = any(d is None or (isinstance(d, str) and MADE_UP in d) for d in dims or ())
        return None if again and vague else dims

    def rank(self, index: int) -> int:
        """Return the rank of input ``index``; a rule needs it, so unknown rank gives up."""
        dims = self.dims(index)
        if dims is None:
            raise GiveUp("a rank that cannot be inferred")
        return len(dims)

    def out_rank(self, index: int = 0) -> int:
        """Return the rank of output ``index``, giving up when unknown."""
        dims = self.out_dims(index)
        if dims is None:
            raise GiveUp("a rank that cannot be inferred")
        return len(dims)

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value as plain Python, or ``default``."""
        attr = self.node.attributes.get(name)
        if attr is None or attr.value is None:
            return default
        value = attr.value
        return list(value) if isinstance(value, tuple) else value

    def const(self, index: int) -> np.ndarray[Any, Any] | None:
        """Return the value of input ``index`` when it is known at compile time."""
        value = self.node.inputs[index] if index < self.n_inputs else None
        return None if value is None else self._analyzer.known(value)

    def is_const(self, index: int) -> bool:
        """Return whether input ``index`` is a constant of the model."""
        value = self.node.inputs[index] if index < self.n_inputs else None
        return value is not None and self._analyzer.is_const(value)

    def is_constant(self, value: ir.Value) -> bool:
        """Return whether a value, of whatever node, is a constant of the model."""
        return self._analyzer.is_const(value)

    def is_weight(self, index: int) -> bool:
        """Return whether input ``index`` is a constant or made of constants alone."""
        value = self.node.inputs[index] if index < self.n_inputs else None
        return value is not None and self._analyzer.is_weight(value)

    def is_float(self, index: int) -> bool:
        """Return whether input ``index`` holds floating-point numbers; unknown counts as yes."""
        value = self.node.inputs[index] if index < self.n_inputs else None
        return value is None or value.dtype is None or value.dtype.is_floating_point()

    def axis(self, axis: int, rank: int) -> int:
        """Normalise a possibly negative axis; giving up when outside the rank."""
        if not -rank <= axis < max(rank, 1):
            raise GiveUp(f"axis {axis} of a tensor of rank {rank}")
        return axis % rank if rank else 0

    # -- what the rule says -----------------------------------------------------------------

    def ids(self, index: int, axis: int) -> Ids | None:
        """Return the ids of an input axis; None when its size is not known."""
        value = self.node.inputs[index]
        assert value is not None
        self._spoken.add(("i", index, axis))
        return self._analyzer.ids(value, axis, (self.node, index))

    def out_ids(self, axis: int, index: int = 0) -> Ids | None:
        """Return the ids of an output axis; None when its size is not known."""
        self._spoken.add(("o", index, axis))
        return self._analyzer.ids(self.node.outputs[index], axis, None)

    def link(self, a: Ids | None, b: Ids | None) -> None:
        """Tie two axes coordinate by coordinate (sizes that differ freeze both)."""
        if a is None and b is None:
            return
        if a is None or b is None or len(a) != len(b):
            for ids in (a, b):
                self.freeze(ids, "meets an axis of unknown or different size here")
            return
        self.space.link(a, b)

    def index(self, source: Ids | None, target: Ids | None, take: Ids) -> None:
        """State target[j] = source[take[j]] (-1: made here from nothing)."""
        if target is None or source is None:
            self.link(source, target)
            return
        made = take < 0
        self.space.link(target[~made], source[take[~made]])

    def product(self, whole: Ids | None, factors: Sequence[Ids | None]) -> None:
        """State that ``whole`` is laid out row-major over ``factors``."""
        if whole is None or any(f is None for f in factors):
            for ids in (whole, *factors):
                self.freeze(ids, "is merged with an axis of unknown size here")
            return
        self.space.product(whole, [f for f in factors if f is not None], self.where)

    def freeze(self, ids: Ids | None, why: str) -> None:
        """State that these coordinates must stay."""
        if ids is not None:
            self.space.freeze(ids, Reason(self.where, why))

    def freeze_input(self, index: int, why: str) -> None:
        """Freeze every axis of an input."""
        dims = self.dims(index)
        for axis in range(len(dims or ())):
            self.freeze(self.ids(index, axis), why)

    def freeze_output(self, why: str, index: int = 0) -> None:
        """Freeze every axis of an output."""
        for axis in range(len(self.out_dims(index) or ())):
            self.freeze(self.out_ids(axis, index), why)

    def heads(self, ids: Ids | None) -> None:
        """State that these are attention heads: the natural carrier of products they are in."""
        if ids is not None and len(ids) > 1:
            self.space.prefer_carrier(ids)
            self.space.mark(ids, "heads")

    def quantised(
        self,
        index: int,
        scale: int | ir.Value | None = None,
        zero: int | None = None,
        *,
        axis: int | tuple[int, ...] = 0,
        block: int = 0,
        packing: Packing | None = None,
        order: int | None = None,
    ) -> None:
        """State that the numbers of input ``index`` stand for ``(x - zero) * scale``.

        Args:
            index: the input.
            scale: the input that holds the scale, or the value that does where it is not an
                input; None if nobody knows it.
            zero: the input that holds the zero point; None or not given: zero.
            axis: of the input, along which a vector of scales runs; several for scales of as many
                axes.
            block: numbers along ``axis`` that share a scale; 0: not in blocks.
            packing: how the numbers are packed.
            order: the input that holds the block of every number along ``axis``.
        """
        value = self.node.inputs[index]

        def given(i: int | None) -> ir.Value | None:
            return self.node.inputs[i] if i is not None and self.has(i) else None

        if value is not None:
            factor = scale if isinstance(scale, ir.Value) else given(scale)
            scheme = Scheme(factor, given(zero), axis, block, packing, given(order))
            self._analyzer.schemes[self.node, index] = scheme

    def contract(self, *operands: tuple[int, int, Ids]) -> None:
        """State that an axis is summed over: a zero in any one operand equals absence."""
        self._analyzer.sites.append(Site(self.node, operands))

    def normalises(
        self,
        inputs: Sequence[tuple[int, int]],
        outputs: Sequence[tuple[int, int]],
        over: Sequence[Ids | None] | None = None,
    ) -> None:
        """State that the node takes statistics over an axis and scales by them.

        Args:
            inputs: (input index, axis) wherever the axis is met, the data first.
            outputs: (output index, axis) likewise.
            over: what the statistics run over, where the axes hold more; see :class:`Restated`.
        """
        at = tuple((i, axis, self.ids(i, axis)) for i, axis in inputs)
        out = tuple((i, axis, self.out_ids(axis, i)) for i, axis in outputs)
        blocks = [ids for _, _, ids in at] if over is None else list(over)
        if self._analyzer.through_norms and all(ids is not None for _, _, ids in (*at, *out)):
            met = [tuple((i, a, ids) for i, a, ids in s if ids is not None) for s in (at, out)]
            ran = tuple(ids for ids in blocks if ids is not None)
            self._analyzer.restated.append(Restated(self.node, met[0], met[1], ran))
            return
        for ids in blocks:
            self.freeze(ids, f"{self.op} mixes this axis")

    def reduces(
        self,
        axes: Sequence[tuple[int, int | None]],
        patch: Callable[[Rewriter, KeptOf], None],
        *,
        mean: bool,
    ) -> None:
        """State that input 0 is reduced by something other than a sum; see :class:`Reduction`.

        Args:
            axes: (axis of input 0, axis of size one that it leaves in output 0 or None).
            patch: what makes the node right again when coordinates went.
            mean: whether it may be taken over what stays where it is half of a normalisation.
        """
        met = []
        for axis, left in axes:
            ids = self.ids(0, axis)
            if ids is not None:
                met.append((axis, ids, None if left is None else self.out_ids(left)))
        why = f"{self.op} mixes this axis"
        self._analyzer.reductions.append(Reduction(self.node, tuple(met), why, patch, mean))

    def broadcasts(self, one: Ids | None, wide: Ids | None) -> None:
        """State that a coordinate of size one is repeated along an axis."""
        if one is not None and wide is not None and len(one) == 1 < len(wide):
            self._analyzer.broadcasts.append((one, wide))

    def contraction(self, contraction: Contraction) -> None:
        """Record cost and weight layout of a multiplying node."""
        self._analyzer.contract(contraction)

    def produces(self, index: int, axis: int) -> None:
        """Record that input ``index`` is a parameter that makes new units along ``axis``."""
        value = self.node.inputs[index]
        assert value is not None
        self._analyzer.produces(value, axis, (self.node, index))

    def learn(self, index: int, dims: Sequence[Dim], like: int = 0) -> None:
        """Record the shape of an output that inference could not find; its type is ``like``'s."""
        value = self.node.outputs[index]
        before = self._analyzer.dims(value)
        if before is not None and len(before) == len(dims):
            # A name that inference has found meanwhile says more than nothing.
            dims = [old if new is None else new for old, new in zip(before, dims, strict=True)]
        self._learned.add(index)
        value.meta[_LEARNED] = True
        typed = value.type is not None
        if not typed:
            value.type = self._type_like(like)
        if before == list(dims) and typed == (value.type is not None):
            return
        value.shape = ir.Shape(list(dims))
        self._analyzer.learned += 1

    def _type_like(self, like: int) -> ir.TypeProtocol | None:
        """Return the type of an input; where it is not known yet, that of a constant beside it."""
        source = self.node.inputs[like] if like < self.n_inputs else None
        if source is not None and source.type is not None:
            return source.type
        held = [self._analyzer.tensor(v) for v in self.node.inputs if v is not None]
        real = [t.dtype for t in held if t is not None and t.dtype.is_floating_point()]
        return ir.TensorType(real[0]) if real else None

    def typed_like(self, index: int, out: int = 0) -> None:
        """Tell the type of an output, that of input ``index``, where inference does not."""
        source, value = self.node.inputs[index], self.node.outputs[out]
        if value.type is None and source is not None:
            held = self._analyzer.tensor(source)
            value.type = source.type if held is None else ir.TensorType(held.dtype)

    def like_input(self, outputs: int = 1) -> None:
        """Tell the shape of outputs that are shaped like input 0, where inference does not."""
        dims = self.dims(0)
        for index in range(min(outputs, self.n_outputs)):
            if dims is not None and self.out_dims(index) is None:
                self.learn(index, dims)

    def in_order(self, ids: Ids) -> None:
        """State that units may go but not change places: the node looks at neighbours."""
        self._analyzer.ordered.append(ids)

    def on_rewrite(self, patch: Callable[[Rewriter, KeptOf], None]) -> None:
        """Register what else must change in this node when coordinates go."""
        self._analyzer.patches.append((self.node, patch))

    def keep_sizes(
        self,
        index: int,
        axes: Sequence[Ids | None],
        *,
        copies: bool = False,
        neutral: int | None = None,
    ) -> None:
        """Keep a size vector in input ``index`` equal to the kept counts of ``axes``.

        Args:
            index: the input; constant, or computed from shapes.
            axes: for every element of the vector the axis it is the size of; None: unknown.
            copies: an element 0 copies the dim of input 0 at its place.
            neutral: an element of this value leaves the axis as it is.
        """
        value = self.node.inputs[index] if index < self.n_inputs else None
        if value is None:
            raise GiveUp(f"input {index} is missing")
        entries = self._analyzer.sizes.of(value)
        if entries is None or entries.size != len(axes):
            for ids in axes:
                self.freeze(ids, "has a target size that cannot be traced")
            return
        const = self.is_const(index)
        flat = list(entries.reshape(-1))

        def follows(entry: Any, position: int, kept: KeptOf) -> int | None:
            """Return the size the vector will give after the rewrite, None when unknown."""
            if entry.leaf is not None:
                ids = self._analyzer.ids(entry.leaf[0], entry.leaf[1], None)
                return None if ids is None else int(kept(ids).sum())
            if entry.leaves:
                for leaf in entry.leaves:
                    ids = self._analyzer.ids(leaf[0], leaf[1], None)
                    if ids is not None and not kept(ids).all():
                        return None
            return None if entry.value is None else int(entry.value)

        def patch(rw: Rewriter, kept: KeptOf) -> None:
            wrong: dict[int, int] = {}
            for position, (entry, ids) in enumerate(zip(flat, axes, strict=True)):
                if ids is None or entry.value in (-1, neutral) or (copies and entry.value == 0):
                    continue
                size = int(kept(ids).sum())
                if follows(entry, position, kept) != size:
                    wrong[position] = size
            if wrong:
                rw.override(index, wrong, [e.value for e in flat] if const else len(flat))

        self.on_rewrite(patch)

    def keep_size_attr(self, name: str, axes: Sequence[Ids | None], *, copies: bool) -> None:
        """Keep a size attribute equal to the kept counts of ``axes``; see :meth:`keep_sizes`."""
        old = [int(v) for v in self.attr(name, [])]
        if len(old) != len(axes):
            raise GiveUp(f"attribute {name} does not fit the rank")

        def patch(rw: Rewriter, kept: KeptOf) -> None:
            new = [
                v if ids is None or v == -1 or (copies and v == 0) else int(kept(ids).sum())
                for v, ids in zip(old, axes, strict=True)
            ]
            if new != old:
                rw.set_attr(name, new)

        self.on_rewrite(patch)

    def same_size(self, index: int, position: int, source: int, axis: int) -> bool:
        """Return whether element ``position`` of a size input is the size of an input's axis."""
        value = self.node.inputs[index] if index < self.n_inputs else None
        entries = None if value is None else self._analyzer.sizes.of(value)
        if entries is None or position >= entries.size:
            return False
        entry = entries.reshape(-1)[position]
        dim = (self.dims(source) or [])[axis]
        if entry.value is not None and entry.value == dim:
            return True
        return bool(entry.leaf == (self.node.inputs[source], axis))

    # -- bodies -----------------------------------------------------------------------------

    def enter(self, body: ir.Graph, times: int = 1) -> None:
        """Apply the rules of a body's nodes; what they cost counts ``times``."""
        self._analyzer.enter(body, times)

    def value_dims(self, value: ir.Value) -> list[Dim] | None:
        """Return the dims of a value in a body."""
        return self._analyzer.dims(value)

    def value_ids(self, value: ir.Value, axis: int) -> Ids | None:
        """Return the ids of an axis of a value in a body; None for a constant or unknown size."""
        # A constant that leaves a body as it is has no use that could be given a cut copy.
        if self._analyzer.is_const(value):
            return None
        return self._analyzer.ids(value, axis, None)

    def freeze_value(self, value: ir.Value, why: str) -> None:
        """Freeze every axis of a value in a body."""
        for axis in range(len(self.value_dims(value) or ())):
            self.freeze(self.value_ids(value, axis), why)

    # -- shorthands -------------------------------------------------------------------------

    def passes(self, in_axis: int, out_axis: int, index: int = 0, out: int = 0) -> None:
        """Tie an input axis to an output axis."""
        self.link(self.ids(index, in_axis), self.out_ids(out_axis, out))

    def finish(self) -> None:
        """Freeze every axis the rule did not mention."""
        for index, value in enumerate(self.node.inputs):
            for axis in range(len((value is not None and self._analyzer.dims(value)) or ())):
                if ("i", index, axis) not in self._spoken:
                    self.freeze(self.ids(index, axis), f"{self.op} has no rule for this axis")
        for index, value in enumerate(self.node.outputs):
            for axis in range(len(self._analyzer.dims(value) or ())):
                if ("o", index, axis) not in self._spoken:
                    self.freeze(self.out_ids(axis, index), f"{self.op} has no rule for this axis")
