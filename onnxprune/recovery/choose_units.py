"""Several answers to the same request, by samples: which groups lose how much, and which units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxprune.axes import Bools
from onnxprune.planning import PrunePlan, SelectOptions
from onnxprune.planning.cost import CostModel
from onnxprune.planning.structure import ScoredGroup, free_groups
from onnxprune.recovery.apply import Progress, Reconstruction, quiet
from onnxprune.recovery.channel_levels import FEW_LEVELS, divide_units, measure_groups
from onnxprune.recovery.channels import Channels
from onnxprune.recovery.effort import TOO_LARGE

#: Allocations that samples may answer.
BY_DATA = ("auto", "measured")
#: Samples on which groups are measured.
SAMPLES = 256
#: Damages are added up after being raised to one of these powers.
POWERS = (1.0, 1.4)


def candidates(
    work: Reconstruction,
    plan: PrunePlan,
    options: SelectOptions,
    *,
    seed: int = 0,
    progress: Progress = quiet,
    table: list[dict[str, Any]] | None = None,
    missed: list[str] | None = None,
) -> Iterator[tuple[str, Bools]]:
    """Yield choices of units to try: (name of the step, components to remove).

    The first has as many units in every group as the plan; with a target and an allocation that
    samples may answer, others follow that divide the same cost by measured damage: over all
    groups, and over those that one layer alone reads (residual streams stay whole then).

    Args:
        work: the dense network with its samples.
        plan: what was chosen without samples.
        options: what was asked for.
        seed: for random scores.
        progress: called with (stage, fraction done).
        table: rows of the measured table are appended here.
        missed: and here why there is none, where one was wanted.

    Raises:
        DataError: onnxruntime does not run the model on the samples.
    """
    by_data = options.criterion == "auto"
    measured = bool(options.target) and options.allocation in BY_DATA
    if not by_data and not measured:
        return
    scored, free = free_groups(work.analyzer, options)
    channels = Channels(work, scored, by_data=by_data, progress=progress)
    start = counts_of(plan, scored)
    cost = CostModel(work.analyzer)
    ((what, wanted),) = (options.target or {"macs": 1.0}).items()
    count = cost.counter(what)
    whole = count(None)
    reached = count(channels.removed(start)) / max(whole, 1)
    if by_data:
        yield "select", channels.removed(start, swaps=True)
    if not measured:
        return
    samples = work.measurable(len(free) * len(FEW_LEVELS), SAMPLES)
    if not samples:
        if missed is not None:
            missed.append(TOO_LARGE.format("group"))
        return
    found = measure_groups(channels, free, samples=samples, progress=progress)
    for entry in found.values():
        if table is not None:
            table.extend(
                {"group": entry.layer, "units": entry.weights, "sparsity": s, "loss": x, "top1": t}
                for s, x, t in zip(entry.levels, entry.loss, entry.top1, strict=True)
            )
    limit = max(wanted, reached)

    def spent(keeps: Mapping[int, int]) -> float:
        return count(channels.removed(keeps)) / max(whole, 1)

    base = {g: (len(s.group) if g in free else start[g]) for g, s in enumerate(scored)}
    seen = [start]
    narrow = {g: e for g, e in found.items() if len(channels.reading[g]) == 1}
    ways = [("allocate", found, power) for power in POWERS]
    if 0 < len(narrow) < len(found):
        ways[1:1] = [("allocate, streams whole", narrow, POWERS[0])]
    for name, part, power in ways:
        keeps = divide_units(part, base, spent, limit, align=options.align, power=power)
        if keeps is not None and keeps not in seen:
            seen.append(keeps)
            label = name if power == POWERS[0] else f"{name}, power {power:g}"
            yield label, channels.removed(keeps, swaps=True)


def counts_of(plan: PrunePlan, scored: list[ScoredGroup]) -> dict[int, int]:
    """Units that every group keeps under a plan."""
    kept = {entry["name"]: int(entry["kept"]) for entry in plan.groups}
    return {g: kept.get(s.name, len(s.group)) for g, s in enumerate(scored)}
