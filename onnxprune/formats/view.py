"""The matrix that a format sees: any tensor, its axes permuted, the first ``split`` making rows.

The view is written into every blob, so a decoder needs no operator to undo it. Rows are outputs,
columns are what is contracted over; for N:M the columns run over input channels at a fixed kernel
position, which is the direction hardware groups along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxprune.errors import UsageError
from onnxprune.formats.bits import Array


@dataclass(frozen=True)
class View:
    """A tensor as a matrix: transpose by ``perm``, then the first ``split`` axes are the rows."""

    perm: tuple[int, ...]
    split: int

    def __post_init__(self) -> None:
        if sorted(self.perm) != list(range(len(self.perm))):
            raise UsageError(f"view perm {self.perm} is not a permutation of 0..rank-1")
        if not 0 <= self.split <= len(self.perm):
            raise UsageError(f"view split {self.split} is not within 0..{len(self.perm)}")

    def shape(self, dims: tuple[int, ...]) -> tuple[int, int]:
        """Return (rows, columns) for a tensor of shape ``dims``."""
        permuted = self.permuted(dims)
        return math.prod(permuted[: self.split]), math.prod(permuted[self.split :])

    def permuted(self, dims: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``dims`` in permuted order."""
        return tuple(dims[axis] for axis in self.perm)

    def flatten(self, tensor: Array) -> Array:
        """Return the elements of ``tensor`` in view order, shape (rows * columns,)."""
        flat: Array = tensor.transpose(self.perm).reshape(-1)
        return flat

    def unflatten(self, flat: Array, dims: tuple[int, ...]) -> Array:
        """Undo :meth:`flatten`: a C-contiguous tensor of shape ``dims``."""
        inverse = sorted(range(len(self.perm)), key=self.perm.__getitem__)
        tensor: Array = flat.reshape(self.permuted(dims)).transpose(inverse)
        return tensor if tensor.flags.c_contiguous else tensor.copy(order="C")


def default_view(rank: int) -> View:
    """Return axes in order; axis 0 is the rows when there are at least two axes."""
    return View(tuple(range(rank)), 1 if rank >= 2 else 0)


def last_axis_view(rank: int, axis: int) -> View:
    """Return the view whose columns run along ``axis`` alone: what N:M groups along.

    Raises:
        UsageError: ``axis`` is not an axis of a tensor of this rank.
    """
    if not -rank <= axis < rank:
        raise UsageError(f"axis {axis} is not an axis of a tensor with {rank} axes")
    axis %= rank
    return View((*(i for i in range(rank) if i != axis), axis), rank - 1)


def weight_view(
    op_type: str,
    weight_input: int,
    dims: tuple[int, ...],
    *,
    trans_b: bool = False,
    channels_last: bool = False,
    group: int = 1,
) -> View:
    """Return the canonical view of a weight; the table in docs/formats.md, "The matrix view".

    Args:
        op_type: ``Conv``, ``Gemm``, ``MatMul``; anything else takes the default view.
        weight_input: which input of the operator the weight is (tells MatMul's sides apart).
        dims: shape of the weight.
        trans_b: Gemm's ``transB``.
        channels_last: Conv only: columns run over input channels fastest (``nm``, ``bsr``).
        group: Conv with ``channels_last`` only: keep each kernel position in a row of its own
            unless the number of input channels is a multiple of this (N:M groups may not cross).
    """
    rank = len(dims)
    if op_type == "Conv" and rank >= 3 and channels_last:
        perm = (0, *range(2, rank), 1)
        return View(perm, 1 if dims[1] % group == 0 else rank - 1)
    if op_type == "Gemm" and rank == 2 and not trans_b:
        return View((1, 0), 1)
    if op_type == "MatMul" and rank >= 2:
        axes = tuple(range(rank))
        swapped = (*axes[:-2], rank - 1, rank - 2)
        return View(swapped if weight_input == 1 else axes, rank - 1)
    return default_view(rank)
