"""Statistics put right after the solve: normalisations re-estimated, or moments matched.

Where BatchNormalization is left in the graph its mean and variance are those of the dense network's
values; they are taken anew on the pruned one, front to back, over all samples alike (not as a
moving average). Where none is left, mean and variance of every layer's outputs are matched to the
dense ones by scaling its rows and moving its bias (methods.md 1.6).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.operands import BiasSite, Operand, find_operand
from onnxprune.calibration.stages import Stream, tensor_of
from onnxprune.recovery.apply import Reconstruction, Recovered
from onnxprune.recovery.statistics import Moments, match_moments

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]


@dataclass
class Repaired:
    """New values.

    Attributes:
        name: of the step, for the report.
        recovered: weights and biases; those of the solve where only normalisations changed.
        statistics: means and variances of normalisations, by name.
        agreement: on held-out samples.
    """

    name: str
    recovered: Recovered
    statistics: dict[str, Array]
    agreement: Agreement


@dataclass
class _Totals:
    """Sums of one value's channels over feeds."""

    count: float = 0.0
    first: F64 = field(default_factory=lambda: np.zeros(0))
    second: F64 = field(default_factory=lambda: np.zeros(0))

    def add(self, array: Array, axis: int) -> None:
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
        self.count += rows.shape[1]
        self.first = rows.sum(1) + (self.first if self.first.size else 0.0)
        self.second = (rows * rows).sum(1) + (self.second if self.second.size else 0.0)

    def moments(self) -> Moments:
        mean = self.first / self.count
        return Moments(mean, np.maximum(self.second / self.count - mean**2, 0.0), self.count)


def repair(work: Reconstruction, recovered: Recovered, judge: Judge) -> Repaired | None:
    """Return what statistics put right come to, or None where there is nothing to do.

    Args:
        work: the dense network with its samples.
        recovered: weights and biases of the pruned one.
        judge: of the dense outputs on held-out samples.

    Raises:
        DataError: onnxruntime does not run the model on the samples.
    """
    open_feeds = [i for i, held in enumerate(work.held) if not held] or list(range(len(work.feeds)))
    dense = Stream(work.stages, [work.feeds[i] for i in open_feeds])
    pruned = dense.fork()
    _give(work, pruned, recovered)
    norms = [
        (place, node)
        for place, node in enumerate(work.stages.nodes)
        if node.op_type == "BatchNormalization" and all(map(work.stages.constant, node.input[1:]))
    ]
    if norms:
        found = _renormalised(work, dense, pruned, norms)
        if not found:
            return None
        trial = Stream(work.stages, work.held_feeds)
        _give(work, trial, recovered)
        trial.weights.update((n, numpy_helper.from_array(a, n)) for n, a in found.items())
        return Repaired("re-estimate norms", recovered, found, judge.judge(trial.finish()))
    matched = _matched(work, dense, pruned, recovered)
    if matched is None:
        return None
    agreement = work.agreement(judge, matched.weights, matched.biases)
    return Repaired("match moments", matched, {}, agreement)


def _give(work: Reconstruction, stream: Stream, recovered: Recovered) -> None:
    for name, array in recovered.weights.items():
        stream.weights[name] = tensor_of(array, work.layers[name].tensor, name)
    for site, array in recovered.biases:
        work.edit(stream, site, array)


def _renormalised(
    work: Reconstruction, dense: Stream, pruned: Stream, norms: list[tuple[int, onnx.NodeProto]]
) -> dict[str, Array]:
    """Means and variances of what every normalisation sees, each after those before it.

    They are chosen so that every normalised channel gets the mean and variance that the dense
    network's has on the same samples: where these differ from the training data, the numbers in
    the file are not lost.
    """
    uses: dict[str, int] = {}
    for _, node in norms:
        for name in node.input[3:5]:
            uses[name] = uses.get(name, 0) + 1
    found: dict[str, Array] = {}
    for place, node in norms:
        dense.advance(place)
        pruned.advance(place)
        old = [work.analyzer.tensor(work.analyzer.by_name[n]) for n in node.input[3:5]
               if n in work.analyzer.by_name]  # fmt: skip
        if any(uses[n] > 1 for n in node.input[3:5]) or len(old) < 2 or None in old:
            continue
        goal, seen = _Totals(), _Totals()
        for clean, thin in zip(dense.values, pruned.values, strict=True):
            goal.add(clean[node.input[0]], 1)
            seen.add(thin[node.input[0]], 1)
        before, after = goal.moments(), seen.moments()
        usual = 1e-6 * max(float(before.variance.mean()), 1e-30)
        ratio = np.clip((after.variance + usual) / (before.variance + usual), 1 / 16, 16)
        mean, variance = (np.asarray(t.numpy()) for t in old if t is not None)
        new = (after.mean - (before.mean - mean) * np.sqrt(ratio), variance * ratio)
        for name, like, array in zip(node.input[3:5], (mean, variance), new, strict=True):
            found[name] = array.astype(like.dtype)
            pruned.weights[name] = numpy_helper.from_array(found[name], name)
    return found


def _matched(
    work: Reconstruction, dense: Stream, pruned: Stream, recovered: Recovered
) -> Recovered | None:
    """Rows scaled and biases moved so that every layer's outputs have the dense moments."""
    moved: dict[tuple[int, int], tuple[BiasSite, Array]] = {
        (id(site.node), site.index): (site, array) for site, array in recovered.biases
    }
    sites: list[tuple[int, Operand, BiasSite]] = []
    for name in recovered.weights:
        operand = find_operand(work.analyzer, work.layers[name])
        site = None if isinstance(operand, str) else operand.bias
        if isinstance(operand, str) or site is None or site.shared:
            continue
        place = work.stages.place(site.node.outputs[0].name or "")
        plain = operand.layer.node.op_type in ("Conv", "Gemm", "MatMul")
        if place is not None and plain and site.scale == site.factor == 1.0:
            sites.append((place, operand, site))
    weights = dict(recovered.weights)
    for place, operand, site in sorted(sites, key=lambda x: x[0]):
        output = site.node.outputs[0].name or ""
        dense.advance(place + 1)
        pruned.advance(place + 1)
        if output not in pruned.values[0]:
            continue
        axis = 1 if operand.layer.node.op_type == "Conv" else pruned.values[0][output].ndim - 1
        goal, seen = _Totals(), _Totals()
        for clean, thin in zip(dense.values, pruned.values, strict=True):
            goal.add(clean[output], axis)
            seen.add(thin[output], axis)
        key = (id(site.node), site.index)
        bias = (moved[key][1] if key in moved else site.moved(np.zeros(len(site.old)))).astype(
            np.float64
        )
        repaired = match_moments(goal.moments(), seen.moments(), bias.reshape(-1))
        name = operand.layer.value.name or ""
        matrix = operand.matrix(weights[name])
        scale = repaired.scale.reshape(matrix.shape[:2])[..., None]
        weights[name] = operand.unmatrix(matrix * scale).astype(weights[name].dtype)
        moved[key] = (site, repaired.bias.reshape(bias.shape))
        shape = [-1 if a == axis else 1 for a in range(pruned.values[0][output].ndim)]
        shift = repaired.bias - repaired.scale * bias.reshape(-1)
        for feed in pruned.values:
            old = feed[output]
            new = old * repaired.scale.reshape(shape) + shift.reshape(shape)
            feed[output] = new.astype(old.dtype)
    if not sites:
        return None
    return replace(recovered, weights=weights, biases=list(moved.values()))
