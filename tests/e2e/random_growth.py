"""What random graphs grow from: values of known sizes, and choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from graphs.net import Net
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Val:
    """A float value: its name and the size of every axis for the declared sizes of the symbols."""

    name: str
    dims: tuple[int, ...]


class Growth:
    """One graph being grown: what its blocks draw from and add to."""

    def __init__(self, draw: Draw, opset: int, dynamic_batch: bool, dynamic_space: bool) -> None:
        self.draw = draw
        self.net = Net("random", opset)
        self.net.rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        self.batch = "N" if dynamic_batch else None
        self.dynamic_space = dynamic_space
        self.pool: list[Val] = []
        self.conv_weights: dict[tuple[int, ...], list[str]] = {}

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

    def reduced(self, kind: str, x: str, axes: list[int], keepdims: int) -> str:
        if self.net.opset >= 18 or kind == "ReduceSum":
            return str(self.net.op(kind, x, self.net.ints(*axes), keepdims=keepdims))
        return str(self.net.op(kind, x, axes=axes, keepdims=keepdims))
