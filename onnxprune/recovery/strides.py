"""How large the steps of a training are: measured on the student before it starts.

Two things are asked. How far does each tensor move the values that are compared: ``want`` plus
noise has a derivative that differs from that of ``want`` by ``J^T noise``, whose square in the
tensor's metric is the trace of the Gauss-Newton matrix there (Hutchinson 1989), so that one pair of
runs tells it for all tensors. A step then moves these values equally far whatever tensor it is of:
layers differ a hundred times in how much of a change of their own gets through. And how many such
units are right: the loss along the first direction is a parabola near its start, and its lowest
point tells, nearer to the dense network and in deeper networks closer by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.recovery.distil_graph import Students
from onnxprune.recovery.lessons import Feed, Lessons
from onnxprune.recovery.slopes import Slopes
from onnxprune.recovery.space import Space

Array = npt.NDArray[Any]
Values = Mapping[str, Array]
#: Noise, relative to what makes a unit of loss of every value that is compared.
NOISE = 0.01
#: No tensor counts as moving compared values less than such a share of what is usual, a relative
#: change against a relative change.
LEAST_REACH = 0.05
#: First try of a rate: a share of the distance, divided over tensors; tries; and by how much the
#: next may differ.
TRY, TRIES, WIDEST = 0.02, 5, 10.0
#: Batches that rates are measured on: of one alone the direction fits nothing else.
BATCHES = 2
#: First rate over that at which their loss is lowest. Steps may be larger than is best for a single
#: one: those that follow take other directions, and what is taken is a running mean.
TIMES = 2.0


@dataclass(frozen=True)
class Strides:
    """How large steps are.

    Attributes:
        lengths: of a unit step, by tensor: its root mean square over the weights that move, in the
            metric of the tensor's space.
        rate: first step size, in unit steps.
    """

    lengths: Mapping[str, float]
    rate: float


def measured(
    graph: Students,
    lessons: Lessons,
    start: Values,
    spaces: Mapping[str, Space],
    *,
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    batch: int,
    seed: int = 0,
) -> Strides:
    """Measure how large steps are to be, on a few batches.

    Args:
        graph: the student and its derivatives.
        lessons: samples and the dense network's values for them.
        start: weights.
        spaces: by name, the metric of a weight; the plain one where there is none.
        masks: by name, the weights that move.
        batch: samples behind one step, at least.
        seed: for the choice of lessons and the noise.

    Raises:
        DataError: onnxruntime does not run the model.
    """
    slopes = Slopes(graph, spaces, masks or {}, lessons.feeds, batch)
    names = slopes.weights
    chosen = np.random.default_rng((seed, 1)).permutation(len(lessons))[: BATCHES * slopes.lessons]
    taken = {int(i): lessons.take(0, int(i)) for i in chosen}
    losses, grads = slopes.of(lambda i: taken[i], chosen, start)
    _, other = slopes.of(lambda i: _noisy(*taken[i], graph.spreads, (seed, 2, i)), chosen, start)
    reach, usual = {}, {}
    for name in names:
        # Lessons' noise is independent: their sum's square is the sum of squares.
        gap, moving = other[name] - grads[name], slopes.moving(name, start[name])
        strength = max(slopes.strength(name, gap, slopes.way(name, gap)), 0.0)
        reach[name] = float(np.sqrt(strength / (4 * NOISE**2 * len(chosen)) * moving))
        own = spaces[name].energy(start[name]) if name in spaces else np.vdot(*2 * [start[name]])
        usual[name] = float(np.sqrt(own / moving))
    floor = LEAST_REACH * float(np.median([reach[n] * usual[n] for n in names]))
    lengths = {}
    for name in names:
        most = max(reach[name], floor / usual[name] if usual[name] else 0.0)
        lengths[name] = 1 / most if most else 0.0
    ways = {}
    for name in names:
        way = slopes.way(name, grads[name])
        root = np.sqrt(max(slopes.strength(name, grads[name], way), 0.0)) + 1e-30
        ways[name] = np.asarray(lengths[name] / root * way, np.float32)
    slope = sum(float(np.vdot(grads[n], ways[n])) for n in names)
    loss = sum(losses)
    trial = TRY * float(np.sqrt(loss / len(chosen) / len(names)))
    for _ in range(TRIES):
        moved = {n: start[n] - np.float32(trial) * ways[n] for n in names}
        there, _ = slopes.of(lambda i: taken[i], chosen, moved)
        bend = (sum(there) - loss + slope * trial) / trial**2
        lowest = slope / (2 * bend) if bend > 0 else np.inf if np.isfinite(bend) else 0.0
        near = trial / 2 < lowest < 2 * trial
        trial = float(np.clip(lowest, trial / WIDEST, trial * WIDEST))
        if near:
            break
    return Strides(lengths, TIMES * trial)


def _noisy(
    feed: Feed, want: Values, spreads: Mapping[str, float], seed: tuple[int, ...]
) -> tuple[Feed, dict[str, Array]]:
    """A lesson whose wanted values have noise, each value's as much as all of it counts."""
    rng = np.random.default_rng(seed)
    found = dict(want)
    for name, spread in spreads.items():
        noise = rng.standard_normal(want[name].shape, np.float32)
        found[name] = (
            want[name] + np.float32(NOISE * np.sqrt(max(spread, 1e-12) * noise.size)) * noise
        )
    return feed, found
