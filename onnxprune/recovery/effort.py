"""What the layers of one network may take together.

Searching a mask and solving on it cost ``R d^2`` many times over: nothing in most networks, an
hour in a transformer of common size. One budget for each over the whole network is given to its
layers in order of cost; those that it does not reach take a cheaper way: ADMM in a third of the
steps, or SparseGPT, and a few conjugate gradients from what it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.calibration.feeds import Feed
from onnxprune.calibration.samples import calibration_feeds, rows_of
from onnxprune.passes.base import Context
from onnxprune.passes.prepare import prepare
from onnxprune.planning.cost import CostModel
from onnxprune.recovery.least_squares import solving_flops
from onnxprune.recovery.problem import Mask
from onnxprune.rules.analysis import Analyzer, analyze
from onnxprune.rules.nominal import sizes_seen

#: Floating-point operations that ADMM may take, that it may take in a hurry, and solutions.
SEARCHING = 2e12
HURRIED = 4e12
SOLVING = 2e12
#: Share of the steps that are then left.
HASTE = 1 / 3
#: Multiply-accumulates of the dense network over all samples where nobody says how many, and
#: samples that are used all the same.
FORWARD = 5e11
FEWEST = 128
#: Multiply-accumulates of the runs that measure what single layers lose, and samples without which
#: that says nothing.
MEASURING = 2.5e12
FEWEST_MEASURED = 8
TOO_LARGE = "the network is too large to be measured a {} at a time"


@dataclass(frozen=True)
class Effort:
    """What a layer may take.

    Attributes:
        searching: operations of ADMM up to which a layer is searched by it.
        hurried: the same where it hurries.
        solving: operations that may be spent on solving a layer.
    """

    searching: float = SEARCHING
    hurried: float = HURRIED / HASTE
    solving: float = SOLVING

    @staticmethod
    def of(masks: Iterable[Sequence[Mask]]) -> Effort:
        """Divide the budgets.

        Args:
            masks: for every layer what its groups keep, [R, d] each.
        """
        searching, solving = [], []
        for groups in masks:
            searching.append(sum(admm_flops(*mask.shape) for mask in groups if not mask.all()))
            solving.append(sum(solving_flops(mask) for mask in groups))
        limit = share(searching, SEARCHING)
        rest = [cost for cost in searching if cost > limit]
        return Effort(limit, share(rest, HURRIED / HASTE), share(solving, SOLVING))

    def of_each(self, groups: int) -> Effort:
        """What each of a layer's groups may take."""
        return Effort(self.searching / groups, self.hurried / groups, self.solving / groups)


def macs_of(analyzer: Analyzer, feeds: Sequence[Mapping[str, Any]]) -> int:
    """Return the multiply-accumulates of a network for one sample of these feeds' sizes."""
    return CostModel(analyzer, sizes_seen(analyzer.model, feeds)).macs()


def affordable_feeds(
    data: Any, model: ir.Model, samples: int | None = None
) -> tuple[list[Feed], str | None]:
    """Return calibration feeds of as many samples as a network of this size allows.

    Args:
        data: see :func:`~onnxprune.calibration.feeds.open_feeds`.
        model: the model, not changed.
        samples: as many as were asked for, whatever they take; None where nobody said.

    Returns:
        The feeds; and a note where they are not all of the usual number, None otherwise.

    Raises:
        DataError: nothing usable is there.
    """
    feeds = calibration_feeds(data, model, samples)
    there = sum(map(rows_of, feeds))
    if samples is not None or there <= FEWEST:
        return feeds, None
    copy = io.load(model).model
    prepare(copy, Context(), structural=False)
    most = max(FEWEST, int(FORWARD / max(macs_of(analyze(copy), feeds), 1)))
    if there <= most:
        return feeds, None
    note = (
        f"{most} samples were calibrated on: the network is large, and more would take long; "
        "--samples N takes N of them"
    )
    return calibration_feeds(data, model, most), note


def measurable(macs: float, trials: int, wanted: int) -> int:
    """Return how many samples trials of single layers can be run on, at most ``wanted``.

    Args:
        macs: multiply-accumulates of the network for a sample; a trial takes half of it on average,
            what is behind the layer.
        trials: layers times levels.
        wanted: samples that there are, or that are enough.

    Returns:
        0 where so few are affordable that they would say nothing.
    """
    most = int(MEASURING / max(0.5 * macs * trials, 1.0))
    return wanted if most >= wanted else most if most >= FEWEST_MEASURED else 0


def admm_flops(rows: int, columns: int) -> float:
    """Floating-point operations of a search by ADMM."""
    return 10.0 * columns**3 + 150 * 4.0 * rows * columns**2


def share(costs: Sequence[float], budget: float) -> float:
    """Return the largest cost such that all costs up to it sum to at most ``budget``.

    The budget itself where it is enough for all.
    """
    ordered = np.sort(np.asarray(costs, np.float64))
    reached = int(np.searchsorted(np.cumsum(ordered), budget, side="right"))
    if reached == len(ordered):
        return budget
    below = ordered[ordered < ordered[reached]]
    return float(below[-1]) if len(below) else 0.0
