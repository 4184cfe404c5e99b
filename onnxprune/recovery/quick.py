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
from onnxprune.recovery.least_squares import solve_on_mask, step_flops
from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic
from onnxprune.recovery.search import SEARCHES, Request, request
from onnxprune.recovery.sparsegpt import Float, factor_of, sweep
from onnxprune.recovery.structure import structure_of

#: Relative dampings, in this order until one is worse than the one before; rows that tell.
DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)
ROWS = 128
#: Steps of conjugate gradients from what the sweep leaves: they come to within 1 % of the least
#: error. Operations that they are worth.
STEPS = 12
ITERATED_FLOPS = 1e10


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

    All levels share factorisations. What the sweep leaves overstates the damage of high levels:
    values are solved, or nearly so, but for very large matrices. The damping of a level is the one
    of a few that errs least on ``held_out``, on a part of the rows. Patterns without regular cells
    are searched by ADMM.

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
    plain = Quadratic.plain(dense, gram)
    even = held_out is not None and held_out.even
    rows, part, fewer = _some_rows(pattern, shape, keeps)
    seen = None if held_out is None else held_out.of_rows(rows)
    best: dict[int, tuple[Quick, Float | None]] = {}
    going = list(range(len(keeps)))
    for damping in DAMPINGS if held_out is not None else DAMPINGS[:1]:
        problem = plain.damped(damping, even=even)
        asked = [request(problem.of_rows(rows), pattern, part, fewer[level]) for level in going]
        try:
            factor = factor_of(asked[0])
            trials = side_by_side(partial(_trial, factor, damping, seen), asked)
        except DataError:
            continue  # not definite under this damping
        better = {
            level: (trial, factor)
            for level, trial in zip(going, trials, strict=True)
            if level not in best or trial.error < best[level][0].error
        }
        best |= better
        going = list(better)
        if not going:
            break
    if len(best) < len(keeps):
        raise DataError("no damping makes the Gram matrix positive definite: use more samples")
    if len(rows) == len(dense):
        return [best[level][0] for level in range(len(keeps))]

    def whole(level: int) -> Quick:
        trial, factor = best[level]
        problem = plain.damped(trial.damping, even=even)
        asked = request(problem, pattern, shape, keeps[level])
        return _trial(factor, trial.damping, held_out, asked)

    return side_by_side(whole, range(len(keeps)))


def _some_rows(
    pattern: Pattern, shape: Sequence[int], keeps: Sequence[int | None]
) -> tuple[Ints, tuple[int, ...], list[int | None]]:
    """Rows that tell dampings apart, their shape, and how many of their units are kept.

    They are evenly spread; rows that share cells stay together.
    """
    structure = structure_of(pattern, shape)
    height = shape[0] if structure is None else structure.height
    groups = -(-shape[0] // height)
    chosen = np.unique(np.linspace(0, groups - 1, min(groups, -(-ROWS // height))).astype(int))
    rows = (chosen[:, None] * height + np.arange(height)).ravel()
    rows = rows[rows < shape[0]]
    part = (len(rows), *shape[1:])
    share = pattern.n_units((1, *part)) / pattern.n_units((1, *shape))
    return rows, part, [None if k is None else max(min(k, 1), round(k * share)) for k in keeps]


def _trial(factor: Float | None, damping: float, held_out: HeldOut | None, asked: Request) -> Quick:
    """One level under one damping."""
    problem = asked.problem
    method = "alps" if asked.structure is None else "sparsegpt"
    if asked.structure is None:
        mask = SEARCHES.get(method)(asked)
        values = solve_on_mask(problem, mask)
    else:
        mask, swept = sweep(asked, factor)
        most = min(STEPS * step_flops(mask), ITERATED_FLOPS)
        start = np.asarray(swept, np.float64)
        values = solve_on_mask(problem, mask, start=start, limit=most, least=0)
    if held_out is None:
        return Quick(mask, values, method, damping, problem.excess(values))
    return Quick(mask, values, method, damping, held_out.error(values, problem.weight))
