"""The C x C form behind ThiNet and LASSO channel selection.

With ``z_c = W_c X_c`` the share of unit c in a consumer's output, both methods need no more than
``A_cc' = <z_c, z_c'>`` and ``b_c = <z_c, T>`` (methods.md 1.5), which follow from (W, H, G).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.recovery.problem import F64
from onnxprune.recovery.structured import Consumer


def channel_gram(consumers: Sequence[Consumer], units: int) -> tuple[F64, F64]:
    """Sum over consumers of their weighted ``A`` [U, U] and ``b`` [U].

    Columns that belong to no unit stay as they are: their output is taken off the target first.
    """
    gram = np.zeros((units, units))
    right = np.zeros(units)
    for consumer in consumers:
        problem, price = consumer.problem, consumer.price
        weight = problem.weight
        mutual = problem.gram * (weight.T @ weight)
        spread = np.zeros((problem.shape[1], units + 1))
        spread[np.arange(problem.shape[1]), consumer.unit_of] = 1.0  # -1 is the last column
        joint = spread.T @ mutual @ spread
        agree = np.einsum("rd,rd->d", weight, problem.cross) @ spread
        gram += price * joint[:units, :units]
        right += price * (agree[:units] - joint[:units, units])
    return gram, right
