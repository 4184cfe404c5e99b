"""Masks and weights of several levels at once, just good enough to tell levels and layers apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.blas import side_by_side
from onnxprune.errors import DataError
from onnxprune.patterns.base import Pattern
from onnxprune.recovery.damping import HeldOut
from onnxprune.recovery.least_squares import direct_flops, solve_on_mask
from onnxprune.recovery.pcg import masked_cg
from onnxprune.recovery.problem import F64, Mask, Quadratic
from onnxprune.recovery.search import SEARCHES, Request, request
from onnxprune.recovery.sparsegpt import Float, factor_of, sweep

#: Relative dampings, in this order until one is worse than the one before.
DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)
#: Steps of conjugate gradients from what the sweep leaves: they come to within 1 % of the least
#: error. Operations that they are worth.
STEPS, LEAST_STEPS = 12, 4
ITERATED_FLOPS = 1e10
#: Times as long as in a matrix product that an operation takes in factorisations row by row.
FACTORISING = 3.0


@dataclass(frozen=True)
class Quick:
    """Mask and weights [R, d] of one level.

    Attributes:
        mask: what is kept.
        weights: in fp64, zero off the mask.
        method: the search.
        damping: relative ridge.
        error: on held-out samples; above the optimum, without them.
    """

    mask: Mask
    weights: F64
    method: str
    damping: float
    error: float


def quick_search(
    weight: npt.ArrayLike,
    gram: F64,
    held_out: HeldOut | None,
    pattern: Pattern,
    shape: Sequence[int],
    keeps: Sequence[int | None],
) -> list[Quick]:
    """Prune one group's weight matrix to several levels by SparseGPT, in the symmetric mode.

    All levels share a factorisation. What the sweep leaves overstates the damage of high levels:
    values are solved, or nearly so, but for very large matrices. The damping of a level is the one
    of a few that errs least on ``held_out``. Patterns without regular cells are searched by ADMM.

    Args:
        weight: W [R, d].
        gram: H [d, d], best centred.
        held_out: statistics of other samples; without them the least damping is taken.
        pattern: any registered pattern.
        shape: (R, I, *K) with ``d = I * prod(K)``.
        keeps: units of the pattern kept at each level; None where the pattern fixes its density.

    Returns:
        A result a level.

    Raises:
        UsageError: the pattern does not fit, or a count out of range.
        DataError: no damping makes H positive definite.
    """
    dense = np.asarray(weight, dtype=np.float64)
    product = dense @ gram
    even = held_out is not None and held_out.even
    best: dict[int, Quick] = {}
    going = list(range(len(keeps)))
    for damping in DAMPINGS if held_out is not None else DAMPINGS[:1]:
        problem = Quadratic.build(dense, gram, damping=damping, even=even, product=product)
        asked = [request(problem, pattern, shape, keeps[level]) for level in going]
        try:
            factor = factor_of(asked[0])
        except DataError:
            continue  # not definite under this damping
        trials = side_by_side(partial(_trial, factor, damping, held_out), asked)
        better = {
            level: trial
            for level, trial in zip(going, trials, strict=True)
            if trial is not None and (level not in best or trial.error < best[level].error)
        }
        best |= better
        going = [level for level in going if level in better or level not in best]
        if not going:
            break
    if len(best) < len(keeps):
        raise DataError("no damping makes the Gram matrix positive definite: use more samples")
    return [best[level] for level in range(len(keeps))]


def _trial(
    factor: Float | None, damping: float, held_out: HeldOut | None, asked: Request
) -> Quick | None:
    """One level under one damping; None where a support is not definite under it."""
    problem = asked.problem
    method = "alps" if asked.structure is None else "sparsegpt"
    try:
        if asked.structure is None:
            mask = SEARCHES.get(method)(asked)
            values = solve_on_mask(problem, mask)
        else:
            mask, swept = sweep(asked, factor)
            values = _mended(problem, mask, np.asarray(swept, np.float64))
    except DataError:
        return None
    if held_out is None:
        return Quick(mask, values, method, damping, problem.excess(values))
    return Quick(mask, values, method, damping, held_out.error(values, problem.weight))


def _mended(problem: Quadratic, mask: Mask, start: F64) -> F64:
    """The best weights on a mask, or close to them, by whatever is quicker."""
    rows, columns = problem.shape
    step = 2.0 * rows * columns**2
    steps = min(STEPS, int(ITERATED_FLOPS / step))
    if FACTORISING * direct_flops(mask) <= STEPS * step:
        return solve_on_mask(problem, mask)
    if steps < LEAST_STEPS:
        return start
    return masked_cg(problem, mask, start=start, max_iterations=steps)
