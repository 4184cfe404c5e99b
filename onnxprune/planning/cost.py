"""Parameters and multiply-accumulates of a model, also of one that is only planned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.axes import Bools, Ids
from onnxprune.rules.analysis import Analyzer
from onnxprune.rules.base import OpenDim
from onnxprune.rules.nominal import nominal_shapes


class CostModel:
    """Counts what is left when components are removed."""

    def __init__(self, analyzer: Analyzer, seen: Mapping[str, int] | None = None) -> None:
        """Prepare.

        Args:
            analyzer: of the model.
            seen: sizes of open dimensions of inputs, by ``input[axis]``, to count
                multiply-accumulates with; nominal ones where not given.
        """
        labels = analyzer.partition.labels
        shapes = nominal_shapes(analyzer.model, seen) if seen else None

        def of(ids: Ids | int | OpenDim | None) -> Ids | int:
            if isinstance(ids, tuple):
                return analyzer.nominal(ids) if shapes is None else analyzer.counted(ids, shapes)
            return labels[ids] if isinstance(ids, np.ndarray) else (ids or 1)

        self._params: list[list[Ids | int]] = []
        self._sizes: list[float] = []  # bytes of an element
        counted: set[ir.Value] = set()
        for (value, _), axes in analyzer.parameters.items():
            tensor = analyzer.tensor(value)
            if value in counted or tensor is None:
                continue
            stored = analyzer.stored(value)
            if stored is None:
                continue
            counted.add(value)
            self._params.append([*(of(a) for a in axes), stored.per_element])
            self._sizes.append(tensor.dtype.itemsize / max(stored.per_element, 1))
        self._macs = [[of(d) for d in c.macs] for c in analyzer.contractions]
        self._none = np.zeros(analyzer.partition.count, np.bool_)

    @staticmethod
    def _total(rows: list[list[Ids | int]], removed: Bools) -> int:
        return sum(
            math.prod(d if isinstance(d, int) else int(np.count_nonzero(~removed[d])) for d in row)
            for row in rows
        )

    def params(self, removed: Bools | None = None) -> int:
        """Return the number of parameters: floats, and integers that stand for such."""
        return self._total(self._params, self._none if removed is None else removed)

    def bytes(self, removed: Bools | None = None) -> float:
        """Return the bytes that the same numbers take, stored dense."""
        none = self._none if removed is None else removed
        return sum(
            size * self._total([row], none)
            for size, row in zip(self._sizes, self._params, strict=True)
        )

    def counter(self, what: str) -> Callable[[Bools | None], float]:
        """Return what counts ``params``, ``macs`` or ``bytes``."""
        return {"params": self.params, "macs": self.macs, "bytes": self.bytes}[what]

    def macs(self, removed: Bools | None = None) -> int:
        """Return the multiply-accumulates per sample, open dimensions at the sizes given."""
        return self._total(self._macs, self._none if removed is None else removed)
