"""RIA (Zhang et al., "Plug-and-Play", 2024): relative importance times activation."""

from __future__ import annotations

import numpy as np

from onnxprune.recovery.problem import F64, Mask
from onnxprune.recovery.search import SEARCHES, Request


def ria_scores(weight: F64, norms: F64, *, power: float = 0.5) -> F64:
    """``(|w_ij| / sum_j |w_ij| + |w_ij| / sum_i |w_ij|) ||x_j||^power``: [R, d].

    Dividing by the row's and the column's total keeps whole channels from being wiped out.

    Args:
        weight: W [R, d].
        norms: l2 norm of every input over the calibration samples [d], ``sqrt(diag(H))``.
        power: weight of the activations; 0 leaves the data-free relative importance.
    """
    size = np.abs(weight)
    rows = size.sum(axis=1, keepdims=True)
    columns = size.sum(axis=0, keepdims=True)
    relative = size / np.where(rows > 0, rows, 1.0) + size / np.where(columns > 0, columns, 1.0)
    scores: F64 = relative * norms**power
    return scores


@SEARCHES.member("ria")
def _search(request: Request) -> Mask:
    """Scores squared, so that the sum over a block is an energy; compared over the layer."""
    problem = request.problem
    norms = np.sqrt(np.diagonal(problem.gram))
    return request.project(ria_scores(problem.target, norms) ** 2)
