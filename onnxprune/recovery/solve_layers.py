"""Reconstruction on a graph: layer by layer against dense targets.

Layers are solved in graph order. A layer's inputs come from the network whose earlier layers are
already pruned and re-solved, its targets from the dense network, so that every layer also makes up
for what the ones before it lost (methods.md 1.0, asymmetric mode; 6.4 for what it brings).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.blas import one_thread
from onnxprune.calibration.operands import Operand, find_operand, find_shared
from onnxprune.calibration.stages import Stream, tensor_of
from onnxprune.patterns import Pattern
from onnxprune.recovery.apply import Progress, Reconstruction, Recovered, quiet
from onnxprune.recovery.apply_layer import Solved, solve_layer
from onnxprune.recovery.apply_shared import solve_shared
from onnxprune.recovery.effort import Effort
from onnxprune.recovery.journal import digest_of_masks
from onnxprune.recovery.rectified import bounds_of, rectified

Masks = Mapping[str, npt.NDArray[np.bool_]]


def solve_layers(
    work: Reconstruction,
    masks: Masks,
    pattern: Pattern,
    *,
    method: str = "auto",
    progress: Progress = quiet,
    shared_bias: bool = True,
    weighed: bool = False,
) -> Recovered:
    """Reconstruct all layers that have a mask, and those without one behind the first of them.

    What comes to a layer that stays whole is no longer what it was trained on: its own least
    squares solution makes up for part of that. Depth-wise layers, which patterns along inputs leave
    alone, matter most (MobileNetV2 at 2:4: held-out divergence 2.35 to 1.87).

    Args:
        work: the dense network with its samples.
        masks: by tensor name; what is kept, or where masks are searched only how much of it.
        pattern: the pattern of the masks.
        method: ``given`` to solve on these masks, ``auto`` or a mask search to look for better ones
            with as many units.
        progress: called with (stage, fraction done).
        shared_bias: give a layer whose bias other nodes read too one of its own; otherwise such a
            bias stays, and that of transposed convolutions.
        weighed: let columns count by the saliency of ``work``.

    Raises:
        DataError: onnxruntime cannot run the model on the samples, or statistics that are not
            finite.
    """
    return _Walk(work, masks, pattern, method, shared_bias, weighed).done(progress)


class _Walk:
    """One walk through the layers."""

    def __init__(
        self,
        work: Reconstruction,
        masks: Masks,
        pattern: Pattern,
        method: str,
        shared_bias: bool,
        weighed: bool,
    ) -> None:
        self.work, self.masks, self.pattern, self.method = work, masks, pattern, method
        self.weighed = weighed
        self.result = Recovered(masks=dict(masks), weights=work.masked(masks))
        self.dense = Stream(work.stages, work.feeds)
        self.pruned = self.dense.fork()
        self.rows: list[dict[str, Any]] = []
        self.shared: dict[str, list[Operand]] = {}
        self.todo = self._places(shared_bias)
        self.effort = Effort.of([*self._kept(operand)] for _, operand in self.todo)
        told = (
            pattern.text,
            method,
            shared_bias,
            work.copies,
            work.columns.__name__,
            "whole layers, cut off",
            weighed,
        )
        self.asked = "solve " + digest_of_masks(masks, *told) if work.journal.folder else ""

    def done(self, progress: Progress) -> Recovered:
        """Walk to the end."""
        work = self.work
        work.forget_moments()
        for operand, solved in solve_shared(
            work, self.shared, self.masks, self.pattern, self.method, self.asked
        ):
            self._take(operand, solved)
        coming: Future[None] | None = None
        with one_thread(), ThreadPoolExecutor(1) as beside:
            for number, (place, operand) in enumerate(self.todo):
                progress("recover", number / len(self.todo))
                name = f"{self.asked} {operand.layer.value.name or ''}"
                known = work.journal.get(name)
                if known is not None:
                    self._take(operand, Solved.of_arrays(known))
                    continue
                if coming is not None:
                    coming.result()
                self.dense.advance(place)
                self.pruned.advance(place)
                started = time.perf_counter()
                pairs = work.pairs(operand, self.dense, self.pruned, weighed=self.weighed)
                train, other = work.moments(pairs)
                bounds = bounds_of(work.analyzer, operand)
                seen = None if bounds is None else pairs
                del pairs  # which holds values of the streams
                collected = time.perf_counter()
                # Solvers leave cores idle: the dense network goes on meanwhile.
                after = self.todo[min(number + 1, len(self.todo) - 1)][0]
                coming = beside.submit(self.dense.advance, after)
                weight = np.asarray(operand.layer.tensor.numpy()).astype(np.float64)
                mask = self.masks.get(operand.layer.value.name or "")
                solved = solve_layer(
                    operand, weight, train, other, self.pattern,
                    np.ones(weight.shape, np.bool_) if mask is None else mask,
                    method=self.method if mask is not None else "given",
                    even=work.few, effort=self.effort,
                )  # fmt: skip
                if seen is not None and bounds is not None:
                    solved = rectified(seen, solved, train, work.held, bounds, even=work.few)
                    seen = None
                work.journal.put(name, solved.as_arrays())
                took = collected - started, time.perf_counter() - collected
                self._take(
                    operand,
                    solved,
                    columns=round(train.columns),
                    seconds=[round(part, 3) for part in took],
                )
        self.result.report["layers"] = self.rows
        return self.result

    def _places(self, shared_bias: bool) -> list[tuple[int, Operand]]:
        """Places and operands of the layers to solve; others go to the rows, or are shared."""
        work = self.work
        todo: list[tuple[int, Operand]] = []
        for name in self.masks:
            layer = work.layers[name]
            found = find_operand(work.analyzer, layer)
            place = work.stages.place_of(layer.node)
            if not isinstance(found, str) and place is not None:
                odd = layer.node.op_type == "ConvTranspose" or (found.bias and found.bias.shared)
                todo.append(
                    (place, replace(found, bias=None) if odd and not shared_bias else found)
                )
                continue
            together = find_shared(work.analyzer, layer)
            if not isinstance(together, str) and place is not None:
                self.shared[name] = together
                continue
            why = found if isinstance(found, str) else "the node computes a constant"
            self.rows.append({"layer": layer.name, "method": "none", "why": why})
            array = self.result.weights[name]
            self.pruned.weights[name] = tensor_of(array, layer.tensor, name)
        todo += _behind(work, self.masks, min((place for place, _ in todo), default=None))
        return sorted(todo, key=lambda pair: pair[0])

    def _kept(self, operand: Operand) -> npt.NDArray[np.bool_]:
        """What a layer's groups keep [G, R, d]."""
        layer = operand.layer
        mask = self.masks.get(layer.value.name or "")
        whole = np.ones(layer.tensor.shape.numpy(), np.bool_) if mask is None else mask
        found: npt.NDArray[np.bool_] = operand.matrix(whole)
        return found

    def _take(self, operand: Operand, solved: Solved, **told: Any) -> None:
        """Write a layer's solution into the result and the pruned network."""
        layer, result = operand.layer, self.result
        name = layer.value.name or ""
        dtype = np.asarray(layer.tensor.numpy()).dtype
        mask = operand.unmatrix(solved.mask)
        array = operand.unmatrix(solved.weights).astype(dtype)
        array[~mask] = 0
        if name in result.masks:
            result.masks[name] = mask
        result.weights[name] = array
        self.pruned.weights[name] = tensor_of(array, layer.tensor, name)
        if solved.shift is not None and operand.bias is not None:
            vector = operand.bias.moved(solved.shift.reshape(-1))
            result.biases.append((operand.bias, vector))
            self.work.edit(self.pruned, operand.bias, vector)
        self.rows.append({"layer": layer.name, **solved.account, **told})


def _behind(work: Reconstruction, masks: Masks, first: int | None) -> list[tuple[int, Operand]]:
    """Layers without a mask behind pruned ones: they can make up for some of what is lost."""
    found = []
    for name, layer in work.layers.items():
        place = work.stages.place_of(layer.node)
        if name in masks or first is None or place is None or place < first:
            continue
        operand = find_operand(work.analyzer, layer)
        if not isinstance(operand, str) and (operand.bias is None or not operand.bias.shared):
            found.append((place, operand))
    return found
