"""One layer's columns and targets, feed by feed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.inputs import inputs_of
from onnxprune.calibration.operands import Operand
from onnxprune.calibration.residual import rows_like
from onnxprune.calibration.stages import Stream
from onnxprune.recovery.saliency import ALIKE, Saliency

F32 = npt.NDArray[np.float32]
#: Numbers that a layer's columns and targets may take in memory; beyond it they are made anew.
ROOM = 4e7


def ahead(make: Callable[[int], Any], count: int) -> Iterator[Any]:
    """Yield ``make(0)``, ``make(1)`` and so on in order, made on another thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming: deque[Future[Any]] = deque()
        for index in range(count):
            coming.append(pool.submit(make, index))
            if len(coming) > 2:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


class Pairs:
    """Columns X [G, d, n] of a layer and what it shall make of them, T [G, R, n].

    Values are held, not streams: these may go on meanwhile.

    Attributes:
        operand: the layer.
        same: nothing before the layer is pruned: its own outputs are the target.
        count: feeds.
    """

    def __init__(
        self,
        operand: Operand,
        dense: Stream,
        pruned: Stream,
        shortcut: str | None,
        columns: int,
        seed: int,
        saliency: Saliency = ALIKE,
    ) -> None:
        """Take what is live in the streams.

        Args:
            operand: the layer.
            dense: at the layer.
            pruned: at the layer.
            shortcut: name of what the layer's output is added to, if live in both.
            columns: how many are wanted of all feeds together.
            seed: for the draw of positions.
            saliency: how much columns count.
        """
        self.operand = operand
        self._seed = seed
        self._saliency = saliency
        self._seen = inputs_of(pruned, operand)
        self._wanted = self._seen if dense is pruned else inputs_of(dense, operand)
        total = sum(map(operand.count, self._seen))
        self._share = min(1.0, columns / max(total, 1))
        self._beside: tuple[list[Any], list[Any]] | None = None
        if shortcut is not None and all(shortcut in s.values[0] for s in (dense, pruned)):
            self._beside = (
                [v[shortcut] for v in dense.values],
                [v[shortcut] for v in pruned.values],
            )
        self.same = all(a is b for a, b in zip(self._wanted, self._seen, strict=True)) and (
            self._beside is None or all(a is b for a, b in zip(*self._beside, strict=True))
        )
        self.count = len(self._seen)
        self._made: dict[int, tuple[F32, F32 | None, F32 | None]] = {}
        self._room = ROOM
        weight = np.asarray(operand.layer.tensor.numpy())
        self._matrix: F32 = operand.matrix(weight).astype(np.float32)

    @property
    def added(self) -> bool:
        """Whether the layer's output is added to something that is known here."""
        return self._beside is not None

    def of(self, index: int, *, aim: bool = True) -> tuple[F32, F32 | None, F32 | None]:
        """Return the columns of one feed, their target, and what is added to the layer's output.

        Args:
            index: of the feed.
            aim: give the target also where it is the layer's own output.

        Returns:
            X [G, d, n]; T [G, R, n], without the bias, made up for what the shortcut lost; what the
            pruned network's shortcut adds [G, R, n], None without one.
        """
        known = self._made.get(index)
        if known is None:
            known = self._unfold(index)
            size = sum(a.size for a in known if a is not None)
            if size <= self._room:
                self._room -= size
                self._made[index] = known
        columns, target, added = known
        if target is None and aim:
            target = np.matmul(self._matrix, columns)
        return columns, target, added

    @property
    def weighed(self) -> bool:
        """Whether columns do not all count alike."""
        return bool(self._saliency.layers)

    def weights(self, index: int) -> F32 | None:
        """Return how much each column of a feed counts [n]; None where all count alike."""
        if not self.weighed:
            return None
        return self._saliency.weights(self.operand, index, self._chosen(index))

    def _chosen(self, index: int) -> npt.NDArray[np.int64] | None:
        operand, array = self.operand, self._seen[index]
        limit = max(1, int(np.ceil(operand.count(array) * self._share)))
        return operand.positions(array, limit, np.random.default_rng((self._seed, index)))

    def _unfold(self, index: int) -> tuple[F32, F32 | None, F32 | None]:
        operand, array = self.operand, self._seen[index]
        chosen = self._chosen(index)
        columns = operand.columns(array, chosen)
        beside = None if self._beside is None else (self._beside[0][index], self._beside[1][index])
        added = None if beside is None else rows_like(operand, beside[1], chosen)
        if self.same:
            return columns, None, added
        target = np.matmul(self._matrix, operand.columns(self._wanted[index], chosen))
        if beside is not None:
            target += rows_like(operand, beside[0] - beside[1], chosen)
        return columns, target, added
