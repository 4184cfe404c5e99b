"""Random graphs of everything a convolutional network is made of, as a hypothesis strategy.

A graph grows block by block from its inputs. Every block takes values that exist, adds a few nodes
and leaves new values; sizes are tracked so that each graph is valid. Dims may be symbolic: blocks
that need a number of pixels then leave the value alone or compute the number from Shape, as
exporters do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from graphs.net import Net
from hypothesis import strategies as st
from onnx import TensorProto

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Val:
    """A float value: its name and the size of every axis for the declared sizes of the symbols."""

    name: str
    dims: tuple[int, ...]


class Grower:
    """One graph being grown; blocks are the methods in :data:`BLOCKS`."""

    def __init__(self, draw: Draw, opset: int, dynamic_batch: bool, dynamic_space: bool) -> None:
        self.draw = draw
        self.net = Net("random", opset)
        self.net.rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        self.batch = "N" if dynamic_batch else None
        self.dynamic_space = dynamic_space
        self.pool: list[Val] = []
        self.conv_weights: dict[tuple[int, ...], list[str]] = {}

    # -- drawing ------------------------------------------------------------------------------

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def coin(self) -> bool:
        return bool(self.draw(st.booleans()))

    def value(self, rank: int | None = 4, where: Callable[[Val], bool] = lambda v: True) -> Val:
        """Draw a value, late ones more often; raises IndexError when none fits."""
        fits = [v for v in self.pool if (rank is None or len(v.dims) == rank) and where(v)]
        if not fits:
            raise IndexError
        back = self.draw(st.integers(0, min(len(fits) - 1, 3)))
        return fits[-1 - back]

    def add(self, name: str, *dims: int) -> Val:
        val = Val(name, tuple(int(d) for d in dims))
        self.pool.append(val)
        return val

    def op(self, kind: str, *inputs: str, dims: tuple[int, ...], **attributes: Any) -> Val:
        return self.add(self.net.op(kind, *inputs, **attributes), *dims)

    def weight(self, array: np.ndarray) -> str:
        """A float constant, the way one exporter or another would keep it."""
        array = np.asarray(array, np.float32)
        form = self.draw(st.integers(0, 9))
        if form == 0:
            value = onnx.numpy_helper.from_array(array)
            return str(self.net.op("Constant", value=value))
        if form == 1:
            return str(self.net.op("Identity", self.net.weight(array)))
        return self.net.weight(array)

    def sizes(self, x: Val, *parts: int | tuple[int, int]) -> str:
        """A shape vector; (axis, count) stands for the sizes of ``count`` axes of ``x``."""
        if not (self.batch or self.dynamic_space or self.coin()):
            flat: list[int] = []
            for p in parts:
                flat += [p] if isinstance(p, int) else x.dims[p[0] : p[0] + p[1]]
            return self.net.ints(*flat)
        shape = self.net.op("Shape", x.name)
        pieces = []
        for p in parts:
            if isinstance(p, int):
                pieces.append(self.net.ints(p))
            else:
                pieces.append(
                    self.net.op("Slice", shape, self.net.ints(p[0]), self.net.ints(p[0] + p[1]))
                )
        return str(self.net.op("Concat", *pieces, axis=0))

    # -- products -----------------------------------------------------------------------------

    def conv(self) -> None:
        x = self.value()
        n, c, h, w = x.dims
        divisors = [g for g in range(1, c + 1) if c % g == 0]
        group = self.pick(1, 1, 1, *divisors)
        per = self.pick(1, 2) if group == c > 1 else self.draw(st.integers(1, 8 // group or 1))
        out = group * per
        k = self.pick(1, 1, 3, 2)
        stride = self.pick(1, 1, 1, 2)
        dilation = 2 if k > 1 and min(h, w) > 4 and self.draw(st.integers(0, 5)) == 0 else 1
        reach = (k - 1) * dilation + 1
        pad = self.pick(0, reach // 2, reach // 2)
        attributes: dict[str, Any] = {"strides": [stride, stride], "dilations": [dilation] * 2}
        if min(h, w) + 2 * pad < reach:
            pad = reach // 2
        if self.draw(st.integers(0, 7)) == 0 and dilation == 1:
            attributes["auto_pad"] = "SAME_UPPER"
            oh, ow = -(-h // stride), -(-w // stride)
        else:
            attributes["pads"] = [pad] * 4
            oh, ow = ((s + 2 * pad - reach) // stride + 1 for s in (h, w))
        shape = (out, c // group, k, k)
        known = self.conv_weights.setdefault(shape, [])
        if known and self.draw(st.integers(0, 3)) == 0:
            weight = known[0]
        else:
            weight = self.weight(self.net.normal(*shape))
            known.append(weight)
        names = [weight]
        if self.coin():
            names.append(self.weight(self.net.uniform(-0.5, 0.5, out)))
        self.op("Conv", x.name, *names, dims=(n, out, oh, ow), group=group, **attributes)

    def conv_transpose(self) -> None:
        x = self.value(where=lambda v: v.dims[2] * v.dims[3] <= 64)
        n, c, h, w = x.dims
        group = self.pick(1, *[g for g in range(1, c + 1) if c % g == 0])
        per = self.draw(st.integers(1, max(1, 8 // group)))
        k, stride = self.pick((2, 2), (3, 1), (3, 2), (1, 1))
        names = [self.weight(self.net.normal(c, per, k, k, fan_in=c * k * k // group))]
        if self.coin():
            names.append(self.weight(self.net.uniform(-0.5, 0.5, group * per)))
        oh, ow = ((s - 1) * stride + k for s in (h, w))
        self.op(
            "ConvTranspose",
            x.name,
            *names,
            dims=(n, group * per, oh, ow),
            group=group,
            strides=[stride, stride],
        )

    def dense_last(self) -> None:
        """MatMul over the last axis of a channels-last copy."""
        x = self.value()
        n, c, h, w = x.dims
        out = self.draw(st.integers(1, 8))
        last = self.net.op("Transpose", x.name, perm=[0, 2, 3, 1])
        y = self.net.op("MatMul", last, self.weight(self.net.normal(c, out, fan_in=c)))
        if self.coin():
            y = self.net.op("Add", y, self.weight(self.net.uniform(-0.5, 0.5, out)))
        if self.coin():
            y = self.net.op("Relu", y)
        self.op("Transpose", y, dims=(n, out, h, w), perm=[0, 3, 1, 2])

    def flatten(self) -> None:
        x = self.value(where=lambda v: not self.dynamic_space or v.dims[2] == v.dims[3] == 1)
        n, c, h, w = x.dims
        if self.dynamic_space:
            x = Val(self.net.op("GlobalAveragePool", x.name), (n, c, 1, 1))
            h = w = 1
        how = self.draw(st.integers(0, 2))
        if how == 0:
            self.op("Flatten", x.name, dims=(n, c * h * w))
        elif how == 1:
            self.op("Reshape", x.name, self.net.ints(0, -1), dims=(n, c * h * w))
        else:
            self.op("Reshape", x.name, self.sizes(x, (0, 1), -1), dims=(n, c * h * w))

    def gemm(self) -> None:
        x = self.value(2)
        n, k = x.dims
        out = self.draw(st.integers(1, 8))
        if self.coin():
            trans = self.pick(0, 1)
            matrix = self.net.normal(out, k)
            names = [self.weight(matrix if trans else matrix.T)]
            if self.coin():
                shape = self.pick((out,), (1, out), ())
                names.append(self.weight(self.net.uniform(-0.5, 0.5, *shape)))
            self.op(
                "Gemm",
                x.name,
                *names,
                dims=(n, out),
                transB=trans,
                alpha=self.pick(1.0, 0.5),
                beta=self.pick(1.0, 2.0),
            )
        else:
            y = self.net.op("MatMul", x.name, self.weight(self.net.normal(k, out, fan_in=k)))
            self.op("Add", self.weight(self.net.uniform(-0.5, 0.5, out)), y, dims=(n, out))

    def unflatten(self) -> None:
        x = self.value(2, lambda v: v.dims[1] <= 64)
        n, k = x.dims
        how = self.draw(st.integers(0, 2))
        if how == 0:
            self.op("Unsqueeze", x.name, self.net.ints(2, 3), dims=(n, k, 1, 1))
        else:
            c = self.pick(*[d for d in range(1, k + 1) if k % d == 0])
            target = self.net.ints(0, c, k // c, 1) if how == 1 else self.sizes(x, (0, 1), c, -1, 1)
            self.op("Reshape", x.name, target, dims=(n, c, k // c, 1))

    # -- pointwise ----------------------------------------------------------------------------

    def unary(self) -> None:
        x = self.value(None)
        kind = self.pick(
            "Relu",
            "Relu",
            "Sigmoid",
            "Tanh",
            "LeakyRelu",
            "HardSwish" if self.net.opset >= 14 else "Selu",
            "Softplus",
            "Elu",
            "Abs",
            "Neg",
            "Identity",
            "Dropout",
            "Erf",
            "Clip",
            "Cast",
        )
        if kind == "Clip":
            self.op("Clip", x.name, self.net.scalar(-0.5), self.net.scalar(1.5), dims=x.dims)
        elif kind == "Cast":
            y = self.net.op("Cast", x.name, to=TensorProto.DOUBLE)
            self.op("Cast", y, to=TensorProto.FLOAT, dims=x.dims)
        else:
            self.op(kind, x.name, dims=x.dims)

    def norm(self) -> None:
        x = self.value()
        kind = self.draw(st.integers(0, 4))
        if kind == 0 and x.dims[2] * x.dims[3] > 1:
            scale = self.weight(self.net.signed(x.dims[1]))
            bias = self.weight(self.net.uniform(-0.5, 0.5, x.dims[1]))
            self.op("InstanceNormalization", x.name, scale, bias, dims=x.dims, epsilon=1e-2)
        elif kind == 1:
            self.op("LRN", x.name, dims=x.dims, size=3, alpha=0.1, beta=0.75, bias=1.0)
        else:
            self.add(self.net.bn(x.name, x.dims[1]), *x.dims)

    def affine(self) -> None:
        x = self.value()
        c = x.dims[1]
        kind = self.pick("Add", "Mul", "Sub", "PRelu", "Max")
        shape = self.pick((c, 1, 1), (1, c, 1, 1), (1,), () if kind != "PRelu" else (1,))
        const = self.weight(self.net.signed(*shape))
        order = [x.name, const]
        if kind in ("Add", "Mul", "Max") and self.coin():
            order.reverse()
        self.op(kind, *order, dims=x.dims)

    def join(self) -> None:
        """Two values of one shape into one; a 1x1 Conv adapts the channels where needed."""
        a = self.value()
        others = [
            v
            for v in self.pool
            if len(v.dims) == 4
            and v is not a
            and (v.dims[0], *v.dims[2:]) == (a.dims[0], *a.dims[2:])
        ]
        b = self.pick(*others) if others else a
        if b.dims[1] not in (1, a.dims[1]):
            w = self.weight(self.net.normal(a.dims[1], b.dims[1], 1, 1))
            b = Val(self.net.op("Conv", b.name, w), a.dims)
        kind = self.pick("Add", "Add", "Mul", "Sub", "Max", "Sum", "Where")
        if kind == "Where":
            test = self.net.op("Greater", a.name, self.net.scalar(0.1))
            self.op("Where", test, a.name, b.name, dims=a.dims)
        else:
            self.op(kind, a.name, b.name, dims=a.dims)

    def excite(self) -> None:
        x = self.value()
        c = x.dims[1]
        if self.coin():
            y = self.net.op("GlobalAveragePool", x.name)
        else:
            y = self.reduced("ReduceMean", x.name, [2, 3], keepdims=1)
        mid = self.draw(st.integers(1, 4))
        if self.coin():
            y = self.net.op("Conv", y, self.weight(self.net.normal(mid, c, 1, 1)))
            y = self.net.op("Conv", self.net.relu(y), self.weight(self.net.normal(c, mid, 1, 1)))
        else:
            y = self.net.op("Flatten", y)
            y = self.net.op("MatMul", y, self.weight(self.net.normal(c, mid, fan_in=c)))
            y = self.net.op("Gemm", self.net.relu(y), self.weight(self.net.normal(mid, c)))
            y = self.net.op("Unsqueeze", y, self.net.ints(2, 3))
        gate = self.net.op(self.pick("Sigmoid", "HardSigmoid"), y)
        self.op("Mul", *self.pick((x.name, gate), (gate, x.name)), dims=x.dims)

    # -- coordinates --------------------------------------------------------------------------

    def concat(self) -> None:
        a = self.value()
        axis = self.pick(1, 1, 1, 1 if self.dynamic_space else 2)
        others = [
            v
            for v in self.pool
            if len(v.dims) == 4
            and all(
                i == axis or p == q for i, (p, q) in enumerate(zip(a.dims, v.dims, strict=True))
            )
        ]
        parts = [a, *(self.pick(*others) for _ in range(self.pick(1, 2)))]
        size = sum(p.dims[axis] for p in parts)
        if size > 24:
            raise IndexError
        dims = tuple(size if i == axis else d for i, d in enumerate(a.dims))
        self.op("Concat", *[p.name for p in parts], dims=dims, axis=self.pick(axis, axis - 4))

    def split(self) -> None:
        x = self.value(where=lambda v: v.dims[1] > 1)
        n, c, h, w = x.dims
        if c % 2 == 0 and self.coin():
            sizes = [c // 2, c // 2]
            extra: dict[str, Any] = {"num_outputs": 2} if self.net.opset >= 18 else {}
            names = self.net.op("Split", x.name, outs=2, axis=1, **extra)
        else:
            first = self.draw(st.integers(1, c - 1))
            sizes = [first, c - first]
            names = self.net.op(
                "Split", x.name, self.net.ints(*sizes), outs=2, axis=self.pick(1, -3)
            )
        for name, size in zip(names, sizes, strict=True):
            self.add(name, n, size, h, w)

    def slice(self) -> None:
        x = self.value()
        axis = self.pick(1, 1, 1 if self.dynamic_space else 2)
        size = x.dims[axis]
        step = self.pick(1, 1, 2, -1)
        if step > 0:
            start = self.draw(st.integers(0, size - 1))
            end = self.pick(2**63 - 1, self.draw(st.integers(start + 1, size)))
            if self.coin():
                start -= size
        else:
            start, end = self.pick(-1, size - 1), self.pick(-(2**63) + 1, -size - 1, 0)
        taken = len(range(size)[slice(start, None if end < -size else end, step)])
        if not taken:
            raise IndexError
        names = [self.net.ints(v) for v in (start, end, self.pick(axis, axis - 4), step)]
        dims = tuple(taken if i == axis else d for i, d in enumerate(x.dims))
        self.op("Slice", x.name, *names, dims=dims)

    def gather(self) -> None:
        x = self.value()
        c = x.dims[1]
        take = self.draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=8))
        self.op(
            "Gather", x.name, self.net.ints(*take), axis=1, dims=(x.dims[0], len(take), *x.dims[2:])
        )

    def pad(self) -> None:
        x = self.value()
        h, w = x.dims[2:]
        mode = self.pick("constant", "constant", "reflect", "edge")
        begin, end = ([0, 0, self.pick(0, 1), self.pick(0, 1)] for _ in range(2))
        if mode == "constant":
            begin[1], end[1] = self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2))
        if mode == "reflect" and min(h, w) < 2:
            mode = "edge"
        names = [self.net.ints(*begin, *end)]
        if mode == "constant" and self.coin():
            names.append(self.net.scalar(0.5))
        dims = tuple(b + d + e for b, d, e in zip(begin, x.dims, end, strict=True))
        self.op("Pad", x.name, *names, dims=dims, mode=mode)

    def tile(self) -> None:
        x = self.value(where=lambda v: v.dims[1] <= 6)
        n, c, h, w = x.dims
        self.op("Tile", x.name, self.net.ints(1, 2, 1, 1), dims=(n, 2 * c, h, w))

    def expand(self) -> None:
        x = self.value(where=lambda v: v.dims[2] == v.dims[3] == 1)
        n, c, _, _ = x.dims
        target = self.pick((1, 1, 3, 2), (3, 2), (1, c, 2, 2))
        self.op("Expand", x.name, self.net.ints(*target), dims=(n, c, *target[-2:]))

    # -- space --------------------------------------------------------------------------------

    def pool2d(self) -> None:
        x = self.value(where=lambda v: min(v.dims[2:]) >= 3)
        n, c, h, w = x.dims
        kind = self.pick("MaxPool", "AveragePool", "LpPool")
        k, stride, pad = self.pick((2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), (3, 2, 0))
        attributes: dict[str, Any] = {}
        if kind == "AveragePool":
            attributes["count_include_pad"] = self.pick(0, 1)
        ceil = kind != "LpPool" and self.draw(st.integers(0, 3)) == 0
        if ceil:
            attributes["ceil_mode"] = 1
        sizes = []
        for s in (h, w):
            room = s + 2 * pad - k
            out = (-(-room // stride) if ceil else room // stride) + 1
            if ceil and (out - 1) * stride >= s + pad:
                out -= 1
            sizes.append(out)
        self.op(
            kind,
            x.name,
            dims=(n, c, *sizes),
            kernel_shape=[k, k],
            strides=[stride, stride],
            pads=[pad] * 4,
            **attributes,
        )

    def global_pool(self) -> None:
        x = self.value()
        kind = self.pick("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
        self.op(kind, x.name, dims=(*x.dims[:2], 1, 1))

    def resize(self) -> None:
        x = self.value(where=lambda v: v.dims[2] * v.dims[3] <= 36)
        n, c, h, w = x.dims
        mode = {"mode": "nearest", "nearest_mode": "floor"} if self.coin() else {"mode": "linear"}
        coordinates = self.pick("asymmetric", "half_pixel")
        dims = (n, c, 2 * h, 2 * w)
        if self.batch or self.dynamic_space or self.coin():
            scales = self.net.weight(np.array([1, 1, 2, 2], np.float32))
            inputs = [x.name, "", scales]
        else:
            inputs = [x.name, "", "", self.net.ints(*dims)]
        self.op("Resize", *inputs, dims=dims, coordinate_transformation_mode=coordinates, **mode)

    def shuffle(self) -> None:
        x = self.value(where=lambda v: v.dims[1] > 1)
        c = x.dims[1]
        g = self.pick(*[g for g in range(2, c + 1) if c % g == 0])
        y = self.net.op("Reshape", x.name, self.sizes(x, (0, 1), g, c // g, (2, 2)))
        y = self.net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
        back = self.sizes(x, (0, 1), self.pick(c, -1), (2, 2))
        self.op("Reshape", y, back, dims=x.dims)

    def depth_to_space(self) -> None:
        x = self.value(where=lambda v: v.dims[1] % 4 == 0 and v.dims[2] * v.dims[3] <= 36)
        n, c, h, w = x.dims
        self.op(
            "DepthToSpace",
            x.name,
            dims=(n, c // 4, 2 * h, 2 * w),
            blocksize=2,
            mode=self.pick("DCR", "CRD"),
        )

    def space_to_depth(self) -> None:
        if self.dynamic_space:  # other sizes may be odd
            raise IndexError
        x = self.value(where=lambda v: v.dims[2] % 2 == v.dims[3] % 2 == 0 and v.dims[1] <= 4)
        n, c, h, w = x.dims
        self.op("SpaceToDepth", x.name, dims=(n, 4 * c, h // 2, w // 2), blocksize=2)

    def positions(self) -> None:
        """Pixels as one axis and back, with something done on the way."""
        x = self.value(where=lambda v: v.dims[2] * v.dims[3] > 1)
        c = x.dims[1]
        y = self.net.op("Reshape", x.name, self.sizes(x, (0, 1), c, -1))
        if self.coin():
            y = self.net.op("Softmax", y, axis=self.pick(1, 2))
        else:
            y = self.net.op("Transpose", y, perm=[0, 2, 1])
            y = self.net.op("MatMul", y, self.weight(self.net.normal(c, c)))
            y = self.net.op("Transpose", y, perm=[0, 2, 1])
        self.op("Reshape", y, self.sizes(x, (0, 1), self.pick(c, -1), (2, 2)), dims=x.dims)

    # -- reductions ---------------------------------------------------------------------------

    def reduced(self, kind: str, x: str, axes: list[int], keepdims: int) -> str:
        if self.net.opset >= 18 or kind == "ReduceSum":
            return str(self.net.op(kind, x, self.net.ints(*axes), keepdims=keepdims))
        return str(self.net.op(kind, x, axes=axes, keepdims=keepdims))

    def reduce_space(self) -> None:
        x = self.value()
        kind = self.pick("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
        n, c = x.dims[:2]
        if self.coin():
            self.add(self.reduced(kind, x.name, [2, 3], 1), n, c, 1, 1)
        else:
            self.add(self.reduced(kind, x.name, [-1, -2], 0), n, c)

    def attend(self) -> None:
        """Spatial attention: a map over pixels from all channels gates every channel."""
        x = self.value()
        kind = self.pick("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL1", "ReduceSumSquare")
        y = self.reduced(kind, x.name, [1], keepdims=1)
        self.op("Mul", x.name, self.net.op("Sigmoid", y), dims=x.dims)


BLOCKS: dict[Callable[[Grower], None], int] = {
    Grower.conv: 8,
    Grower.conv_transpose: 1,
    Grower.dense_last: 1,
    Grower.flatten: 1,
    Grower.gemm: 2,
    Grower.unflatten: 1,
    Grower.unary: 4,
    Grower.norm: 3,
    Grower.affine: 2,
    Grower.join: 4,
    Grower.excite: 1,
    Grower.concat: 3,
    Grower.split: 2,
    Grower.slice: 2,
    Grower.gather: 1,
    Grower.pad: 2,
    Grower.tile: 1,
    Grower.expand: 1,
    Grower.pool2d: 2,
    Grower.global_pool: 1,
    Grower.resize: 1,
    Grower.shuffle: 1,
    Grower.depth_to_space: 1,
    Grower.space_to_depth: 1,
    Grower.positions: 1,
    Grower.reduce_space: 1,
    Grower.attend: 1,
}
_WEIGHTED = [block for block, count in BLOCKS.items() for _ in range(count)]


@dataclass(frozen=True)
class Case:
    """A model, and sizes for its symbols: those it was grown with, and others."""

    model: onnx.ModelProto
    sizes: dict[str, int]
    other: dict[str, int]


def grow(
    draw: Draw, kind: type[Grower] = Grower, menu: Sequence[Callable[[Any], None]] = _WEIGHTED
) -> Case:
    """Grow one graph of 5 to about 25 nodes from the blocks of ``menu``."""
    dynamic_batch, dynamic_space = draw(st.booleans()), draw(st.integers(0, 3)) == 0
    g = kind(draw, draw(st.sampled_from([13, 17, 18, 21])), dynamic_batch, dynamic_space)
    side = g.pick(8, 4, 5, 6)
    batch = g.pick(1, 2)
    sizes = {"N": batch} if dynamic_batch else {}
    if dynamic_space:
        sizes |= {"H": side, "W": side + 2}
    n: int | str = "N" if dynamic_batch else batch
    hw: list[int | str] = ["H", "W"] if dynamic_space else [side, side + 2]
    for i in range(draw(st.integers(1, 2))):
        c = draw(st.integers(1, 4))
        g.pool.append(Val(g.net.input([n, c, *hw], f"x{i}"), (batch, c, side, side + 2)))
    for x in list(g.pool):
        # Something that can go: units at a graph input are frozen.
        out = g.pick(4, 6, 8)
        w = g.weight(g.net.normal(out, x.dims[1], 3, 3))
        g.op("Conv", x.name, w, dims=(batch, out, *x.dims[2:]), pads=[1, 1, 1, 1])
    wanted = draw(st.integers(5, 25))
    for _ in range(40):
        if len(g.net.nodes) >= wanted:
            break
        try:
            draw(st.sampled_from(menu))(g)
        except IndexError:
            continue
    _finish(g)
    other = {"N": batch + 1} if dynamic_batch else {}
    if dynamic_space:
        other |= {"H": side + 2, "W": side}
    return Case(g.net.model(), sizes, other)


def _finish(g: Grower) -> None:
    """Make outputs of what nothing uses, most of it behind a product so that it is not frozen."""
    used = {name for node in g.net.nodes for name in node.input}
    inputs = {v.name for v in g.net.inputs}
    ends = [v for v in g.pool if v.name not in used and v.name not in inputs]
    count = 0
    for v in ends or g.pool[-1:]:
        if v.name in inputs:
            continue
        name = v.name
        if len(v.dims) == 4 and g.draw(st.integers(0, 4)):
            name = g.net.op("Conv", v.name, g.weight(g.net.normal(2, v.dims[1], 1, 1)))
        elif len(v.dims) == 2 and g.draw(st.integers(0, 4)):
            name = g.net.op("MatMul", v.name, g.weight(g.net.normal(v.dims[1], 3)))
        g.net.output(name)
        count += 1
    assert count


@st.composite
def cases(draw: Draw) -> Case:
    return grow(draw)
