"""LASSO channel selection (He, Zhang and Sun, "Channel Pruning for Accelerating ...", 2017).

One coefficient beta_c scales each unit's share of the outputs; the l1 penalty grows until no more
than the wanted number of coefficients survive. Solved by coordinate descent on the C x C normal
matrix, so no sample is touched again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.recovery.channel_gram import channel_gram
from onnxprune.recovery.problem import F64, Mask
from onnxprune.recovery.structured import Consumer


def lasso_units(consumers: Sequence[Consumer], units: int, keep: int) -> Mask:
    """Units that stay [U], exactly ``keep`` of them.

    The penalty is bisected to the largest one at which at least ``keep`` coefficients survive; any
    surplus there is cut by ``|beta_c| ||z_c||``, and ties go to the lower index.
    """
    gram, right = channel_gram(consumers, units)
    if keep >= units:
        return np.ones(units, dtype=np.bool_)
    high = float(np.abs(right).max(initial=0.0))
    low, beta = 0.0, np.ones(units)
    best = beta
    for _ in range(40):
        middle = 0.5 * (low + high)
        beta = coordinate_descent(gram, right, middle, start=beta)
        alive = int(np.count_nonzero(beta))
        if alive >= keep:
            low, best = middle, beta
            if alive == keep:
                break
        else:
            high = middle
    strength = np.abs(best) * np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    mask = np.zeros(units, dtype=np.bool_)
    mask[np.argsort(-strength, kind="stable")[:keep]] = True
    return mask


def coordinate_descent(
    gram: F64,
    right: F64,
    penalty: float,
    *,
    start: F64 | None = None,
    tolerance: float = 1e-7,
    max_sweeps: int = 500,
) -> F64:
    """Minimise ``1/2 beta^T A beta - b^T beta + penalty |beta|_1``.

    Args:
        gram: A [U, U], positive semi-definite.
        right: b [U].
        penalty: the l1 weight.
        start: first guess [U], default zero.
        tolerance: stop when no coefficient moves its share ``|d beta| sqrt(A_cc)`` by more than
            this times the largest share.
        max_sweeps: passes over all coefficients.
    """
    beta = np.zeros(right.shape) if start is None else start.copy()
    diagonal = np.diagonal(gram).copy()
    norms = np.sqrt(np.maximum(diagonal, 0.0))
    slope = right - gram @ beta
    for _ in range(max_sweeps):
        largest = 0.0
        for c in range(beta.size):
            if diagonal[c] <= 0.0:
                beta[c] = 0.0
                continue
            pull = slope[c] + diagonal[c] * beta[c]
            new = np.sign(pull) * max(abs(pull) - penalty, 0.0) / diagonal[c]
            move = new - beta[c]
            if move != 0.0:
                slope -= move * gram[c]
                beta[c] = new
                largest = max(largest, abs(move) * norms[c])
        if largest <= tolerance * max(float((np.abs(beta) * norms).max(initial=0.0)), 1e-300):
            break
    return beta
