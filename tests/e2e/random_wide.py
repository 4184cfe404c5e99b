"""Random graphs over the widened set of operators: attention, recurrence, control flow and others.

The blocks of :mod:`random_graphs` and these, mixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper
from random_graphs import BLOCKS, Case, Grower, grow
from random_growth import Draw, Val

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def info(name: str, *dims: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


class WideGrower(Grower):
    """Grows what a convolutional network is not made of."""

    def symbol(self, x: Val) -> int | str:
        return self.batch or x.dims[0]

    def fixed(self) -> Val:
        """An image of known height and width, at least two pixels."""
        if self.dynamic_space:
            raise IndexError
        return self.value(where=lambda v: 1 < v.dims[2] * v.dims[3] <= 64 and v.dims[1] <= 12)

    def tokens(self, x: Val) -> str:
        """[n, c, h, w] to [n, h * w, c]."""
        flat = self.net.op("Reshape", x.name, self.net.ints(0, 0, -1))
        return str(self.net.op("Transpose", flat, perm=[0, 2, 1]))

    def image(self, name: str, x: Val, channels: int) -> None:
        """[n, h * w, channels] to [n, channels, h, w]."""
        n, _, h, w = x.dims
        y = self.net.op("Transpose", name, perm=[0, 2, 1])
        self.op("Reshape", y, self.net.ints(0, 0, h, w), dims=(n, channels, h, w))

    def dense(self, name: str, size: int, out: int) -> str:
        y = self.net.op("MatMul", name, self.weight(self.net.normal(size, out, fan_in=size)))
        if self.coin():
            y = self.net.op("Add", y, self.weight(self.net.uniform(-0.5, 0.5, out)))
        return str(y)

    # -- sequences ----------------------------------------------------------------------------

    def recurrent(self) -> None:
        x = self.fixed()
        n, c, _h, _w = x.dims
        kind = self.pick("LSTM", "GRU", "RNN")
        ways, hidden = self.pick(1, 1, 2), self.draw(st.integers(1, 6))
        g = GATES[kind]
        names = [
            self.net.op("Transpose", self.tokens(x), perm=[1, 0, 2]),
            self.weight(self.net.normal(ways, g * hidden, c, fan_in=c)),
            self.weight(self.net.normal(ways, g * hidden, hidden, fan_in=2 * hidden)),
        ]
        if self.coin():
            names.append(self.weight(self.net.uniform(-0.5, 0.5, ways, 2 * g * hidden)))
        if not self.batch and self.coin():
            names += [""] * (5 - len(names))
            names += [self.weight(self.net.uniform(-1, 1, ways, n, hidden))]
        more: dict[str, Any] = {"hidden_size": hidden}
        more["direction"] = "bidirectional" if ways == 2 else self.pick("forward", "reverse")
        if kind == "GRU":
            more["linear_before_reset"] = self.pick(0, 1)
        outs = self.net.op(kind, *names, outs=3 if kind == "LSTM" else 2, **more)
        if self.coin():
            y = self.net.op("Transpose", outs[0], perm=[2, 0, 1, 3])
            y = self.net.op("Reshape", y, self.net.ints(0, 0, ways * hidden))
            self.image(y, x, ways * hidden)
        else:
            y = self.net.op("Transpose", outs[1], perm=[1, 0, 2])
            self.op("Reshape", y, self.net.ints(0, -1), dims=(n, ways * hidden))

    def scan(self) -> None:
        """A cell tanh(x W + s R) written out, or a running sum."""
        x = self.fixed()
        _n, c, _, _ = x.dims
        rows = self.net.op("Transpose", self.tokens(x), perm=[1, 0, 2])
        tag = self.net.fresh("cell")
        hidden = c
        if self.coin():
            hidden = self.draw(st.integers(1, 6))
            w = self.net.weight(self.net.normal(c, hidden, fan_in=c))
            r = self.net.weight(self.net.normal(hidden, hidden, fan_in=hidden))
            nodes = [
                helper.make_node("MatMul", [f"{tag}.x", w], [f"{tag}.a"]),
                helper.make_node("MatMul", [f"{tag}.s", r], [f"{tag}.b"]),
                helper.make_node("Add", [f"{tag}.a", f"{tag}.b"], [f"{tag}.c"]),
                helper.make_node("Tanh", [f"{tag}.c"], [f"{tag}.s2"]),
            ]
        else:
            nodes = [helper.make_node("Add", [f"{tag}.x", f"{tag}.s"], [f"{tag}.s2"])]
        nodes.append(helper.make_node("Relu", [f"{tag}.s2"], [f"{tag}.y"]))
        b = self.symbol(x)
        body = helper.make_graph(
            nodes,
            tag,
            [info(f"{tag}.s", b, hidden), info(f"{tag}.x", b, c)],
            [info(f"{tag}.s2", b, hidden), info(f"{tag}.y", b, hidden)],
        )
        zero = self.net.op("ReduceMax", rows, axes=[0], keepdims=0) if self.net.opset < 18 else (
            self.net.op("ReduceMax", rows, self.net.ints(0), keepdims=0)
        )  # fmt: skip
        if hidden != c:
            zero = self.dense(zero, c, hidden)
        more = {"scan_input_directions": [self.pick(0, 1)]}
        _, ys = self.net.op("Scan", zero, rows, outs=2, body=body, num_scan_inputs=1, **more)
        self.image(self.net.op("Transpose", ys, perm=[1, 0, 2]), x, hidden)

    def loop(self) -> None:
        x = self.value()
        _n, c, _h, _w = x.dims
        tag = self.net.fresh("loop")
        weight = self.net.weight(self.net.normal(c, c, 1, 1))
        other = self.pick(*[v for v in self.pool if v.dims == x.dims])
        nodes = [
            helper.make_node("Conv", [f"{tag}.h", weight], [f"{tag}.a"]),
            helper.make_node("Add", [f"{tag}.a", other.name], [f"{tag}.b"]),
            helper.make_node("Tanh", [f"{tag}.b"], [f"{tag}.h2"]),
            helper.make_node("Identity", [f"{tag}.go"], [f"{tag}.on"]),
        ]
        carried = helper.make_tensor_value_info(f"{tag}.h", TensorProto.FLOAT, None)
        after = helper.make_tensor_value_info(f"{tag}.h2", TensorProto.FLOAT, None)
        body = helper.make_graph(
            nodes,
            tag,
            [
                info(f"{tag}.i", kind=TensorProto.INT64),
                info(f"{tag}.go", kind=TensorProto.BOOL),
                carried,
            ],
            [info(f"{tag}.on", kind=TensorProto.BOOL), after],
        )
        trips = self.net.weight(np.array(self.pick(0, 1, 3), np.int64))
        self.op("Loop", trips, self.net.weight(np.array(True)), x.name, dims=x.dims, body=body)

    def branch(self) -> None:
        x = self.value()
        n, c, h, w = x.dims
        out = self.draw(st.integers(1, 6))
        tag = self.net.fresh("if")
        top = self.net.op("ReduceMax", x.name, keepdims=0)
        test = self.net.op("Greater", top, self.net.scalar(self.pick(-1e9, 1e9, 1.0)))
        branches = []
        for side in "ab":
            weight = self.net.weight(self.net.normal(out, c, 1, 1))
            nodes = [
                helper.make_node(self.pick("Relu", "Neg", "Abs"), [x.name], [f"{tag}.x"]),
                helper.make_node("Conv", [f"{tag}.x", weight], [f"{tag}.y"]),
            ]
            result = helper.make_tensor_value_info(f"{tag}.y", TensorProto.FLOAT, None)
            branches.append(helper.make_graph(nodes, tag + side, [], [result]))
        self.op(
            "If", test, dims=(n, out, h, w), then_branch=branches[0], else_branch=branches[1]
        )  # fmt: skip

    # -- transformers -------------------------------------------------------------------------

    def attention(self) -> None:
        x = self.fixed()
        _n, c, _h, _w = x.dims
        heads, size = self.pick(1, 2, 3), self.pick(1, 2, 4)
        y = self.tokens(x)
        parts = []
        fused = self.coin()
        if fused:
            whole = self.dense(y, c, 3 * heads * size)
            extra: dict[str, Any] = {"num_outputs": 3} if self.net.opset >= 18 else {}
            parts = list(self.net.op("Split", whole, outs=3, axis=-1, **extra))
        else:
            parts = [self.dense(y, c, heads * size) for _ in range(3)]
        moved = []
        for k, part in enumerate(parts):
            p = self.net.op("Reshape", part, self.net.ints(0, 0, heads, size))
            moved.append(self.net.op("Transpose", p, perm=[0, 2, 3, 1] if k == 1 else [0, 2, 1, 3]))
        scores = self.net.op("MatMul", moved[0], moved[1])
        scores = self.net.op("Mul", scores, self.net.scalar(size**-0.5))
        mixed = self.net.op("MatMul", self.net.op("Softmax", scores, axis=-1), moved[2])
        back = self.net.op("Transpose", mixed, perm=[0, 2, 1, 3])
        back = self.net.op("Reshape", back, self.net.ints(0, 0, heads * size))
        out = self.dense(back, heads * size, c)
        if self.coin():
            out = self.net.op("Add", out, y)
        self.image(out, x, c)

    def gated(self) -> None:
        """Gated linear unit: halves of one product, or two products."""
        x = self.fixed()
        c = x.dims[1]
        wide = self.draw(st.integers(1, 6))
        y = self.tokens(x)
        if self.coin():
            extra: dict[str, Any] = {"num_outputs": 2} if self.net.opset >= 18 else {}
            a, b = self.net.op("Split", self.dense(y, c, 2 * wide), outs=2, axis=2, **extra)
        else:
            a, b = self.dense(y, c, wide), self.dense(y, c, wide)
        gate = self.net.op("Mul", a, self.net.op("Sigmoid", a))
        self.image(self.dense(self.net.op("Mul", gate, b), wide, c), x, c)

    def layer_norm(self) -> None:
        x = self.fixed()
        c = x.dims[1]
        scale, bias = self.weight(self.net.signed(c)), self.weight(self.net.uniform(-1, 1, c))
        y = self.tokens(x)
        if self.net.opset >= 17:
            y = self.net.op("LayerNormalization", y, scale, bias, axis=-1, epsilon=1e-2)
        else:
            mean = self.reduced("ReduceMean", y, [-1], keepdims=1)
            off = self.net.op("Sub", y, mean)
            var = self.reduced("ReduceMean", self.net.op("Mul", off, off), [-1], keepdims=1)
            std = self.net.op("Sqrt", self.net.op("Add", var, self.net.scalar(1e-2)))
            y = self.net.op("Add", self.net.op("Mul", self.net.op("Div", off, std), scale), bias)
        self.image(y, x, c)

    def group_norm(self) -> None:
        x = self.fixed()
        _n, c, h, w = x.dims
        groups = self.pick(*[g for g in range(1, c + 1) if c % g == 0])
        if h * w * c // groups < 2:
            raise IndexError
        if self.net.opset >= 21:
            scale, bias = self.weight(self.net.signed(c)), self.weight(self.net.uniform(-1, 1, c))
            self.op(
                "GroupNormalization", x.name, scale, bias, dims=x.dims, num_groups=groups,
                epsilon=1e-2,
            )  # fmt: skip
            return
        y = self.net.op("Reshape", x.name, self.net.ints(0, groups, -1))
        ones = self.net.weight(np.ones(groups, np.float32))
        zeros = self.net.weight(np.zeros(groups, np.float32))
        y = self.net.op("InstanceNormalization", y, ones, zeros, epsilon=1e-2)
        y = self.net.op("Reshape", y, self.net.ints(0, c, h, w))
        self.op("Mul", y, self.weight(self.net.signed(c, 1, 1)), dims=x.dims)

    def embed(self) -> None:
        """Positions of the largest channel look up rows of a table."""
        x = self.value()
        n, c, h, w = x.dims
        wide = self.draw(st.integers(1, 6))
        at = self.net.op("ArgMax", x.name, axis=1, keepdims=0)
        rows = self.net.op("Gather", self.weight(self.net.normal(c, wide, fan_in=1)), at)
        self.op("Transpose", rows, dims=(n, wide, h, w), perm=[0, 3, 1, 2])

    def einsum(self) -> None:
        x = self.value()
        n, c, h, w = x.dims
        out = self.draw(st.integers(1, 6))
        weight = self.weight(self.net.normal(out, c))
        self.op("Einsum", x.name, weight, dims=(n, out, h, w), equation="nchw,dc->ndhw")

    def along(self) -> None:
        """Something that mixes the pixels of a row, or the channels."""
        x = self.value()
        axis = self.pick(1, 3)
        kind = self.pick("CumSum", "Softmax", "LpNormalization")
        if kind == "CumSum":
            self.op("CumSum", x.name, self.net.weight(np.array(axis, np.int64)), dims=x.dims)
        else:
            self.op(kind, x.name, dims=x.dims, axis=axis)

    def scatter(self) -> None:
        """Overwrite the first channels, or add to them."""
        x = self.value(where=lambda v: v.dims[1] >= 2)
        _n, c, _h, _w = x.dims
        k = self.draw(st.integers(1, c - 1))
        part = self.net.op("Slice", x.name, self.net.ints(0), self.net.ints(k), self.net.ints(1))
        part = self.net.op("Neg", part)
        front = self.net.op("Transpose", part, perm=[1, 0, 2, 3])
        data = self.net.op("Transpose", x.name, perm=[1, 0, 2, 3])
        take = self.net.weight(np.arange(k, dtype=np.int64)[::-1].reshape(k, 1).copy())
        y = self.net.op("ScatterND", data, take, front)
        self.op("Transpose", y, dims=x.dims, perm=[1, 0, 2, 3])

    def top(self) -> None:
        """The largest pixels of every channel."""
        x = self.fixed()
        n, c, _h, _w = x.dims
        flat = self.net.op("Reshape", x.name, self.net.ints(0, 0, -1))
        best, _ = self.net.op("TopK", flat, self.net.ints(2), outs=2, axis=-1)
        self.op("Unsqueeze", best, self.net.ints(3), dims=(n, c, 2, 1))


WIDE: dict[Callable[[Any], None], int] = {
    WideGrower.recurrent: 3,
    WideGrower.scan: 3,
    WideGrower.loop: 2,
    WideGrower.branch: 2,
    WideGrower.attention: 3,
    WideGrower.gated: 2,
    WideGrower.layer_norm: 2,
    WideGrower.group_norm: 1,
    WideGrower.embed: 1,
    WideGrower.einsum: 1,
    WideGrower.along: 1,
    WideGrower.scatter: 1,
    WideGrower.top: 1,
}
# About as many of these as of the others.
_MENU = [b for b, count in WIDE.items() for _ in range(2 * count)]
_MENU += [b for b, count in BLOCKS.items() for _ in range(count)]


@st.composite
def wide_cases(draw: Draw) -> Case:
    return grow(draw, WideGrower, _MENU)
