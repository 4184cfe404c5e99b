"""Which units go, judged on samples: every group ranked by all layers that read it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.axes import Bools
from onnxprune.calibration.blas import one_thread
from onnxprune.calibration.grams import Statistics
from onnxprune.calibration.operands import Operand, find_operand
from onnxprune.calibration.stages import Stream
from onnxprune.planning.structure import ScoredGroup
from onnxprune.recovery.apply import Progress, Reconstruction, quiet
from onnxprune.recovery.coupled import Reading, consumers, readings
from onnxprune.recovery.problem import Ints
from onnxprune.recovery.structured import Consumer, structured_obs
from onnxprune.recovery.structured_swaps import swap_units

#: Bytes of Gram matrices held in memory; the rest lies in a temporary file.
MEMORY = 1 << 30
#: Exchanges are looked for in groups of at most so many units.
SWAP_UNITS = 1024


class Channels:
    """Groups of units with the statistics of the layers that read them.

    Attributes:
        work: the dense network with its samples.
        scored: the groups, with their scores by the criterion.
        operands: layers with statistics, by name of their weight, in graph order.
        stats: training moments of their inputs on the dense network.
        reading: for every group, the layers that read it.
    """

    def __init__(
        self,
        work: Reconstruction,
        scored: Sequence[ScoredGroup],
        *,
        by_data: bool = True,
        progress: Progress = quiet,
    ) -> None:
        """Run the dense network over the samples once and rank every group.

        Args:
            work: the dense network with its samples.
            scored: groups in graph order.
            by_data: rank by structured OBS; otherwise by the groups' scores.
            progress: called with (stage, fraction done).

        Raises:
            DataError: onnxruntime does not run the model on the samples.
        """
        self.work = work
        self.scored = list(scored)
        self.by_data = by_data
        places: dict[str, int] = {}
        found: dict[str, Operand] = {}
        for name, layer in work.layers.items():
            operand = find_operand(work.analyzer, layer)
            place = work.stages.place_of(layer.node)
            if not isinstance(operand, str) and place is not None:
                odd = layer.node.op_type == "ConvTranspose"
                if odd or (operand.bias is not None and operand.bias.shared):
                    operand = replace(operand, bias=None)
                found[name], places[name] = operand, place
        self.places = places
        self.operands = {n: found[n] for n in sorted(found, key=places.__getitem__)}
        self.reading = [readings(work.analyzer, s.group, self.operands) for s in self.scored]
        self.stats = self._collect(progress)
        self._orders: dict[int, Ints] = {}

    def _collect(self, progress: Progress) -> dict[str, Statistics]:
        wanted = {r.operand.layer.value.name or "" for one in self.reading for r in one}
        dense = Stream(self.work.stages, self.work.feeds)
        found: dict[str, Statistics] = {}
        held = 0
        with one_thread():
            for number, (name, operand) in enumerate(self.operands.items()):
                if name not in wanted:
                    continue
                progress("calibrate", number / len(self.operands))
                dense.advance(self.places[name])
                moments, _ = self.work.statistics(operand, dense, dense)
                held += moments.gram.nbytes
                found[name] = moments if held <= MEMORY else _spilled(moments)
        return found

    def readers(self, group: int) -> tuple[Reading, ...]:
        """The layers that read a group."""
        return self.reading[group]

    def consumers(self, group: int) -> list[Consumer]:
        """Their problems, on the dense network."""
        return consumers(self.reading[group], self.stats)

    def order(self, group: int) -> Ints:
        """Units of a group in the order in which they leave, all of them [U]."""
        if group not in self._orders:
            scores = self.scored[group].scores
            found = np.argsort(scores, kind="stable")[::1]
            behind = self.consumers(group) if self.by_data else []
            if behind:
                with one_thread():
                    found = structured_obs(behind, len(scores)).order
            self._orders[group] = found
        return self._orders[group]

    def kept(self, group: int, keep: int, *, swaps: bool = False) -> Bools:
        """Units that stay [U] when ``keep`` do.

        Args:
            group: which group.
            keep: how many stay.
            swaps: refine by exchanges.
        """
        order = self.order(group)
        mask = np.ones(len(order), np.bool_)
        mask[order[: len(order) - keep]] = False
        if swaps and self.by_data and 0 < keep < len(order) <= SWAP_UNITS:
            behind = self.consumers(group)
            if behind:
                with one_thread():
                    mask = swap_units(behind, mask)
        return mask

    def removed(self, keeps: Mapping[int, int], *, swaps: bool = False) -> Bools:
        """Components that go when group g keeps ``keeps[g]`` units; others keep all."""
        gone = np.zeros(self.work.analyzer.partition.count, np.bool_)
        for group, keep in keeps.items():
            if keep < len(self.scored[group].group):
                mask = self.kept(group, keep, swaps=swaps)
                gone[self.scored[group].group.labels[~mask]] = True
        return self.work.analyzer.partition.closed(gone)


def _spilled(moments: Statistics) -> Statistics:
    """The same moments with the Gram matrix in a file, in float32."""

    def moved(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with tempfile.TemporaryFile(prefix="onnxprune-") as file:
            array.astype(np.float32).tofile(file)
            file.flush()
            return np.asarray(np.memmap(file, np.float32, "r", shape=array.shape))

    cross = None if moments.cross is None else moved(moments.cross)
    return replace(moments, gram=moved(moments.gram), cross=cross)
