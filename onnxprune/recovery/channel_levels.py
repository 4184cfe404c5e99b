"""How many units each group keeps: a measured table, and the division of a cost by it.

Every group is pruned alone at several levels, the layers behind it re-solved on dense inputs, and
the network's outputs compared with the dense ones (methods.md 3). A cost that multiplies between
groups, as operations do, is made a sum around the current choice, and the choice repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune.allocation.base import admissible
from onnxprune.allocation.knapsack import choose_levels
from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.blas import one_thread
from onnxprune.calibration.stages import Stream, tensor_of
from onnxprune.recovery.apply import Progress, quiet
from onnxprune.recovery.apply_levels import Sensitivity, chosen_feeds
from onnxprune.recovery.channels import Channels
from onnxprune.recovery.coupled import Reading, consumers

F64 = npt.NDArray[np.float64]
#: Fractions of a group's units removed at which it is measured.
LEVELS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
#: Where there are many groups, fewer.
FEW_LEVELS = (0.125, 0.25, 0.5, 0.75)
MANY_GROUPS = 24
#: Counts a group may choose from at most, and rounds of making the cost a sum.
CHOICES = 64
ROUNDS = 12
#: Moves of the last refinement, options a move may skip, and groups up to which pairs are tried.
MOVES, REACH, PAIRED = 40, 3, 40


def measure_groups(
    channels: Channels,
    groups: Sequence[int],
    *,
    levels: Sequence[float] | None = None,
    samples: int | None = None,
    progress: Progress = quiet,
) -> dict[int, Sensitivity]:
    """Prune every group alone at every level and compare outputs.

    Args:
        channels: groups with their statistics.
        groups: which of them; those that no layer with statistics reads are left out.
        levels: fractions removed, ascending; as many as their number suggests when None.
        samples: samples to compare on; a default when None.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model on the samples.
    """
    work = channels.work
    if levels is None:
        levels = LEVELS if len(groups) <= MANY_GROUPS else FEW_LEVELS
    chosen = chosen_feeds(work, samples)
    judge = Judge(Stream(work.stages, [work.feeds[i] for i in chosen]).finish(), tokens=work.tokens)
    dense = Stream(work.stages, [work.feeds[i] for i in chosen])

    def first(group: int) -> int:
        return min(channels.places[_name(r)] for r in channels.reading[group])

    todo = sorted((g for g in groups if channels.reading[g]), key=first)
    found: dict[int, Sensitivity] = {}
    with one_thread():
        for number, group in enumerate(todo):
            progress("measure", number / len(todo))
            dense.advance(first(group))
            units = len(channels.scored[group].group)
            counts: dict[int, float] = {}
            for level in levels:
                gone = round(level * units)
                if 0 < gone < units:
                    counts.setdefault(gone, gone / units)
            if not counts:
                continue
            judged = [_alone(channels, dense, group, units - gone, judge) for gone in counts]
            scored = channels.scored[group]
            found[group] = Sensitivity(
                scored.name,
                scored.name,
                units,
                tuple(counts.values()),
                tuple(a.loss for a in judged),
                tuple(a.top1 for a in judged),
            )
    return found


def _name(reading: Reading) -> str:
    return reading.operand.layer.value.name or ""


def _alone(channels: Channels, dense: Stream, group: int, keep: int, judge: Judge) -> Agreement:
    """Agreement of the network in which only this group was pruned and its readers re-solved."""
    work = channels.work
    kept = channels.kept(group, keep)
    trial = dense.fork()
    for reading in channels.reading[group]:
        operand = reading.operand
        layer, name = operand.layer, _name(reading)
        dtype = np.asarray(layer.tensor.numpy()).dtype
        weights = operand.matrix(np.asarray(layer.tensor.numpy())).astype(np.float64)
        solved = np.where((reading.unit_of >= 0) & ~kept[reading.unit_of], 0.0, 1.0)[:, None, :]
        solved = weights * solved
        moments = channels.stats[name]
        behind = consumers([reading], {name: moments}, damping=1e-4)
        if len(behind) == len(weights):
            solved = np.stack([c.refit(kept) for c in behind])
        trial.weights[name] = tensor_of(operand.unmatrix(solved).astype(dtype), layer.tensor, name)
        if operand.bias is not None:
            shift = np.einsum("grd,gd->gr", weights - solved, moments.mean)
            work.edit(trial, operand.bias, operand.bias.moved(shift.reshape(-1)))
    return judge.judge(trial.finish())


def divide_units(
    table: Mapping[int, Sensitivity],
    start: Mapping[int, int],
    cost: Callable[[Mapping[int, int]], float],
    target: float,
    *,
    align: int = 1,
    power: float = 1.0,
) -> dict[int, int] | None:
    """Return how many units every group keeps, the summed damage least and the cost met.

    Args:
        table: measured damages, by group.
        start: units kept by every group at the start; groups without a table stay so.
        cost: cost of a choice; falls as units leave.
        target: most that it may cost.
        align: kept counts are multiples of this, or all.
        power: damages are raised to this power before they are added: below 1 it spreads the
            removal less evenly, above 1 more.

    Returns:
        Counts for the groups in ``start``, or None where the target cannot be met.
    """
    options: dict[int, npt.NDArray[np.int64]] = {}
    damages: dict[int, F64] = {}
    for group, entry in table.items():
        counts = admissible(entry.weights, align, 1)
        if len(counts) > CHOICES:
            counts = counts[np.unique(np.linspace(0, len(counts) - 1, CHOICES).astype(int))]
        options[group] = counts
        damages[group] = entry.at(counts / entry.weights) ** power
    groups = list(table)
    keeps = dict(start)
    best: tuple[float, dict[int, int]] | None = None
    excess = 0.0
    seen: set[tuple[int, ...]] = set()
    for _ in range(ROUNDS):
        whole = cost(keeps)
        rows, floor, here = [], 0.0, 0.0
        for group in groups:
            row = np.array([cost({**keeps, group: int(n)}) for n in options[group]])
            here += cost({**keeps, group: keeps[group]})
            floor += float(row.min())
            rows.append(row - row.min())
        budget = target - (whole - here) - floor - excess
        picks = choose_levels(rows, [damages[g] for g in groups], budget) if budget > 0 else None
        if picks is None:
            picks = [int(np.argmin(row)) for row in rows]
        keeps = {
            **keeps, **{g: int(options[g][i]) for g, i in zip(groups, picks, strict=True)}
        }  # fmt: skip
        found = cost(keeps)
        harm = sum(float(damages[g][i]) for g, i in zip(groups, picks, strict=True))
        if found <= target and (best is None or harm < best[0]):
            best = (harm, keeps)
        excess += max(0.0, found - target)
        state = tuple(picks)
        if state in seen and found <= target:
            break
        seen.add(state)
    if best is None:
        return None
    return _Exchange(groups, options, damages, cost, target).refine(best[1])


class _Exchange:
    """Small moves from a choice: what the grid of the budget and the sum of costs left on the way.

    A move gives a group more units, taking some from another group where the cost asks for it.
    """

    def __init__(
        self,
        groups: Sequence[int],
        options: Mapping[int, npt.NDArray[np.int64]],
        damages: Mapping[int, F64],
        cost: Callable[[Mapping[int, int]], float],
        target: float,
    ) -> None:
        self.groups, self.options, self.damages = groups, options, damages
        self.cost, self.target = cost, target

    def refine(self, keeps: dict[int, int]) -> dict[int, int]:
        """Take the best move until none helps."""
        for _ in range(MOVES):
            at = {g: int(np.flatnonzero(self.options[g] == keeps[g])[0]) for g in self.groups}
            moved = self._best(keeps, at)
            if moved is None:
                break
            keeps = moved
        return keeps

    def _best(self, keeps: dict[int, int], at: dict[int, int]) -> dict[int, int] | None:
        harm, found = -1e-12, None
        for up in self.groups:
            for rise in range(1, min(at[up], REACH) + 1):
                more = {**keeps, up: int(self.options[up][at[up] - rise])}
                relief = float(self.damages[up][at[up] - rise] - self.damages[up][at[up]])
                if relief >= harm:
                    continue  # nothing could be taken elsewhere for it
                if self.cost(more) <= self.target:
                    harm, found = relief, more
                    continue
                for down in self.groups if len(self.groups) <= PAIRED else ():
                    found, harm = self._paid(more, up, down, at, relief, found, harm)
        return found

    def _paid(
        self,
        more: dict[int, int],
        up: int,
        down: int,
        at: dict[int, int],
        relief: float,
        found: dict[int, int] | None,
        harm: float,
    ) -> tuple[dict[int, int] | None, float]:
        """The same move paid for by ``down``, where that is better than what was ``found``."""
        last = min(at[down] + REACH, len(self.options[down]) - 1)
        for place in range(at[down] + 1, last + 1 if down != up else 0):
            change = relief + float(self.damages[down][place] - self.damages[down][at[down]])
            if change >= harm:
                break  # damages rise
            trial = {**more, down: int(self.options[down][place])}
            if self.cost(trial) <= self.target:
                return trial, change
        return found, harm
