"""Masked conjugate gradients: the re-solve for layers too large to factorise row by row.

All rows run together, so an iteration is one matrix product. The preconditioner is Jacobi, as in
ALPS (Meng et al. 2024), section 3.3; the system of row r is ``H_SS w_S = G_S``.
"""

from __future__ import annotations

import numpy as np

from onnxprune.recovery.problem import F64, Mask, Quadratic


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
    live = mask.astype(np.float64)
    scale = 1.0 / np.diagonal(problem.gram)
    weights = (problem.weight if start is None else start) * live
    residual = (problem.cross - weights @ problem.gram) * live
    goal = tolerance * np.linalg.norm(problem.cross * live, axis=1)
    shaped = residual * scale
    direction = shaped.copy()
    energy = np.einsum("rd,rd->r", residual, shaped)
    for _ in range(max_iterations):
        open_rows = np.linalg.norm(residual, axis=1) > goal
        if not open_rows.any():
            break
        image = direction @ problem.gram
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
