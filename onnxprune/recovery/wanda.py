"""Wanda (Sun et al., 2023): ``|w_ij| ||x_j||_2``; a one-second baseline that needs norms only."""

from __future__ import annotations

import numpy as np

from onnxprune.recovery.problem import F64, Mask
from onnxprune.recovery.search import SEARCHES, Request


def wanda_scores(weight: F64, norms: F64) -> F64:
    """Scores [R, d], to be compared within a row as in the paper, or over the layer.

    Args:
        weight: W [R, d].
        norms: l2 norm of every input over the calibration samples [d], ``sqrt(diag(H))``.
    """
    scores: F64 = np.abs(weight) * norms
    return scores


@SEARCHES.member("wanda")
def _search(request: Request) -> Mask:
    """Scores squared, so that the sum over a block is an energy; compared over the layer."""
    problem = request.problem
    norms = np.sqrt(np.diagonal(problem.gram))
    return request.project(wanda_scores(problem.target, norms) ** 2)
