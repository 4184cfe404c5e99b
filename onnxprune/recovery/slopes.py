"""Losses and derivatives of several lessons, run side by side, and the steps they call for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.samples import rows_of
from onnxprune.recovery.distil_graph import Distillation, Students
from onnxprune.recovery.space import Space
from onnxprune.runtime.sessions import cores

Array = npt.NDArray[Any]
Lesson = tuple[Mapping[str, Array], Mapping[str, Array]]


class Slopes:
    """A student's losses and derivatives, on as many cores as there are and with the same bytes.

    Attributes:
        weights: names of what is trained.
        lessons: how many of them make a step.
    """

    def __init__(
        self,
        graph: Distillation | Students,
        spaces: Mapping[str, Space],
        masks: Mapping[str, npt.NDArray[np.bool_]],
        feeds: Sequence[Mapping[str, Array]],
        batch: int,
    ) -> None:
        """Prepare.

        Args:
            graph: the student and its derivatives.
            spaces: by name, the metric of a weight; the plain one where there is none.
            masks: by name, the weights that move; derivatives of others are zero.
            feeds: samples of the lessons.
            batch: samples behind one step, at least.
        """
        self.weights = graph.weights
        self.lessons = min(len(feeds), max(1, -(-batch // rows_of(feeds[0]))))
        self._graph, self._spaces, self._masks = graph, spaces, masks
        self._moving = {n: int(np.count_nonzero(mask)) for n, mask in masks.items()}
        self._workers = cores() if threads_of(feeds, batch) else 1
        self._pool = ThreadPoolExecutor(self._workers)

    def of(
        self, take: Callable[[int], Lesson], indices: Iterable[int], weights: Mapping[str, Array]
    ) -> tuple[list[float], dict[str, Array]]:
        """Return the losses under ``weights``, one a lesson, and the summed derivatives.

        Args:
            take: makes a lesson, samples and the values wanted.
            indices: which lessons.
            weights: what is trained.

        Raises:
            DataError: onnxruntime does not run the model.
        """
        losses: list[float] = []
        grads: dict[str, Array] = {}

        def answer(index: int) -> tuple[float, dict[str, Array]]:
            feed, want = take(index)
            return self._graph.run(feed, want, weights)

        todo = list(indices)
        # As many at a time as there are workers: derivatives are as large as the weights.
        for at in range(0, len(todo), self._workers):
            for loss, found in self._pool.map(answer, todo[at : at + self._workers]):
                losses.append(loss)
                grads = {n: g + grads[n] if grads else g for n, g in found.items()}
        for name in self.weights:
            if name in self._masks:
                grads[name] = np.where(self._masks[name], grads[name], np.float32(0))
        return losses, grads

    def moving(self, name: str, array: Array) -> int:
        """How many numbers of a weight, or of a derivative by it, move: one at least."""
        return max(self._moving.get(name, array.size), 1)

    def way(self, name: str, grad: Array) -> Array:
        """The direction in which a weight moves under a derivative, in its metric."""
        return self._spaces[name].step(grad) if name in self._spaces else grad

    def strength(self, name: str, grad: Array, way: Array) -> float:
        """Mean square of a derivative in the weight's metric, where ``way`` is its direction."""
        return float(np.vdot(grad, way)) / self.moving(name, grad)


def threads_of(feeds: Sequence[Mapping[str, Array]], batch: int) -> int:
    """Threads of one run where ``batch`` samples make a step: one where that is several runs.

    They then run side by side, which fills the cores better than threads inside an operator, and
    sums come out the same on any number of cores.
    """
    return 1 if max(map(rows_of, feeds)) < batch else 0
