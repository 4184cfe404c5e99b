"""ThiNet (Luo, Wu and Lin, 2017): greedy channel selection by least added error, no compensation.

At every step the unit goes whose loss, together with those already gone, disturbs the consumers'
outputs least; weights are re-fitted only at the end (:meth:`Consumer.refit`).
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.criteria.reconstruction import greedy_order
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
    order, loss = greedy_order(gram, right, max(0, units - least))
    return RemovalTrace(order, loss, units)
