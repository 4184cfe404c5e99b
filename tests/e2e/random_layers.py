"""Blocks of random graphs that compute: products, and what is done to every number."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from onnx import TensorProto
from random_growth import Growth, Val


class Products(Growth):
    """Products with constant weights."""

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


class Pointwise(Growth):
    """Activations, normalisations and sums."""

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
