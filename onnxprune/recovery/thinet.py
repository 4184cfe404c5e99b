"""ThiNet (Luo, Wu and Lin, 2017): greedy channel selection by least added error, no compensation.

At every step the unit goes whose loss, together with those already gone, disturbs the consumers'
outputs least; weights are re-fitted only at the end (:meth:`Consumer.refit`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.recovery.channel_gram import channel_gram
from onnxprune.recovery.structured import Consumer, RemovalTrace


def thinet(consumers: Sequence[Consumer], units: int, *, least: int = 0) -> RemovalTrace:
    """Order in which units leave until ``least`` stay, with the error each adds.

    Args:
        consumers: every layer that reads the units.
        units: number of units U.
        least: units that stay at the end.
    """
    gram, right = channel_gram(consumers, units)
    alive = np.ones(units, dtype=np.bool_)
    steps = max(0, units - least)
    order = np.zeros(steps, dtype=np.int64)
    loss = np.zeros(steps)
    for step in range(steps):
        # ||T - sum over S||^2 after c leaves S, minus before.
        change = 2.0 * (right - gram @ alive) + np.diagonal(gram)
        change[~alive] = np.inf
        unit = int(np.argmin(change))
        order[step], loss[step] = unit, change[unit]
        alive[unit] = False
    return RemovalTrace(order, loss, units)
