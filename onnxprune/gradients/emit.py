"""Writing nodes behind a graph whose every shape is known."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onnxprune.formats.weights import DOMAIN

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
#: The nodes written here mean what they mean from this opset on.
OPSET = 17


class Emitter:
    """Collects nodes and constants; every method returns the name of the value it made.

    Attributes:
        nodes: written so far, in order.
        constants: by name.
        shapes: of every value of the graph and of those made here.
        known: numbers of the graph's own constants, by name.
        native: operators of our runtime library that may be written, too.
    """

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        known: Mapping[str, Array],
        opset: int,
        native: Collection[str] = (),
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.shapes = dict(shapes)
        self.known = known
        self.opset = opset
        self.native = frozenset(native)
        self._numbers = 0

    def _fresh(self, hint: str) -> str:
        self._numbers += 1
        return f"grad/{hint}_{self._numbers}"

    def op(self, kind: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        """Write one node whose only output has ``shape``."""
        name = self._fresh(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        self.shapes[name] = tuple(int(n) for n in shape)
        return name

    def fast(self, kind: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str | None:
        """Write one of the runtime library's operators; None where there is none of that name."""
        if kind not in self.native:
            return None
        return self.op(kind, inputs, shape, domain=DOMAIN, **attributes)

    def const(self, array: npt.ArrayLike) -> str:
        """Add a constant; floats become float32, whole numbers int64."""
        values = np.asarray(array)
        kind = np.float32 if values.dtype.kind == "f" else values.dtype
        values = np.asarray(values, np.int64 if values.dtype.kind == "i" else kind)
        name = self._fresh("const")
        self.constants[name] = numpy_helper.from_array(values, name)
        self.shapes[name] = values.shape
        return name

    def binary(self, kind: str, left: str, right: str) -> str:
        """Write an elementwise node with broadcasting."""
        return self.op(
            kind, [left, right], np.broadcast_shapes(self.shapes[left], self.shapes[right])
        )

    def mul(self, left: str, right: str) -> str:
        """``left * right``."""
        return self.binary("Mul", left, right)

    def unary(self, kind: str, x: str, **attributes: Any) -> str:
        """Write an elementwise node of one input."""
        return self.op(kind, [x], self.shapes[x], **attributes)

    def scaled(self, x: str, by: float) -> str:
        """``by * x``."""
        return x if by == 1 else self.mul(x, self.const(np.float32(by)))

    def cast(self, x: str) -> str:
        """Booleans as 0.0 and 1.0."""
        return self.unary("Cast", x, to=onnx.TensorProto.FLOAT)

    def inside(self, g: str, y: str, low: str | float = "", high: str | float = "") -> str:
        """``g`` where ``low < y < high``, else 0; a limit is a number, a value, or left out."""
        limits = {"low": ("Greater", low), "high": ("Less", high)}
        given = {n: (kind, limit) for n, (kind, limit) in limits.items() if limit != ""}
        if not given:
            return g
        numbers = {
            n: np.asarray(self.known.get(x, ()) if isinstance(x, str) else x)
            for n, (_, x) in given.items()
        }
        if all(x.size == 1 for x in numbers.values()):
            attributes = {n: float(x.item()) for n, x in numbers.items()}
            made = self.fast("ClipGrad", [y, g], self.shapes[g], **attributes)
            if made is not None:
                return made
        within = [
            self.binary(kind, y, x if isinstance(x, str) else self.const(np.float32(x)))
            for kind, x in given.values()
        ]
        on = within[0] if len(within) == 1 else self.binary("And", *within)
        return self.mul(g, self.cast(on))  # Where itself takes several passes

    def sigmoid_slope(self, g: str, y: str) -> str:
        """Derivative before a sigmoid from that behind it, by its output ``y``."""
        made = self.fast("SigmoidGrad", [y, g], self.shapes[g])
        if made is not None:
            return made
        return self.mul(g, self.mul(y, self.binary("Sub", self.const(np.float32(1)), y)))

    def squares(self, left: str, right: str, factor: float) -> tuple[str, str]:
        """``factor`` times the sum of the squares of a difference, and its slope by ``left``."""
        slope = self.fast("SquaredGap", [left, right], self.shapes[left], factor=factor)
        if slope is not None:
            loss = self._fresh("loss")
            self.nodes[-1].output.append(loss)
            self.shapes[loss] = ()
            return loss, slope
        gap = self.binary("Sub", left, right)
        squares = self.sum(self.mul(gap, gap), range(len(self.shapes[gap])))
        return self.scaled(squares, factor), self.scaled(gap, 2.0 * factor)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """``x`` in another shape of as many elements."""
        if tuple(shape) == self.shapes[x]:
            return x
        target = self.const(np.array(shape, np.int64).reshape(-1))
        return self.op("Reshape", [x, target], tuple(shape))

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        """``x`` with its axes in another order."""
        if list(perm) == list(range(len(perm))):
            return x
        shape = tuple(self.shapes[x][p] for p in perm)
        return self.op("Transpose", [x], shape, perm=list(perm))

    def sum(self, x: str, axes: Sequence[int], *, keep: bool = False) -> str:
        """Sum over axes."""
        if not axes:
            return x
        old = self.shapes[x]
        gone = {a % len(old) for a in axes}
        shape = tuple(1 if i in gone else n for i, n in enumerate(old) if keep or i not in gone)
        return self.op(
            "ReduceSum", [x, self.const(np.array(sorted(gone)))], shape, keepdims=int(keep)
        )

    def fit(self, x: str, shape: Shape) -> str:
        """Undo broadcasting: sum ``x`` to ``shape``."""
        old = self.shapes[x]
        lead = len(old) - len(shape)
        axes = [i for i, n in enumerate(old) if i < lead or (shape[i - lead] == 1 != n)]
        return self.reshape(self.sum(x, axes, keep=True), shape)

    def expand(self, x: str, shape: Shape) -> str:
        """Repeat axes of size 1."""
        if self.shapes[x] == tuple(shape):
            return x
        return self.op("Expand", [x, self.const(np.array(shape, np.int64).reshape(-1))], shape)

    def matmul(self, left: str, right: str) -> str:
        """Matrix product of the last two axes, the others broadcast; both at least matrices."""
        a, b = self.shapes[left], self.shapes[right]
        stack = np.broadcast_shapes(a[:-2], b[:-2])
        return self.op("MatMul", [left, right], (*stack, a[-2], b[-1]))

    def slices(
        self, x: str, axes: Sequence[int], starts: Sequence[int], stops: Sequence[int],
        steps: Sequence[int],
    ) -> str:  # fmt: skip
        """A strided window of ``x``; ``stops`` within the size, steps positive."""
        shape = list(self.shapes[x])
        if all(
            (s, e, t) == (0, shape[a], 1)
            for a, s, e, t in zip(axes, starts, stops, steps, strict=True)
        ):
            return x
        for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
            shape[axis] = max(0, math.ceil((stop - start) / step))
        lists = [self.const(np.array(v, np.int64)) for v in (starts, stops, axes, steps)]
        return self.op("Slice", [x, *lists], tuple(shape))

    def pad(self, x: str, before: Sequence[int], after: Sequence[int]) -> str:
        """``x`` with zeros around it; an entry an axis."""
        if not any((*before, *after)):
            return x
        shape = [b + n + a for b, n, a in zip(before, self.shapes[x], after, strict=True)]
        return self.op("Pad", [x, self.const(np.array([*before, *after]))], tuple(shape))

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """Values side by side."""
        shape = list(self.shapes[parts[0]])
        shape[axis] = sum(self.shapes[p][axis] for p in parts)
        return self.op("Concat", parts, tuple(shape), axis=axis)
