"""LASSO channel selection (He, Zhang and Sun, "Channel Pruning for Accelerating ...", 2017).

One coefficient beta_c scales each unit's share of the outputs; the l1 penalty grows until no more
than the wanted number of coefficients survive. Solved by coordinate descent on the C x C normal
matrix, so no sample is touched again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.criteria.reconstruction import coordinate_descent
from onnxprune.recovery.channel_gram import channel_gram
from onnxprune.recovery.problem import Mask
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
