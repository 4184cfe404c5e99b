"""Wanda (Sun et al., 2023): ``|w_ij| ||x_j||_2``; a one-second baseline that needs norms only."""

from __future__ import annotations

import numpy as np

from onnxprune.criteria.wanda import wanda_scores
from onnxprune.recovery.problem import Mask
from onnxprune.recovery.search import SEARCHES, Request


@SEARCHES.member("wanda")
def _search(request: Request) -> Mask:
    """Scores squared, so that the sum over a block is an energy; compared over the layer."""
    problem = request.problem
    norms = np.sqrt(np.diagonal(problem.gram))
    return request.project(wanda_scores(problem.target, norms) ** 2)
