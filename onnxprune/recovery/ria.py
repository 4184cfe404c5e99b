"""RIA (Zhang et al., "Plug-and-Play", 2024): relative importance times activation."""

from __future__ import annotations

import numpy as np

from onnxprune.criteria.ria import ria_scores
from onnxprune.recovery.problem import Mask
from onnxprune.recovery.search import SEARCHES, Request


@SEARCHES.member("ria")
def _search(request: Request) -> Mask:
    """Scores squared, so that the sum over a block is an energy; compared over the layer."""
    problem = request.problem
    norms = np.sqrt(np.diagonal(problem.gram))
    return request.project(ria_scores(problem.target, norms) ** 2)
