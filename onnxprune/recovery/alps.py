"""ALPS: the mask as an l0-constrained least-squares problem, solved by ADMM.

Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language
Models" (2024), algorithm 1. Any pattern whose projection is easy will do; the work is matrix
products only. With ``Hn = D^-1 H D^-1`` (unit diagonal) and ``B0 = W D``:

    B  = (Hn + rho I)^-1 (Hn B0 - V + rho S)
    S  = projection of B + V / rho
    V += rho (B - S)

and rho grows until the support stops moving.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxprune.calibration.blas import side_by_side
from onnxprune.recovery.problem import Mask, Quadratic
from onnxprune.recovery.search import SEARCHES, Request
from onnxprune.recovery.structure import Projection
from onnxprune.recovery.swaps import polish

#: Problems of at least this many inputs run in fp32: only the ranking of scores matters here.
SINGLE_PRECISION_FROM = 256
#: Swaps follow where R d^3 (over the rows that share a mask) is at most this. What they gain falls
#: with the size, to 0.2 % of the error at 160 x 960, where they take most of the time.
SWAP_LIMIT = 2e10
#: Operations of a step that are worth a part of the rows of its own.
PART_FLOPS = 1e8


@dataclass(frozen=True)
class Schedule:
    """How rho grows: gentler than the paper's (start 0.1, factors 1.3, 1.2, 1.1).

    On the layers of a CIFAR ResNet-20 the gentler growth lowers the error by 2 to 7 % (most on the
    ill-conditioned early layers) at about twice the steps.

    Attributes:
        start: first rho, relative to the unit diagonal of the scaled Gram matrix.
        iterations: upper bound on ADMM steps.
        every: steps between two looks at the support.
        growth: (relative support change above which, factor) pairs, largest change first; the last
            factor applies to any change at all.
    """

    start: float = 0.02
    iterations: int = 300
    every: int = 3
    growth: tuple[tuple[float, float], ...] = ((0.1, 1.15), (0.005, 1.1), (0.0, 1.05))


#: A third of the steps: errors of layers of 768 inputs rise by 1 to 3 %, where SparseGPT's are 10
#: to 30 % above.
HURRIED = Schedule(growth=((0.1, 1.6), (0.005, 1.45), (0.0, 1.2)))


def alps(problem: Quadratic, project: Projection, schedule: Schedule | None = None) -> Mask:
    """Search the mask; follow with :func:`~onnxprune.recovery.least_squares.solve_on_mask`.

    Args:
        problem: the damped layer problem (asymmetric ones through their ``target``).
        project: best mask for scores [R, d]; must keep the same number of weights every time.
        schedule: growth of the penalty.

    Returns:
        What is kept [R, d]. Cost: one eigendecomposition and two ``R d d`` products a step.
    """
    schedule = schedule or Schedule()
    scale = np.sqrt(np.diagonal(problem.gram))
    values, vectors = np.linalg.eigh(problem.gram / np.outer(scale, scale))
    dense = problem.target * scale
    dtype = np.float32 if problem.shape[1] >= SINGLE_PRECISION_FROM else np.float64
    basis = vectors.astype(dtype)
    spectrum = np.maximum(values, 0.0).astype(dtype)
    pull = (dense.astype(dtype) @ basis) * spectrum  # Hn B0 in the eigenbasis
    mask = project(dense**2)
    kept = max(int(mask.sum()), 1)
    sparse = np.where(mask, dense, 0.0).astype(dtype)
    dual, free = np.zeros_like(sparse), np.empty_like(sparse)
    parts = _parts(*problem.shape)

    def relax(shift: Any, rows: slice) -> None:
        part = (shift * sparse[rows] - dual[rows]) @ basis
        part += pull[rows]
        part /= spectrum + shift
        np.matmul(part, basis.T, out=free[rows])

    rho = schedule.start
    last, moved, restarts = mask, False, 0
    for step in range(1, schedule.iterations + 1):
        shift = dtype(rho)
        side_by_side(partial(relax, shift), parts)
        point = free + dual / shift
        mask = project(point**2)
        np.multiply(mask, point, out=sparse)
        dual += shift * (free - sparse)
        if step % schedule.every:
            continue
        change = int(np.count_nonzero(mask & ~last)) / kept
        last = mask
        if change == 0:
            if moved or restarts == 4:
                break
            # The penalty froze the first support at once: start over more gently.
            rho, restarts = rho / 5, restarts + 1
            dual[:] = 0
            continue
        moved = True
        rho *= next(factor for limit, factor in schedule.growth if change > limit)
    return mask


def _parts(rows: int, size: int) -> list[slice]:
    """Rows of a problem that are worked on at once, of a large one several parts.

    The parts depend on the problem alone, and so do the last bits.
    """
    step = max(1, int(PART_FLOPS / (4.0 * size * size)))
    if rows < 2 * step:
        return [slice(None)]
    return [slice(at, at + step) for at in range(0, rows, step)]


@SEARCHES.member("alps")
def _search(request: Request) -> Mask:
    """ADMM, then swaps where cells are one column wide and the layer is small enough."""
    mask = alps(request.problem, request.project, HURRIED if request.hurried else None)
    cells = request.structure
    if cells is None or cells.width > 1:
        return mask
    rows, columns = request.problem.shape
    if rows / cells.height * columns**3 > SWAP_LIMIT:
        return mask
    return polish(request.problem, mask, cells)
