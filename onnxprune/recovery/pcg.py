"""Masked conjugate gradients: the re-solve for layers too large to factorise row by row.

Many rows run together, so an iteration is one matrix product. The preconditioner is Jacobi, as in
ALPS (Meng et al. 2024), section 3.3; the system of row r is ``H_SS w_S = G_S``.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onnxprune.calibration.blas import side_by_side
from onnxprune.recovery.problem import F64, Mask, Quadratic

#: Rows of a part, about, and operations of a step from which on parts run side by side.
ROWS = 128
PART_FLOPS = 1e7


def masked_cg(
    problem: Quadratic,
    mask: Mask,
    *,
    start: F64 | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 300,
) -> F64:
    """Solve every row on its support by conjugate gradients.

    Args:
        problem: the damped layer problem; H [d, d], G [R, d].
        mask: what is kept [R, d].
        start: first guess [R, d]; default the dense weights cut to the mask.
        tolerance: stop when every row's residual norm is below this times the norm of its G_S.
        max_iterations: upper bound; the objective falls with every iteration, so stopping early is
            safe.

    Returns:
        weights [R, d], exactly zero off the mask.
    """
    weights = np.zeros(problem.shape)
    first = problem.weight if start is None else start

    def part(rows: slice) -> None:
        weights[rows] = _iterate(
            problem.gram, problem.cross[rows], mask[rows], first[rows], tolerance, max_iterations
        )

    side_by_side(part, _parts(*problem.shape))
    return weights


def _parts(rows: int, size: int) -> list[slice]:
    """Rows that are worked on at once: the parts depend on the problem alone, as do the bits."""
    count = 2 * max(1, round(rows / (2 * ROWS))) if rows * size * size >= PART_FLOPS else 1
    ends = np.linspace(0, rows, min(count, max(rows, 1)) + 1).astype(int)
    return [slice(a, b) for a, b in pairwise(ends)]


def _iterate(gram: F64, cross: F64, mask: Mask, start: F64, tolerance: float, most: int) -> F64:
    """Rows [r, d] after at most so many steps."""
    live = mask.astype(np.float64)
    scale = 1.0 / np.diagonal(gram)
    weights = start * live
    residual = (cross - weights @ gram) * live
    goal = tolerance * np.linalg.norm(cross * live, axis=1)
    shaped = residual * scale
    direction = shaped.copy()
    energy = np.einsum("rd,rd->r", residual, shaped)
    for _ in range(most):
        open_rows = np.linalg.norm(residual, axis=1) > goal
        if not open_rows.any():
            break
        image = direction @ gram
        image *= live
        curvature = np.einsum("rd,rd->r", direction, image)
        step = np.where(open_rows, energy / np.where(curvature > 0, curvature, 1.0), 0.0)
        weights += step[:, None] * direction
        residual -= step[:, None] * image
        np.multiply(residual, scale, out=shaped)
        fresh = np.einsum("rd,rd->r", residual, shaped)
        momentum = np.where(open_rows, fresh / np.where(energy > 0, energy, 1.0), 0.0)
        direction *= momentum[:, None]
        direction += shaped
        energy = fresh
    return weights
