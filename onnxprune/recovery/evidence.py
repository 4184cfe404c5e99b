"""Samples to scores: what criteria that look at activations say about weights and units.

One layer at a time: its input is measured on the dense network, the criterion is asked, and only
the scores stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.blas import one_thread
from onnxprune.calibration.inputs import inputs_of
from onnxprune.calibration.operands import CONVS, Operand, find_operand
from onnxprune.calibration.stages import Stream
from onnxprune.criteria import Criterion
from onnxprune.criteria.measured import Evidence, Measured, UnitEvidence
from onnxprune.planning.layers import Layer
from onnxprune.recovery.apply import Feed, Progress, Reconstruction, quiet
from onnxprune.rules.analysis import Analyzer

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def weight_scores(
    analyzer: Analyzer,
    criterion: Criterion,
    feeds: Sequence[Feed],
    *,
    tensors: Collection[str] | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> dict[str, F32]:
    """Score the weights of every layer whose input can be measured.

    Args:
        analyzer: of the dense model.
        criterion: one that needs activations.
        feeds: calibration samples.
        tensors: names of the weights to score; all when None.
        seed: for the draw of positions.
        progress: called with (stage, fraction done).

    Returns:
        By tensor name, float32 in the canonical view [G, O, I, *K].

    Raises:
        DataError: onnxruntime does not run the model on the feeds.
        UsageError: the criterion ranks whole units only.
    """
    assert isinstance(criterion, Measured)
    found = {}
    for layer, parts in _evidence(analyzer, feeds, tensors, seed, progress):
        scores = np.stack([criterion.weights(part) for part in parts])
        found[layer.value.name or ""] = scores.reshape(layer.view_shape).astype(np.float32)
    return found


def unit_scores(
    analyzer: Analyzer,
    criterion: Criterion,
    feeds: Sequence[Feed],
    *,
    seed: int = 0,
    progress: Progress = quiet,
) -> dict[tuple[int, str, int], F64]:
    """Score the units of every group at each consumer whose input can be measured.

    Consumers are layers of one group of channels that read nothing but units along an axis.

    Args:
        analyzer: of the dense model.
        criterion: one that needs activations.
        feeds: calibration samples.
        seed: for the draw of positions.
        progress: called with (stage, fraction done).

    Returns:
        By (number of the group, tensor, axis), scores of its units.

    Raises:
        DataError: onnxruntime does not run the model on the feeds.
    """
    assert isinstance(criterion, Measured)
    readers: dict[str, list[tuple[int, int, npt.NDArray[np.int64]]]] = {}
    for number, group in enumerate(analyzer.groups):
        for span in group.spans:
            readers.setdefault(span.tensor, []).append((number, span.axis, span.positions))
    found: dict[tuple[int, str, int], F64] = {}
    for layer, parts in _evidence(analyzer, feeds, readers, seed, progress):
        name = layer.value.name or ""
        if len(parts) != 1:
            continue
        for number, axis, positions in readers[name]:
            if [role for role, size in layer.atoms[axis] if size > 1] != ["i"]:
                continue
            if any(r == "i" for a, atoms in enumerate(layer.atoms) if a != axis for r, _ in atoms):
                continue
            units = len(analyzer.groups[number])
            owner = np.full(layer.view_shape[2], -1, np.int64)
            owner[positions.reshape(units, -1)] = np.arange(units)[:, None]
            unit_of = np.repeat(owner, int(np.prod(layer.view_shape[3:], dtype=np.int64)))
            found[number, name, axis] = criterion.units(UnitEvidence(parts[0], unit_of, units))
    return found


def _evidence(
    analyzer: Analyzer,
    feeds: Sequence[Feed],
    tensors: Collection[str] | Mapping[str, Any] | None,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[Layer, list[Evidence]]]:
    """Yield every layer with the evidence of its groups, in graph order."""
    work = Reconstruction(analyzer, feeds, seed=seed)
    todo: list[tuple[int, Operand]] = []
    for name, layer in work.layers.items():
        place = work.stages.place_of(layer.node)
        operand = find_operand(analyzer, layer)
        wanted = tensors is None or name in tensors
        if wanted and place is not None and isinstance(operand, Operand):
            todo.append((place, operand))
    todo.sort(key=lambda pair: pair[0])
    dense = Stream(work.stages, feeds)
    with one_thread():
        for number, (place, operand) in enumerate(todo):
            progress("measure", number / len(todo))
            dense.advance(place)
            layer = operand.layer
            train, _ = work.statistics(operand, dense, dense)
            raw = train.raw()
            matrix = operand.matrix(np.asarray(layer.tensor.numpy())).astype(np.float64)
            size, zeros = _activity(operand, inputs_of(dense, operand))
            yield (
                layer,
                [
                    Evidence(matrix[g], raw.gram[g] / raw.columns, raw.mean[g], size[g], zeros[g])
                    for g in range(len(matrix))
                ],
            )


def _activity(operand: Operand, arrays: Sequence[npt.NDArray[Any]]) -> tuple[F64, F64]:
    """``E|x|`` and the share of zeros [G, d], over the input itself, so without its padding."""
    groups, _, inputs, *kernel = operand.layer.view_shape
    axis = 1 if operand.layer.node.op_type in CONVS else operand.axis(arrays[0].ndim)
    width = arrays[0].shape[axis]  # Directions of a recurrent layer may share their input.
    size, zeros, count = np.zeros(width), np.zeros(width), 0
    for array in arrays:
        rows = np.moveaxis(array, axis, 0).reshape(width, -1)
        size += np.abs(rows).sum(axis=1, dtype=np.float64)
        zeros += (rows == 0).sum(axis=1)
        count += rows.shape[1]
    positions = int(np.prod(kernel, dtype=np.int64))

    def spread(values: F64) -> F64:
        rows = np.tile(values / max(count, 1), groups * inputs // width).reshape(groups, inputs)
        return np.repeat(rows, positions, axis=1)

    return spread(size), spread(zeros)
