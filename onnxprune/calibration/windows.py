"""Unfolding: which input element every kernel position of every output position reads.

One table an axis says it for convolutions of any rank, stride, padding and dilation, and for
transposed ones alike: ``table[t, k]`` is the input coordinate that output ``t`` meets at kernel
position ``k``, or -1 where it meets padding (or, transposed, a hole between strides). The columns
of an unfolded input are then a plain gather.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import ModelError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution on inputs of one size.

    Attributes:
        tables: an axis each, [outputs, kernel], input coordinate or -1.
        sizes: spatial sizes of the input.
    """

    tables: tuple[Ints, ...]
    sizes: tuple[int, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(len(table) for table in self.tables)

    @property
    def positions(self) -> int:
        """Number of output positions."""
        return math.prod(self.outputs)

    @cached_property
    def gather(self) -> Ints:
        """Flat input index of every [output position, kernel position]; the size where padding."""
        total = np.zeros((1, 1), np.int64)
        valid = np.ones((1, 1), np.bool_)
        for table, size in zip(self.tables, self.sizes, strict=True):
            # [P, K] x [t, k] -> [P t, K k], both in C order.
            cells = total[:, None, :, None] * size + np.maximum(table, 0)[None, :, None, :]
            fits = valid[:, None, :, None] & (table >= 0)[None, :, None, :]
            shape = (cells.shape[0] * cells.shape[1], cells.shape[2] * cells.shape[3])
            total, valid = cells.reshape(shape), fits.reshape(shape)
        return np.where(valid, total, math.prod(self.sizes))

    def unfold(
        self, array: npt.NDArray[Any], groups: int, chosen: Ints | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the unfolded input.

        Args:
            array: [N, G * I, *sizes], any float dtype.
            groups: G.
            chosen: output positions to take; None for all.

        Returns:
            float32 [G, I * K, N * P], columns ordered by sample, then by position.
        """
        batch, channels = array.shape[:2]
        flat = array.reshape(batch, channels, -1).astype(np.float32, copy=False)
        index = self.gather if chosen is None else self.gather[chosen]
        if (index == flat.shape[2]).any():
            flat = np.concatenate([flat, np.zeros((batch, channels, 1), np.float32)], axis=2)
        taken = flat[:, :, index.T]  # [N, C, K, P]
        rows = channels // groups * index.shape[1]
        columns = taken.reshape(batch, groups, rows, len(index)).transpose(1, 2, 0, 3)
        return np.ascontiguousarray(columns).reshape(groups, rows, -1)


def _pads(
    sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int], auto: str, pads: Ints
) -> list[int]:
    """Leading padding an axis."""
    if auto in ("", "NOTSET"):
        return [int(p) for p in pads[: len(sizes)]]
    if auto == "VALID":
        return [0] * len(sizes)
    lead = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        lead.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return lead


def conv_window(
    sizes: Sequence[int],
    outputs: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "",
    transposed: bool = False,
) -> Window:
    """Return the window of a (transposed) convolution.

    Args:
        sizes: spatial sizes of the input.
        outputs: spatial sizes of the output, as the runtime gives them.
        kernel: kernel sizes.
        strides: as in the operator, 1 when None.
        dilations: as in the operator, 1 when None.
        pads: as in the operator (leading, then trailing), 0 when None.
        auto_pad: as in the operator.
        transposed: whether it is a ConvTranspose.

    Raises:
        ModelError: sizes of different rank.
    """
    rank = len(sizes)
    if not len(outputs) == len(kernel) == rank:
        raise ModelError(
            f"a convolution of rank {rank} has kernel {list(kernel)} and output {list(outputs)}"
        )
    stride = list(strides or [1] * rank)
    dilation = list(dilations or [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    given = np.asarray(pads or [0] * (2 * rank), np.int64)
    if transposed and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((n - 1) * s + span - t, 0)
            for n, s, span, t in zip(sizes, stride, spans, outputs, strict=True)
        ]
        lead = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals]
    else:
        lead = _pads(sizes, spans, stride, auto_pad, given)
    tables = []
    for axis in range(rank):
        out = np.arange(outputs[axis])[:, None]
        step = np.arange(kernel[axis])[None] * dilation[axis]
        if transposed:
            place = out + lead[axis] - step
            cell = np.where(place % stride[axis] == 0, place // stride[axis], -1)
        else:
            cell = out * stride[axis] + step - lead[axis]
        tables.append(np.where((cell >= 0) & (cell < sizes[axis]), cell, -1))
    return Window(tuple(tables), tuple(sizes))
