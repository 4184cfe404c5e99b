"""Graphs of quantised layers for the runtime tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from runtime_graphs import Array, Net

U8, S8 = np.dtype(np.uint8), np.dtype(np.int8)


class Quantised(Net):
    """Layers between DequantizeLinear and QuantizeLinear.

    Activations go by the name of the quantised value; ``scale`` and ``zero`` know what it stands
    for.
    """

    def __init__(self, seed: int = 0, dtype: np.dtype[Any] = U8) -> None:
        super().__init__(seed)
        self.dtype = dtype
        self.scale: dict[str, float] = {}
        self.zero: dict[str, int] = {}

    def constant(self, value: Array) -> str:
        """As it is: onnxruntime fuses sums only if scales have no axes."""
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value), name))
        return name

    def quantise(self, x: str, scale: float, zero: int) -> str:
        """A float value as integers."""
        y = self.add("QuantizeLinear", x, *self.parameters(scale, zero, self.dtype))
        self.scale[y], self.zero[y] = scale, zero
        return y

    def dequantise(self, x: str) -> str:
        """... and back; a node for every reader, as onnxruntime makes them."""
        return self.add(
            "DequantizeLinear", x, *self.parameters(self.scale[x], self.zero[x], self.dtype)
        )

    def parameters(self, scale: float, zero: int, dtype: np.dtype[Any]) -> tuple[str, str]:
        """Constants of one scale and zero point."""
        return self.constant(np.float32(scale)), self.constant(np.array(zero, dtype))

    def image(self, *dims: int | str, scale: float = 0.02, zero: int | None = None) -> str:
        """A quantised graph input."""
        middle = (128 if self.dtype == U8 else 3) if zero is None else zero
        return self.quantise(self.input("x", dims), scale, middle)

    def matrix(
        self,
        x: str,
        shape: tuple[int, ...],
        axis: int,
        dtype: np.dtype[Any],
        per_channel: bool,
        sparsity: float,
    ) -> tuple[str, Array]:
        """A dequantised constant, and the scales of its products with ``x``."""
        count = shape[axis] if per_channel else 1
        scale = self.rng.uniform(0.002, 0.02, count).astype(np.float32)
        zero = self.rng.integers(100, 150, count) if dtype == U8 else np.zeros(count, np.int64)
        along = [1] * len(shape)
        along[axis] = count
        q = self.rng.integers(0 if dtype == U8 else -127, 256 if dtype == U8 else 128, shape)
        q = np.where(self.rng.random(shape) < sparsity, zero.reshape(along), q).astype(dtype)
        constants = (
            self.constant(q),
            self.constant(scale if per_channel else scale[0]),
            self.constant(zero.astype(dtype) if per_channel else zero.astype(dtype)[0]),
        )
        w = self.add("DequantizeLinear", *constants, **({"axis": axis} if per_channel else {}))
        return w, np.float32(self.scale[x]) * scale

    def bias(self, scale: Array, size: int) -> str:
        """Integers at the scale of the products."""
        q = self.constant(self.rng.integers(-3000, 3000, size).astype(np.int32))
        if scale.size == 1:
            return self.add("DequantizeLinear", q, self.constant(scale[0]))
        return self.add("DequantizeLinear", q, self.constant(scale), axis=0)

    def conv(
        self,
        x: str,
        outputs: int,
        inputs: int,
        kernel: int = 3,
        *,
        weights: np.dtype[Any] | None = None,
        per_channel: bool = False,
        sparsity: float = 0.8,
        activation: str = "",
        scale: float = 0.05,
        zero: int | None = None,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        """A quantised convolution."""
        group = attributes.get("group", 1)
        shape = (outputs, inputs // group, kernel, kernel)
        w, products = self.matrix(x, shape, 0, weights or self.dtype, per_channel, sparsity)
        operands = [self.dequantise(x), w, *([self.bias(products, outputs)] if bias else [])]
        y = self.add("Conv", *operands, **attributes)
        lowest = 0 if self.dtype == U8 else -128
        if activation == "Relu":
            y = self.add("Relu", y)
        if activation == "Clip":
            y = self.add("Clip", y, self.constant(np.float32(0)), self.constant(np.float32(6)))
            scale = 6 / 255
        at = lowest if activation else lowest + 120
        return self.quantise(y, scale, at if zero is None else zero)


def residual(net: Quantised, x: str, channels: int) -> str:
    """A block with a branch around it."""
    y = net.conv(x, channels, channels, pads=[1, 1, 1, 1], activation="Relu")
    y = net.conv(y, channels, channels, pads=[1, 1, 1, 1], scale=0.07)
    total = net.add("Relu", net.add("Add", net.dequantise(x), net.dequantise(y)))
    return net.quantise(total, 0.06, 0 if net.dtype == U8 else -128)
