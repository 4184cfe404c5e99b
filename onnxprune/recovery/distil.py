"""Block-wise reconstruction without labels: what stays is trained to give the dense values.

All blocks are trained together. Every block's output, and the network's, is compared with the dense
network's on the same samples (the feature distances of BRECQ, Li et al. 2021, and of global
AdaPrune, Frantar and Alistarh 2022; methods.md 5), so that each layer makes up for those before it
and serves those behind it.

Steps are natural gradients on the input side: a derivative ``G`` of a layer's weights becomes the
step ``G H^-1`` with ``H`` the damped second moment of its inputs (the input factor of K-FAC,
Martens and Grosse 2015), of one length a tensor. Under a mask every row has its own inputs, and the
step of a row is ``g_S (H_SS)^-1`` over what it keeps. A handful of epochs then does what hundreds
of Adam's would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.operands import Operand
from onnxprune.calibration.variety import Variety
from onnxprune.recovery.apply import rows_of
from onnxprune.recovery.distil_graph import Distillation, Students
from onnxprune.recovery.lessons import Lessons
from onnxprune.runtime.sessions import cores

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
#: First step size, as a share of a tensor's root mean square; it falls along a cosine.
RATE = 0.005
EPOCHS = 10
#: Samples behind one step, at least.
BATCH = 96
#: How often the held-out samples are looked at, in epochs.
LOOK = 2
MOMENTUM, MEMORY = 0.9, 0.95
#: What is judged and returned is a running mean of the weights over about so many epochs: single
#: steps leave noise, and held-out samples would choose by it.
AVERAGE = 0.5
#: Added to a second moment of inputs, relative to its mean diagonal, where columns are plenty.
DAMPING = 1e-2
#: Numbers in the inverses of a layer's rows; beyond it the rows share the inverse of all inputs.
ROOM = 6_000_000
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
class Space:
    """Turns derivatives of a layer's weights into steps.

    Attributes:
        operand: how weights are laid out as [G, R, d].
        moment: of inputs, damped, of mean diagonal 1 [G, d, d].
        inverse: its inverse, or [G, R, k, k] those over the inputs that each row keeps.
        places: then, these inputs [G, R, k], filled up with others.
        real: then, which of them are kept.
        mask: what is kept of the tensor; None for all.
    """

    operand: Operand
    moment: F64
    inverse: F32
    places: npt.NDArray[np.int64] | None = None
    real: Mask | None = None
    mask: Mask | None = None

    @staticmethod
    def build(
        operand: Operand, moment: F64, mask: Mask | None = None, *, damping: float = DAMPING
    ) -> Space:
        """Return the space of inputs with second moments ``moment`` [G, d, d].

        Args:
            operand: the layer.
            moment: of its inputs, of any scale.
            mask: what is kept; None for all.
            damping: added to the diagonal, relative to its mean.

        Raises:
            numpy.linalg.LinAlgError: the moment is not finite.
        """
        size = moment.shape[-1]
        mean = np.maximum(np.einsum("gdd->g", moment) / size, 1e-30)[:, None, None]
        damped = moment / mean + damping * np.eye(size)
        if mask is None or mask.all():
            return Space(operand, damped, np.linalg.inv(damped).astype(np.float32))
        kept = operand.matrix(mask)
        most = max(1, int(kept.sum(axis=2).max()))
        if kept.shape[0] * kept.shape[1] * most * most > ROOM:
            return Space(operand, damped, np.linalg.inv(damped).astype(np.float32), mask=mask)
        places = np.argsort(~kept, axis=2, kind="stable")[:, :, :most]
        real = np.take_along_axis(kept, places, axis=2)
        inverse = np.empty((*places.shape, most), np.float32)
        for group, row in np.ndindex(*kept.shape[:2]):
            at = places[group, row]
            both = np.outer(real[group, row], real[group, row])
            part = np.where(both, damped[group][np.ix_(at, at)], np.eye(most))
            inverse[group, row] = np.linalg.inv(part)
        return Space(operand, damped, inverse, places, real, mask)

    def step(self, gradient: Array) -> Array:
        """The direction in which weights move under a derivative, zero where they are fixed."""
        matrix = self.operand.matrix(gradient)
        if self.places is None:
            found = self.operand.unmatrix(matrix @ self.inverse)
            return found if self.mask is None else found * self.mask
        taken = np.take_along_axis(matrix, self.places, axis=2) * self.real
        moved = np.matmul(self.inverse, taken[..., None])[..., 0] * self.real
        out = np.zeros_like(matrix)
        np.put_along_axis(out, self.places, moved, axis=2)
        return self.operand.unmatrix(out)

    def energy(self, weight: Array) -> float:
        """``w H w^T`` summed over rows: the square of the layer's output."""
        matrix = self.operand.matrix(weight).astype(np.float64)
        return float(np.einsum("gri,gij,grj->", matrix, self.moment, matrix, optimize=True))


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
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    epochs: int = EPOCHS,
    rate: float = RATE,
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
        masks: by name, the weights that move; the others stay as they are.
        epochs: passes over the lessons.
        rate: first step size.
        batch: samples behind one step, at least.
        seed: for the order of the lessons.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model.
    """
    masks = masks or {}
    names = graph.weights
    now = {n: np.array(start[n], np.float32) for n in names}
    counts = {
        n: max(int(np.count_nonzero(masks[n])) if n in masks else now[n].size, 1) for n in names
    }
    sizes = {n: _energy(spaces.get(n), now[n]) / counts[n] for n in names}
    scale = {n: max(float(np.sqrt(size)), 1e-8) for n, size in sizes.items()}
    mean = {n: a.copy() for n, a in now.items()}
    first = {n: np.zeros_like(now[n]) for n in names}
    second = dict.fromkeys(names, 0.0)
    rng = np.random.default_rng(seed)
    best, least = {n: a.copy() for n, a in now.items()}, held_out(now)
    history: list[tuple[int, float | None, float | None]] = [(0, None, least)]
    join = min(len(lessons), max(1, -(-batch // rows_of(lessons.feeds[0]))))
    total, step, since = epochs * (len(lessons) // join), 0, 0
    share = np.float32(1 / max(1.0, AVERAGE * total / epochs))
    limit, calmer = 0.0, [replace(lessons, variety=Variety()), lessons]
    patience = LOOK * max(2, int(PATIENCE * epochs / LOOK))
    workers = cores() if threads_of(lessons.feeds, batch) == 1 else 1
    pool = ThreadPoolExecutor(workers)

    def batch_of(epoch: int, indices: Iterable[int]) -> tuple[list[float], dict[str, Array]]:
        """Losses of lessons under the present weights, and the summed derivatives."""
        losses: list[float] = []
        grads: dict[str, Array] = {}

        def answer(index: int) -> tuple[float, dict[str, Array]]:
            feed, want = lessons.take(epoch, index)
            return graph.run(feed, want, now)

        todo = list(indices)
        # As many at a time as there are workers: derivatives are as large as the weights.
        for at in range(0, len(todo), workers):
            for loss, found in pool.map(answer, todo[at : at + workers]):
                losses.append(loss)
                grads = {n: g + grads[n] if grads else g for n, g in found.items()}
        for name in names:
            if name in masks:
                grads[name] = np.where(masks[name], grads[name], np.float32(0))
        return losses, grads

    def ways_of(grads: Mapping[str, Array]) -> dict[str, Array]:
        return {n: spaces[n].step(grads[n]) if n in spaces else grads[n] for n in names}

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
            found, grads = batch_of(epoch, order[place : place + join])
            losses += found
            limit = limit or WILD * losses[0]
            step += 1
            if not max(losses[-join:]) < limit:
                back(0.5)
                continue
            since += 1
            rise = min(1.0, since / (RISE * total))
            size = 0.5 * rate * rise * (1 + np.cos(np.pi * step / total))
            ways = ways_of(grads)
            for name in names:
                grad, way = grads[name], ways[name]
                strength = float(np.vdot(grad, way)) / counts[name]
                first[name] += (1 - MOMENTUM) * (way - first[name])
                second[name] += (1 - MEMORY) * (strength - second[name])
                root = np.sqrt(second[name] / (1 - MEMORY**since)) + 1e-30
                length = size * scale[name] / (root * (1 - MOMENTUM**since))
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


def threads_of(feeds: Sequence[Mapping[str, Array]], batch: int) -> int:
    """Threads of one run where ``batch`` samples make a step: one where that is several runs.

    They then run side by side, which fills the cores better than threads inside an operator, and
    sums come out the same on any number of cores.
    """
    return 1 if max(map(rows_of, feeds)) < batch else 0


def _energy(space: Space | None, weight: Array) -> float:
    return float(np.vdot(weight, weight)) if space is None else space.energy(weight)
