"""Losses and derivatives of several lessons, run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.recovery.apply import rows_of
from onnxprune.recovery.distil_graph import Distillation, Students
from onnxprune.runtime.sessions import cores

Array = npt.NDArray[Any]
Lesson = tuple[Mapping[str, Array], Mapping[str, Array]]


class Slopes:
    """A student's losses and derivatives, on as many cores as there are and with the same bytes.

    Attributes:
        weights: names of what is trained.
    """

    def __init__(
        self,
        graph: Distillation | Students,
        masks: Mapping[str, npt.NDArray[np.bool_]],
        *,
        together: bool,
    ) -> None:
        """Prepare.

        Args:
            graph: the student and its derivatives.
            masks: by name, the weights that move; derivatives of others are zero.
            together: whether one run already fills the cores.
        """
        self.weights = graph.weights
        self._graph, self._masks = graph, masks
        self._workers = 1 if together else cores()
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


def threads_of(feeds: Sequence[Mapping[str, Array]], batch: int) -> int:
    """Threads of one run where ``batch`` samples make a step: one where that is several runs.

    They then run side by side, which fills the cores better than threads inside an operator, and
    sums come out the same on any number of cores.
    """
    return 1 if max(map(rows_of, feeds)) < batch else 0


def lessons_of(feeds: Sequence[Mapping[str, Array]], batch: int) -> int:
    """How many lessons make a step of at least ``batch`` samples."""
    return min(len(feeds), max(1, -(-batch // rows_of(feeds[0]))))
