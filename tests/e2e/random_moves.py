"""Blocks of random graphs that move numbers, along channels and in space, or sum them up."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from random_growth import Growth


class Coordinates(Growth):
    """Parts and orders of channels, mostly."""

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


class Space(Growth):
    """Other heights and widths."""

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
