"""SparseGPT: one pass over the columns, one factor of the inverse for all rows and levels.

Frantar and Alistarh, "SparseGPT" (2023), algorithm 1. With ``U^T U = H^-1`` (U upper triangular),
column j of every row that loses it is compensated by ``W[:, j+1:] -= W[:, j] / U_jj U[j, j+1:]``.
Masks are chosen per block of columns just before it is processed, from the weights updated so far.

U needs no inverse of H: with ``H = V V^T`` (V upper triangular, a Cholesky factorisation from the
far end), ``U = V^-1``. That is 2/3 d^3 flops where inverting and factorising again takes 5/3 d^3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxprune.errors import DataError
from onnxprune.patterns.select import keep_largest
from onnxprune.recovery.problem import Ints, Mask
from onnxprune.recovery.search import SEARCHES, Request
from onnxprune.recovery.structure import Structure, top_of_buckets

Float = npt.NDArray[np.floating[Any]]

#: Columns that share one threshold and one trailing update.
BLOCK = 128
#: Columns updated one by one before the rest of the block catches up in one product.
STRIP = 32
#: Triangular factors up to this size are inverted by LAPACK in one call.
INVERT_DIRECTLY = 256
#: Layers of more inputs than this are swept in fp32, to halve memory and time.
SINGLE_PRECISION_ABOVE = 4096


def sparsegpt(
    target: Float,
    gram: Float,
    structure: Structure,
    keep: int | None = None,
    *,
    act_order: bool = True,
    factor: Float | None = None,
) -> tuple[Mask, Float]:
    """Prune and compensate in one sweep.

    Args:
        target: weights to approximate [R, d] (``Quadratic.target``, or the dense weights); float32
            or float64, and everything runs in that precision.
        gram: damped H [d, d], same dtype; not changed.
        structure: cells and N:M buckets.
        keep: cells that stay in the layer; not used with N:M.
        act_order: process columns of large diag(H) first (by cell, or by bucket for N:M).
        factor: of :func:`factor_of`, where it is known already.

    Returns:
        (what is kept [R, d], compensated weights [R, d]). Cost 2/3 d^3 + R d^2 flops; memory two
        [d, d] and two [R, d] arrays besides the arguments.

    Raises:
        DataError: H is not positive definite in the dtype given.
    """
    dtype = target.dtype
    order = _column_order(structure, np.diagonal(gram), act_order)
    real = order >= 0
    columns = order[real]
    upper = _inverse_factor(gram, columns) if factor is None else factor
    rows = -(-structure.rows // structure.height) * structure.height
    # Transposed, so that a column of W is contiguous.
    work = np.zeros((order.size, rows), dtype=dtype)
    work[real, : structure.rows] = np.ascontiguousarray(target.T)[columns]
    if not real.all():
        padded = np.eye(order.size, dtype=dtype)
        padded[np.ix_(real, real)] = upper
        upper = padded
    kept = _sweep(work, upper, real, structure, keep)
    back = np.flatnonzero(real)[np.argsort(columns)]
    mask = np.ascontiguousarray(kept[back, : structure.rows].T)
    weights = np.ascontiguousarray(work[back, : structure.rows].T)
    return mask, weights


def _column_order(structure: Structure, diagonal: Float, act_order: bool) -> Ints:
    """Order of the structure's columns with whole cells (N:M: buckets) sorted by their diagonal."""
    if not act_order:
        return structure.order
    runs = structure.order.reshape(-1, structure.width * max(structure.m, 1))
    weight = np.where(runs >= 0, diagonal[runs], 0.0).sum(axis=1)
    return runs[np.argsort(-weight, kind="stable")].ravel()


def _inverse_factor(gram: Float, columns: Ints) -> Float:
    """Upper U with ``U^T U = H^-1`` for the reordered H."""
    backward = columns[::-1]
    # A few rows at a time stay in the cache between the two axes; turned, which changes nothing
    # about a symmetric matrix, rows are the Fortran order in which LAPACK works in place.
    taken = np.empty((len(columns), len(columns)), gram.dtype)
    for start in range(0, len(columns), STRIP):
        rows = slice(start, start + STRIP)
        np.take(gram[backward[rows]], backward, axis=1, out=taken[rows], mode="clip")
    flipped = taken.T
    try:
        lower = scipy.linalg.cholesky(flipped, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise DataError(
            f"Gram matrix of size {gram.shape[0]} is not positive definite in {gram.dtype}: "
            "use more samples or a larger damping (1e-2 for float32)"
        ) from error
    _invert_lower(lower)
    upper: Float = lower[::-1, ::-1]
    return upper


def _invert_lower(lower: Float) -> None:
    """Invert a lower triangular matrix in place, by halves.

    LAPACK's trtri runs at a third of the speed that its triangular solves reach in the libraries
    that numpy and scipy come with.

    Raises:
        DataError: a zero on the diagonal.
    """
    size = len(lower)
    if size <= INVERT_DIRECTLY:
        found: Any = scipy.linalg.get_lapack_funcs(("trtri",), (lower,))  # stubs differ in its type
        inverted, info = found[0](lower, lower=1)
        if info != 0:  # pragma: no cover - cholesky has already refused a zero pivot
            raise DataError("a Cholesky factor has a zero pivot: use a larger damping")
        lower[:] = inverted
        return
    half = size // 2
    solvers: Any = scipy.linalg.get_blas_funcs(("trsm",), (lower,))
    trsm = solvers[0]
    corner = np.asfortranarray(lower[half:, :half])
    corner = trsm(-1.0, np.asfortranarray(lower[half:, half:]), corner, lower=1, overwrite_b=1)
    corner = trsm(
        1.0, np.asfortranarray(lower[:half, :half]), corner, side=1, lower=1, overwrite_b=1
    )
    lower[half:, :half] = corner
    _invert_lower(lower[:half, :half])
    _invert_lower(lower[half:, half:])


def _sweep(work: Float, upper: Float, real: Mask, structure: Structure, keep: int | None) -> Mask:
    """Process ``work`` [D, rows] in place; return what is kept [D, rows]."""
    size, rows = work.shape
    run = structure.width * max(structure.m, 1)
    strip = max(run, STRIP // run * run)
    block = max(1, BLOCK // strip) * strip
    kept = np.ones(work.shape, dtype=np.bool_)
    errors = np.empty((block, rows), dtype=work.dtype)
    wanted = structure.check_keep(keep)
    quotas = None if structure.m else _quotas(work, upper, real, structure, wanted)
    for start in range(0, size, block):
        stop = min(start + block, size)
        ahead = np.ascontiguousarray(upper[start:stop, start:])  # of these columns, in the cache
        if quotas is not None:
            inside = slice(start, stop)
            corner = ahead[:, : stop - start]
            scores = _cell_scores(work[inside], corner, real[inside], structure)
            count = int(quotas[start // structure.width : stop // structure.width].sum())
            chosen = keep_largest(scores.ravel(), count).reshape(scores.shape)
            wide = np.repeat(chosen, structure.width, axis=0)
            kept[inside] = np.repeat(wide, structure.height, axis=1)
        for low in range(start, stop, strip):
            high = min(low + strip, stop)
            for j in range(low, high):
                if structure.m and (j - low) % structure.m == 0:
                    bucket = slice(j, j + structure.m)
                    kept[bucket] = _best_of_bucket(
                        work[bucket], np.diagonal(upper)[bucket], real[bucket], structure.n
                    )
                error = errors[j - start]
                np.multiply(work[j], ~kept[j], out=error)
                error /= ahead[j - start, j - start]
                work[j] *= kept[j]
                work[j + 1 : high] -= ahead[j - start, j + 1 - start : high - start, None] * error
            if high < stop:
                own = slice(low - start, high - start)
                work[high:stop] -= ahead[own, high - start : stop - start].T @ errors[own]
        if stop < size:
            work[stop:] -= ahead[:, stop - start :].T @ errors[: stop - start]
    return kept & real[:, None]


def _quotas(work: Float, upper: Float, real: Mask, structure: Structure, keep: int) -> Ints:
    """Cells to keep in every cell column [C], from one ranking of the whole layer.

    The published method gives every block the same share, which starves the blocks of large inputs
    once columns are sorted by them; ranking all cells once by the same score costs next to nothing.
    """
    width = structure.width
    cells = work.shape[0] // width
    step = max(1, BLOCK // width) * width
    parts = []
    for start in range(0, work.shape[0], step):
        inside = slice(start, min(start + step, work.shape[0]))
        parts.append(_cell_scores(work[inside], upper[inside, inside], real[inside], structure))
    chosen = keep_largest(np.concatenate(parts).ravel(), keep)
    counts: Ints = chosen.reshape(cells, -1).sum(axis=1)
    return counts


def _cell_scores(work: Float, upper: Float, real: Mask, structure: Structure) -> Float:
    """Error of losing a cell when all after it compensates, ``||w_B U_BB^-1||^2``: [C, P]."""
    width, height = structure.width, structure.height
    cells = work.shape[0] // width
    if width == 1:
        score = (work / np.diagonal(upper)[:, None]) ** 2
    else:
        starts = np.arange(cells)[:, None] * width + np.arange(width)
        corner = upper[starts[:, :, None], starts[:, None, :]].transpose(0, 2, 1)
        lost = np.linalg.solve(corner, work.reshape(cells, width, -1))
        score = np.einsum("ecr,ecr->er", lost, lost)
    if height > 1:
        score = score.reshape(cells, -1, height).sum(axis=2)
    score[~real.reshape(cells, width).any(axis=1)] = -np.inf
    return score


def _best_of_bucket(work: Float, diagonal: Float, real: Mask, n: int) -> Mask:
    """The n of m columns [m, rows] whose loss would cost each row most."""
    score = np.where(real[:, None], (work / diagonal[:, None]) ** 2, -np.inf)
    best: Mask = top_of_buckets(score.T, n).T
    return best


def sweep(request: Request, factor: Float | None = None) -> tuple[Mask, Float]:
    """One sweep over a layer, in fp32 if it is large: what is kept, and compensated weights."""
    cells = request.cells("sparsegpt")
    target, gram = _operands(request)
    return sparsegpt(target, gram, cells, request.keep, factor=factor)


def factor_of(request: Request) -> Float | None:
    """Return the factor U [d, d], columns in the order of the sweep, that all levels share.

    None where the pattern's cells are no regular grid.

    Raises:
        DataError: H is not positive definite in the dtype of the sweep.
    """
    if request.structure is None:
        return None
    gram = _operands(request)[1]
    order = _column_order(request.structure, np.diagonal(gram), True)
    return _inverse_factor(gram, order[order >= 0])


def _operands(request: Request) -> tuple[Float, Float]:
    """Target and damped H in the dtype of the sweep."""
    problem = request.problem
    dtype = np.float32 if problem.shape[1] > SINGLE_PRECISION_ABOVE else np.float64
    return problem.target.astype(dtype), problem.gram.astype(dtype, copy=False)


@SEARCHES.member("sparsegpt")
def _search(request: Request) -> Mask:
    return sweep(request)[0]
