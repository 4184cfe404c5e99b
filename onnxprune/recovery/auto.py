"""One call for a layer: find the mask, solve the weights on it, say what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune.patterns.base import Pattern
from onnxprune.recovery.damping import HeldOut, choose_damping
from onnxprune.recovery.effort import Effort, admm_flops
from onnxprune.recovery.least_squares import solve_on_mask
from onnxprune.recovery.problem import F64, Mask, Quadratic
from onnxprune.recovery.search import SEARCHES, Request, request
from onnxprune.recovery.sparsegpt import sweep

#: ExactOBS joins the choice where R d^3, over the rows that share a mask, is at most this.
EXACT_LIMIT = 2e11
#: Ridge relative to the mean diagonal where nothing is held out to choose it by.
DEFAULT_DAMPING = 1e-4


@dataclass(frozen=True)
class SearchInfo:
    """What a search did.

    Attributes:
        method: the search whose mask was taken.
        damping: relative damping of the final solve.
        error: ``tr((B - B*) H (B - B*)^T)`` over the energy of the best output.
        held_out: error on held-out samples up to a constant (exact in the symmetric mode), or None.
        tried: every search tried with the error it was judged by.
    """

    method: str
    damping: float
    error: float
    held_out: float | None
    tried: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SearchResult:
    """Mask [R, d] (what is kept), weights [R, d] in fp64 (zero off the mask), and the account."""

    mask: Mask
    weights: F64
    info: SearchInfo


def search_mask(
    weight: npt.ArrayLike,
    gram: F64,
    cross: F64 | None = None,
    *,
    pattern: Pattern,
    shape: Sequence[int],
    keep: int | None = None,
    method: str = "auto",
    damping: float | None = None,
    held_out: HeldOut | None = None,
    row_weight: F64 | None = None,
    mask: Mask | None = None,
    effort: Effort | None = None,
) -> SearchResult:
    """Prune one group's weight matrix.

    Args:
        weight: W [R, d], d in memory order (channels, then kernel positions).
        gram: H [d, d], best centred (:func:`~onnxprune.recovery.bias.centre`).
        cross: G [R, d] for targets other than the layer's own dense output.
        pattern: any registered pattern.
        shape: (R, I, *K) with ``d = I * prod(K)``.
        keep: units of the pattern kept in this matrix; None where the pattern fixes its density.
        method: a member of :data:`~onnxprune.recovery.search.SEARCHES`, or ``auto``: ADMM with
            swaps, ExactOBS beside it where cells tie several columns and it is affordable,
            SparseGPT for what is too large for either.
        damping: ridge relative to the mean diagonal; None for 1e-4, or chosen on ``held_out``.
        held_out: statistics of other samples, to choose the damping and judge the candidates.
        row_weight: importance of each output row [R] in the competition for weights; no effect on
            the values once the mask is set.
        mask: skip the search and solve on this mask.
        effort: what may be spent on this layer; all there is for a network when None.

    Returns:
        The result; the same input gives the same bytes.

    Raises:
        UsageError: the pattern does not fit, ``keep`` out of range, or no such method.
        DataError: statistics that do not fit, or are not positive definite.
    """
    dense = np.asarray(weight, dtype=np.float64)
    effort = effort or Effort()
    used = DEFAULT_DAMPING if damping is None else damping
    tune = damping is None and held_out is not None
    even = held_out is not None and held_out.even
    plain = Quadratic.plain(dense, gram, cross)
    if tune and held_out is not None and mask is None:
        # With fewer samples than inputs an undamped search would prize the null space. A cheap mask
        # of the dense weights tells, whose target need not be solved for.
        alike = _contest(replace(plain, symmetric=True), row_weight)
        cheap = SEARCHES.get("wanda")(request(alike, pattern, shape, keep))
        used = choose_damping(plain, cheap, held_out)
    problem = plain.damped(used, even=even)
    found: list[tuple[Mask, F64 | None]]
    if mask is not None:
        names, found = ["given"], [(mask, None)]
    else:
        asked = request(_contest(problem, row_weight), pattern, shape, keep)
        hurried = admm_flops(*problem.shape) > effort.searching
        asked = replace(asked, hurried=method == "auto" and hurried)
        names = _candidates(asked, effort) if method == "auto" else [method]
        found = [_found(name, asked) for name in names]
        if row_weight is not None:  # what a search leaves is then of another problem
            found = [(chosen, None) for chosen, _ in found]
    errors: list[float] = []
    solved: F64 | None = None
    best = 0
    if len(found) > 1:
        solutions = [solve_on_mask(problem, m, start=s, limit=effort.solving) for m, s in found]
        errors = [_judge(problem, candidate, held_out, row_weight) for candidate in solutions]
        best = int(np.argmin(errors))
        solved = solutions[best]
    chosen, start = found[best]
    if tune and held_out is not None:
        tried = used if used in held_out.candidates else None
        last = choose_damping(plain, chosen, held_out, start=tried)
        if last != used:
            used, problem = last, plain.damped(last, even=even)
            start, solved = start if solved is None else solved, None
    weights = solved
    if weights is None:
        weights = solve_on_mask(problem, chosen, start=start, limit=effort.solving)
    info = SearchInfo(
        names[best],
        used,
        problem.relative_error(weights),
        None if held_out is None else held_out.error(weights, dense),
        tuple(zip(names, errors or [_judge(problem, weights, held_out, row_weight)], strict=True)),
    )
    return SearchResult(chosen, weights, info)


def _found(name: str, asked: Request) -> tuple[Mask, F64 | None]:
    """A search's mask, and the weights on it that the search happens to leave."""
    if name != "sparsegpt":
        return SEARCHES.get(name)(asked), None
    mask, swept = sweep(asked)
    return mask, np.asarray(swept, np.float64)


def _contest(problem: Quadratic, row_weight: F64 | None) -> Quadratic:
    """The problem in which rows compete for weights."""
    return problem if row_weight is None else problem.scaled_rows(np.sqrt(row_weight))


def _candidates(asked: Request, effort: Effort) -> list[str]:
    """Names of the searches worth their cost on this layer, cheapest judgement last."""
    rows, columns = asked.problem.shape
    cells = asked.structure
    if cells is not None and admm_flops(rows, columns) > max(effort.searching, effort.hurried):
        return ["sparsegpt"]
    if cells is None or cells.width == 1:
        # With swaps after it, ADMM was never beaten by ExactOBS on columns that go one by one.
        return ["alps"]
    if rows / cells.height * columns**3 <= EXACT_LIMIT:
        return ["alps", "exact_obs"]
    return ["alps"]


def _judge(
    problem: Quadratic, candidate: F64, held_out: HeldOut | None, row_weight: F64 | None
) -> float:
    """Error a candidate is ranked by: on held-out samples where there are any."""
    if row_weight is not None:
        root = np.sqrt(row_weight)
        problem = problem.scaled_rows(root)
        candidate = candidate * root[:, None]
        if held_out is not None and held_out.cross is not None:
            held_out = replace(held_out, cross=held_out.cross * root[:, None])
    if held_out is not None:
        return held_out.error(candidate, problem.weight)
    return problem.excess(candidate)
