"""OBD and OBS saliencies with the layer Hessian ``H = X X^T``.

LeCun et al. (1990) and Hassibi and Stork (1993), applied per layer: both are the rise of
``1/2 ||T - B X||^2`` when one weight goes, without and with the others moving to compensate.
"""

from __future__ import annotations

import numpy as np

from onnxprune.recovery.problem import F64, Mask
from onnxprune.recovery.search import SEARCHES, Request


def obd_scores(weight: F64, gram: F64) -> F64:
    """``1/2 w_ij^2 H_jj``: [R, d]."""
    scores: F64 = 0.5 * weight**2 * np.diagonal(gram)
    return scores


def obs_scores(weight: F64, inverse: F64) -> F64:
    """``1/2 w_ij^2 / (H^-1)_jj``: [R, d]; ``inverse`` is the damped H's inverse [d, d]."""
    scores: F64 = 0.5 * weight**2 / np.diagonal(inverse)
    return scores


@SEARCHES.member("obd")
def _search_obd(request: Request) -> Mask:
    """OBD scores summed over the pattern's units."""
    return request.project(obd_scores(request.problem.target, request.problem.gram))


@SEARCHES.member("obs")
def _search_obs(request: Request) -> Mask:
    """OBS scores summed over the pattern's units; one look, no elimination."""
    return request.project(obs_scores(request.problem.target, request.problem.inverse))
