"""How much each layer can lose: a measured table, and the division of a budget by it.

Every layer is pruned alone, at several levels, re-solved on dense inputs, and the network's
outputs are compared with the dense ones. The damages are added up and a budget of weights is
divided so that their sum is least (dynamic programming over layers; methods.md 3, and 6.4 for what
it brings). Levels in between the measured ones follow a power law between their neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.allocation.knapsack import choose_levels
from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.blas import one_thread, side_by_side
from onnxprune.calibration.operands import Operand, find_operand
from onnxprune.calibration.stages import Stream, tensor_of
from onnxprune.patterns import Pattern
from onnxprune.recovery.apply import Progress, Reconstruction, few_columns, quiet
from onnxprune.recovery.apply_layer import Solved, solve_levels
from onnxprune.recovery.effort import TOO_LARGE
from onnxprune.recovery.problem import Mask, validation_error

F64 = npt.NDArray[np.float64]
#: Fractions removed at which a layer is measured.
LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
#: Samples on which damage is measured, and steps of the budget.
SAMPLES = 160
STEPS = 2000
#: Densities between which the budget may choose.
CHOICES = np.concatenate([np.arange(0.03, 0.3, 0.015), np.arange(0.3, 1.0, 0.05), [1.0]])
LEAST = 1e-9
#: Levels measured for a division, as multiples of the odds (removed to kept) that are wanted; and
#: the share of damage that it must promise to save.
NEARBY = (0.35, 1.0, 2.0)
WANTED = 1  # the odds themselves
FEW = 96  # samples then
PROMISE = 0.2


@dataclass(frozen=True)
class Sensitivity:
    """One layer's damage.

    Attributes:
        layer: its name.
        tensor: its weight's name.
        weights: number of weights.
        levels: fractions removed.
        loss: distance of the network's outputs from the dense ones at each level.
        top1: agreement at each level, or None.
    """

    layer: str
    tensor: str
    weights: int
    levels: tuple[float, ...]
    loss: tuple[float, ...]
    top1: tuple[float | None, ...]

    def at(self, density: F64) -> F64:
        """Interpolated damage at densities in (0, 1]: a power law of the removed fraction."""
        removed = np.maximum(1.0 - density, 1e-6)
        known = np.maximum(np.maximum.accumulate(self.loss), LEAST)
        x, y = np.log(np.asarray(self.levels)), np.log(known)
        steep = max((y[1] - y[0]) / (x[1] - x[0]), 1.0) if len(x) > 1 else 2.0
        found = np.interp(np.log(removed), x, y)
        low = removed < self.levels[0]
        found[low] = y[0] + steep * (np.log(removed[low]) - x[0])
        high = removed > self.levels[-1]
        if len(x) > 1:
            rate = max((y[-1] - y[-2]) / (self.levels[-1] - self.levels[-2]), 1.0)
            found[high] = y[-1] + rate * (removed[high] - self.levels[-1])
        damage: F64 = np.exp(found)
        damage[density >= 1.0] = 0.0
        return damage


def measure(
    work: Reconstruction,
    tensors: Sequence[str],
    pattern: Pattern,
    *,
    levels: Sequence[float] = LEVELS,
    samples: int | None = None,
    only: int | None = None,
    progress: Progress = quiet,
) -> list[Sensitivity]:
    """Prune every layer alone at every level and compare outputs.

    Args:
        work: the dense network with its samples.
        tensors: names of the weights to measure.
        pattern: pattern of the masks; one of fixed density has that level only.
        levels: fractions removed, ascending.
        samples: on which damage is measured; :data:`SAMPLES` when None.
        only: the one level that is measured, where all would take too long: the others are told
            by what the layer's own output loses at them. None to measure all.
        progress: called with (stage, fraction done).

    Returns:
        A table in graph order; layers without statistics are left out.

    Raises:
        DataError: onnxruntime does not run the model on the samples.
    """
    if pattern.fixed_density is not None:
        levels = (1.0 - pattern.fixed_density,)
    todo: list[tuple[int, Operand]] = []
    for name in tensors:
        layer = work.layers[name]
        place = work.stages.place_of(layer.node)
        found = find_operand(work.analyzer, layer)
        if place is not None and isinstance(found, Operand):
            todo.append((place, found))
    todo.sort(key=lambda pair: pair[0])
    chosen = chosen_feeds(work, samples)
    judge = Judge(Stream(work.stages, [work.feeds[i] for i in chosen]).finish(), tokens=work.tokens)
    dense = Stream(work.stages, work.feeds)
    table = []
    with one_thread():
        for number, (place, operand) in enumerate(todo):
            progress("measure", number / len(todo))
            layer = operand.layer
            name = layer.value.name or ""
            told = [pattern.text, work.columns.__name__, chosen, work.copies, only, name, *levels]
            asked = f"level {told}"
            known = work.journal.get(asked)
            if known is None:
                dense.advance(place)
                loss, top1 = _layer(work, dense, operand, pattern, levels, judge, chosen, only)
                # A level has a loss always, and votes where outputs hold classes.
                kept = {"loss": np.array(loss), "top1": np.array(top1, np.float64)}
                work.journal.put(asked, kept)
            else:
                loss = tuple(float(x) for x in known["loss"])
                top1 = tuple(None if np.isnan(x) else float(x) for x in known["top1"])
            table.append(Sensitivity(layer.name, name, layer.size, tuple(levels), loss, top1))
    return table


def chosen_feeds(work: Reconstruction, samples: int | None = None) -> list[int]:
    """Held-out feeds, spread out, of about :data:`SAMPLES` samples.

    On those that a layer was solved on, a layer of more inputs than there are samples loses nothing
    at any level, and the division would take most of it away.
    """
    held_feeds = [i for i, held in enumerate(work.held) if held] or [0]
    first = next(iter(work.feeds[0].values()))
    each = max(1, int(np.asarray(first).shape[0]) if np.asarray(first).ndim else 1)
    wanted = min(len(held_feeds), max(1, (samples or SAMPLES) // each))
    places = np.unique(np.linspace(0, len(held_feeds) - 1, wanted).astype(int))
    return [held_feeds[i] for i in places]


def _layer(
    work: Reconstruction,
    dense: Stream,
    operand: Operand,
    pattern: Pattern,
    levels: Sequence[float],
    judge: Judge,
    chosen: Sequence[int],
    only: int | None,
) -> tuple[tuple[float, ...], tuple[float | None, ...]]:
    """Losses and agreements of the network in which only this layer is pruned, a level each."""
    layer = operand.layer
    name = layer.value.name or ""
    tensor = np.asarray(layer.tensor.numpy())
    weight = tensor.astype(np.float64)
    train, other = work.statistics(operand, dense, dense)
    units = pattern.n_units(layer.view_shape)
    energy = np.einsum("gdd->gd", train.gram)[:, None, :]
    saliency = operand.matrix(weight) ** 2 * energy

    def wanted(level: float) -> Mask:
        keep = None
        if pattern.fixed_density is None:
            keep = max(1, round((1 - level) * units))
        return layer.unview(pattern.mask(saliency.reshape(layer.view_shape), keep))

    masks = [wanted(level) for level in levels]
    solutions = solve_levels(operand, weight, train, other, pattern, masks, even=work.few)

    def judged(solved: Solved) -> Agreement:
        array = operand.unmatrix(solved.weights).astype(tensor.dtype)
        trial = dense.fork(chosen)
        trial.weights[name] = tensor_of(array, layer.tensor, name)
        if solved.shift is not None and operand.bias is not None:
            work.edit(trial, operand.bias, operand.bias.moved(solved.shift.reshape(-1)))
        return judge.judge(trial.finish())

    if only is None:
        found = side_by_side(judged, solutions)
        return tuple(a.loss for a in found), tuple(a.top1 for a in found)
    matrix, gram = operand.matrix(weight), (other or train).gram
    lost = [sum(map(validation_error, solved.weights, matrix, gram)) for solved in solutions]
    seen = judged(solutions[only])
    scale = seen.loss / lost[only] if lost[only] > 0 else 0.0
    return tuple(scale * one for one in lost), (None,) * len(lost)


def divide(
    table: Sequence[Sensitivity], kept: float, costs: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the density of every layer, by tensor name, with the least summed damage.

    Args:
        table: measured damages.
        kept: weights (or cost) that may stay in these layers together.
        costs: cost of one weight by tensor name; 1 when None.
    """
    sizes = np.array([s.weights * (costs or {}).get(s.tensor, 1.0) for s in table])
    if not len(table) or kept >= sizes.sum():
        return {s.tensor: 1.0 for s in table}
    picks = choose_levels(
        [size * CHOICES for size in sizes],
        [entry.at(CHOICES.copy()) for entry in table],
        kept,
        steps=STEPS,
    )
    if picks is None:  # even the least densities cost more than there is
        share = kept / float(sizes.sum())
        return {s.tensor: share for s in table}
    return {s.tensor: float(CHOICES[i]) for s, i in zip(table, picks, strict=True)}


def filled(
    densities: Mapping[str, float], sizes: Mapping[str, int], kept: float
) -> dict[str, float]:
    """Return densities that keep as many weights as there may be: choices leave a rest."""
    found = dict(densities)
    for _ in range(len(found)):
        free = [name for name in found if found[name] < 1.0]
        spent = sum(found[name] * sizes[name] for name in found)
        part = sum(found[name] * sizes[name] for name in free)
        if not part or abs(kept - spent) < 0.5:
            break
        for name in free:
            found[name] = min(1.0, found[name] * (1 + (kept - spent) / part))
    return found


def divided_masks(
    work: Reconstruction,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    pattern: Pattern,
    *,
    fixed: Collection[str] = (),
    progress: Progress = quiet,
) -> dict[str, npt.NDArray[np.bool_]] | str | None:
    """Return masks that keep as many weights as ``masks`` but divided by a measured table.

    None where the table promises too little, less than :data:`PROMISE` of the damage; or why there
    is no table: the network is too large.

    Args:
        work: the dense network with its samples.
        masks: by tensor name; layers without statistics, and those that stay whole, keep theirs.
        pattern: the masks' pattern, one of free density.
        fixed: names of layers that keep their number.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model on the samples.
    """
    free = [
        name
        for name, mask in masks.items()
        if work.layers[name].name not in fixed and not mask.all()
    ]
    total = sum(masks[name].size for name in free)
    odds = total / max(sum(np.count_nonzero(masks[name]) for name in free), 1) - 1
    if odds <= 0:
        return None
    # Fewer samples at three levels tell less than all at one.
    samples, only = work.measurable(len(free) * len(NEARBY), FEW), None
    if samples < work.measurable(len(free), FEW):
        samples, only = work.measurable(len(free), FEW), WANTED
    if not samples:
        return TOO_LARGE.format("layer")
    levels = [odds * times / (1 + odds * times) for times in NEARBY]
    every, work.columns = work.columns, few_columns
    table = measure(
        work, free, pattern, levels=levels, samples=samples, only=only, progress=progress
    )
    work.columns = every
    names = {entry.tensor for entry in table}
    kept = float(sum(np.count_nonzero(masks[name]) for name in names))
    densities = filled(divide(table, kept), {e.tensor: e.weights for e in table}, kept)
    before = sum(float(e.at(np.array([masks[e.tensor].mean()]))[0]) for e in table)
    after = sum(float(e.at(np.array([densities[e.tensor]]))[0]) for e in table)
    if after > (1 - PROMISE) * before:
        return None
    found = dict(masks)
    for name, density in densities.items():
        layer = work.layers[name]
        shape = layer.view_shape
        units = pattern.n_units(shape)
        keep = min(units, max(1, round(density * units)))
        scores = np.abs(layer.view(layer.numbers().astype(np.float32)))
        found[name] = layer.unview(pattern.mask(scores, keep))
    return found
