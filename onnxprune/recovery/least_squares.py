"""Exact re-solve of the kept weights: the last step of every mask search.

For the support S of one row the optimum is ``w_S = G_S (H_SS)^-1`` (methods.md 1.0, decision 4).
Rows with identical supports share one factorisation; a row that keeps most of its weights is solved
on the *removed* ones instead (the dual form, a Schur complement of H^-1), because the cost is cubic
in the smaller of the two.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from onnxprune.calibration.blas import side_by_side
from onnxprune.errors import DataError
from onnxprune.recovery.pcg import masked_cg
from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic

#: Times as long as in a matrix product that an operation takes in factorisations row by row.
FACTORISING = 3.0
#: Steps of conjugate gradients to be reckoned with; they are factorised for where that takes less.
USUAL_STEPS = 40
#: Operations of a layer, as long as those of a matrix product, and bounds of the steps.
LIMIT = 6e12
LEAST_STEPS, MOST_STEPS = 12, 120
#: Residual, relative to G_S, at which steps end: the error is then within 1e-6 of the least.
TOLERANCE = 1e-6
#: From so many on several threads share the supports.
SHARED_FLOPS = 1e8


def solve_on_mask(
    problem: Quadratic,
    mask: Mask,
    *,
    start: F64 | None = None,
    limit: float = LIMIT,
    least: int = LEAST_STEPS,
) -> F64:
    """Return the best weights [R, d] with support in ``mask``.

    Where factorising row by row would take longer than conjugate gradients of all rows together
    usually do (wide layers), these are taken, for as long as factorising would be at most.

    Args:
        problem: the damped layer problem.
        mask: what is kept [R, d].
        start: weights to start from where steps are taken [R, d].
        limit: operations, as long as those of a matrix product, that may be spent.
        least: steps that are taken all the same, each of which lowers the error.

    Raises:
        DataError: mask of another shape, or a support on which H is not positive definite.
    """
    if mask.shape != problem.shape:
        raise DataError(f"mask {mask.shape} does not fit the problem {problem.shape}")
    supports = _group(mask)
    kept = np.array([int(mask[rows[0]].sum()) for rows in supports], dtype=np.float64)
    use_dual, flops = _plan(kept, problem.shape[1])
    step = step_flops(mask)
    if FACTORISING * flops > min(limit, USUAL_STEPS * step):
        most = int(min(limit, FACTORISING * flops) / step)
        steps = int(np.clip(most, least, MOST_STEPS))
        return masked_cg(problem, mask, start=start, tolerance=TOLERANCE, max_iterations=steps)
    solution = np.zeros(problem.shape)
    if use_dual:
        _ = problem.inverse  # worked out once, before several need it

    def solve(rows: Ints) -> None:
        keep = int(mask[rows[0]].sum())
        if keep == 0:
            return
        if keep == mask.shape[1]:
            solution[rows] = problem.target[rows]
        elif use_dual and mask.shape[1] - keep < keep:
            solution[rows] = _solve_removed(problem, mask[rows[0]], rows)
        else:
            solution[rows] = _solve_kept(problem, mask[rows[0]], rows)

    side_by_side(solve, supports, worth=flops >= SHARED_FLOPS)
    return solution


def solving_flops(mask: Mask) -> float:
    """Operations, as long as those of a matrix product, that solving on ``mask`` usually takes."""
    return min(FACTORISING * direct_flops(mask), USUAL_STEPS * step_flops(mask))


def direct_flops(mask: Mask) -> float:
    """Floating-point operations the factorisations of ``mask`` would take."""
    kept = np.array([mask[rows[0]].sum() for rows in _group(mask)], dtype=np.float64)
    return _plan(kept, mask.shape[1])[1]


def step_flops(mask: Mask) -> float:
    """Floating-point operations of a step of conjugate gradients."""
    rows, size = mask.shape
    found: float = 2.0 * max(rows, 1) * max(size, 1) ** 2
    return found


def _plan(kept: F64, size: int) -> tuple[bool, float]:
    """Whether some supports are better solved by removal, and the flops of the factorisations."""
    gone = size - kept
    # An inverse costs d^3; it pays off when the rows that are better solved by removal save more.
    saving = float(np.where(gone < kept, kept**3 - gone**3, 0.0).sum()) / 3
    if saving > float(size) ** 3:
        return True, float(size) ** 3 + float((np.minimum(kept, gone) ** 3).sum()) / 3
    return False, float((kept**3).sum()) / 3


def _group(mask: Mask) -> list[Ints]:
    """Row numbers by identical support, in order of first appearance."""
    groups: dict[bytes, list[int]] = {}
    for row, packed in enumerate(np.packbits(mask, axis=1)):
        groups.setdefault(packed.tobytes(), []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in groups.values()]


def _solve_kept(problem: Quadratic, keep: Mask, rows: Ints) -> F64:
    support = np.flatnonzero(keep)
    gram = _part(problem.gram, support)
    right = problem.cross[rows][:, support].T
    _, solved, info = scipy.linalg.lapack.dposv(gram, right, lower=1, overwrite_a=1)
    if info != 0:
        raise DataError(
            f"the Gram matrix of {support.size} kept inputs is not positive definite: "
            "use more samples or a larger damping"
        )
    out = np.zeros((rows.size, keep.size))
    out[:, support] = solved.T
    return out


def _solve_removed(problem: Quadratic, keep: Mask, rows: Ints) -> F64:
    gone = np.flatnonzero(~keep)
    target = problem.target[rows]
    block = _part(problem.inverse, gone)
    _, multipliers, info = scipy.linalg.lapack.dposv(block, target[:, gone].T, lower=1)
    if info != 0:
        raise DataError(
            f"the inverse Gram matrix of {gone.size} removed inputs is not positive definite: "
            "use more samples or a larger damping"
        )
    out: F64 = target - multipliers.T @ problem.inverse[gone]
    out[:, gone] = 0.0
    return out


def _part(matrix: F64, chosen: Ints) -> F64:
    """Rows and columns ``chosen``; half the time of indexing where matrices outgrow the caches."""
    found: F64 = matrix.take(chosen, 0, mode="clip").take(chosen, 1, mode="clip")
    return found
