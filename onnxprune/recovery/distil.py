"""Block-wise reconstruction without labels: what stays is trained to give the dense values.

All blocks are trained together. Every block's output, and the network's, is compared with the dense
network's on the same samples (the feature distances of BRECQ, Li et al. 2021, and of global
AdaPrune, Frantar and Alistarh 2022; methods.md 5), so that each layer makes up for those before it
and serves those behind it.

Directions are natural gradients on the input side (:mod:`.space`), of one length a tensor that is
measured before (:mod:`.strides`). A handful of epochs then does what hundreds of Adam's would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.variety import Variety
from onnxprune.recovery.distil_graph import Distillation, Students
from onnxprune.recovery.lessons import Lessons
from onnxprune.recovery.slopes import Slopes
from onnxprune.recovery.space import Space
from onnxprune.recovery.strides import Strides

Array = npt.NDArray[Any]
#: Passes over samples that stay the same.
EPOCHS = 10
#: Samples behind one step, at least.
BATCH = 96
#: How often the held-out samples are looked at, in epochs.
LOOK = 2
MOMENTUM, MEMORY = 0.9, 0.95
#: What is judged and returned is a running mean of the weights over about so many epochs: single
#: steps leave noise, and held-out samples would choose by it.
AVERAGE = 0.5
#: Steps grow over the first tenth of them. Where the loss exceeds so many times the first one, the
#: best weights so far are taken up again with half the step size.
RISE, WILD = 0.1, 20.0
#: Where the start is still the best after such a share of the epochs, training goes on from it with
#: steps so many times as large; where that gains nothing in as many, with smaller ones yet on the
#: samples as they are; then it ends.
PATIENCE, GENTLER = 0.25, 0.25
#: Where held-out samples disagree so many times as much as they did at best, steps are too large
#: (recurrent layers multiply them): the best weights are taken up again with smaller ones at once.
ASTRAY = 1.5


@dataclass(frozen=True)
class Trained:
    """Weights and how they were reached.

    Attributes:
        weights: those that agreed best on held-out samples.
        loss: that disagreement.
        history: (epoch, training loss, held-out disagreement).
    """

    weights: dict[str, Array]
    loss: float
    history: tuple[tuple[int, float | None, float | None], ...]


def train(
    graph: Distillation | Students,
    start: Mapping[str, Array],
    lessons: Lessons,
    spaces: Mapping[str, Space],
    held_out: Callable[[Mapping[str, Array]], float],
    *,
    strides: Strides,
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    epochs: int = EPOCHS,
    batch: int = BATCH,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Trained:
    """Train a student and return its best weights.

    Args:
        graph: the student and its derivatives.
        start: weights to start from, by name.
        lessons: samples and the dense network's values for them.
        spaces: by name, where a weight is trained; others are trained as they are.
        held_out: disagreement on other samples under given weights.
        strides: how large steps are.
        masks: by name, the weights that move; the others stay as they are.
        epochs: passes over the lessons.
        batch: samples behind one step, at least.
        seed: for the order of the lessons.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model.
    """
    slopes = Slopes(graph, spaces, masks or {}, lessons.feeds, batch)
    names, join = slopes.weights, slopes.lessons
    now = {n: np.array(start[n], np.float32) for n in names}
    mean = {n: a.copy() for n, a in now.items()}
    first = {n: np.zeros_like(now[n]) for n in names}
    second = dict.fromkeys(names, 0.0)
    rng = np.random.default_rng(seed)
    best, least = {n: a.copy() for n, a in now.items()}, held_out(now)
    history: list[tuple[int, float | None, float | None]] = [(0, None, least)]
    total, step, since = epochs * (len(lessons) // join), 0, 0
    rate = strides.rate
    share = np.float32(1 / max(1.0, AVERAGE * total / epochs))
    limit, calmer = 0.0, [replace(lessons, variety=Variety()), lessons]
    patience = LOOK * max(2, int(PATIENCE * epochs / LOOK))

    def back(gentler: float) -> None:
        """Go on from the best weights so far."""
        nonlocal now, mean, first, second, since, rate
        now, mean = ({n: a.copy() for n, a in best.items()} for _ in range(2))
        first, second = {n: np.zeros_like(now[n]) for n in names}, dict.fromkeys(names, 0.0)
        since, rate = 0, gentler * rate

    for epoch in range(1, epochs + 1):
        losses = []
        order = rng.permutation(len(lessons))
        for place in range(0, len(order) // join * join, join):
            taken = order[place : place + join]
            found, grads = slopes.of(partial(lessons.take, epoch), taken, now)
            losses += found
            limit = limit or WILD * losses[0]
            step += 1
            if not max(losses[-join:]) < limit:
                back(0.5)
                continue
            since += 1
            rise = min(1.0, since / (RISE * total))
            size = 0.5 * rate * rise * (1 + np.cos(np.pi * step / total))
            for name in names:
                way = slopes.way(name, grads[name])
                strength = slopes.strength(name, grads[name], way)
                first[name] += (1 - MOMENTUM) * (way - first[name])
                second[name] += (1 - MEMORY) * (strength - second[name])
                root = np.sqrt(second[name] / (1 - MEMORY**since)) + 1e-30
                length = size * strides.lengths[name] / (root * (1 - MOMENTUM**since))
                now[name] -= np.float32(length) * first[name]
                mean[name] += share * (now[name] - mean[name])
            if progress is not None:
                progress("train", step / total)
        if epoch % LOOK == 0 or epoch == epochs:
            seen = held_out(mean)
            history.append((epoch, float(np.mean(losses)), seen))
            if seen < least:
                best, least = {n: a.copy() for n, a in mean.items()}, seen
            elif not seen <= ASTRAY * least:
                back(GENTLER)
            elif least == history[0][2] and epoch % patience == 0:
                if not calmer:
                    break
                lessons = calmer.pop()
                back(GENTLER)
    return Trained(best, least, tuple(history))
