"""The sensitivity table of a model: every layer, or group of coupled units, pruned alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxprune.calibration.samples import rows_of
from onnxprune.errors import UsageError
from onnxprune.passes.base import Context
from onnxprune.passes.prepare import prepare
from onnxprune.patterns import Pattern, parse_pattern
from onnxprune.planning import SelectOptions, find_layers
from onnxprune.planning.masks import choose_layers
from onnxprune.planning.structure import free_groups
from onnxprune.recovery import apply_levels, channel_levels
from onnxprune.recovery.apply import Progress, Reconstruction, few_columns
from onnxprune.recovery.apply_levels import Sensitivity, chosen_feeds
from onnxprune.recovery.channels import Channels
from onnxprune.recovery.effort import affordable_feeds
from onnxprune.rules.analysis import analyze


def sensitivity_report(
    model: ir.Model,
    data: Any,
    options: SelectOptions,
    levels: Sequence[float] | None,
    samples: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Measure a model; see :func:`onnxprune.sensitivity`.

    Raises:
        UsageError: a pattern or level that cannot be meant, or nothing that could be pruned alone.
        DataError: the samples do not fit, or the model does not run on them.
    """
    pattern = parse_pattern(options.pattern)
    usual = channel_levels.LEVELS if pattern.structural else apply_levels.LEVELS
    wanted = checked_levels(usual if levels is None else levels)
    feeds, told = affordable_feeds(data, model, samples)
    prepare(model, Context(seed=options.seed), structural=pattern.structural)
    work = Reconstruction(analyze(model), feeds, seed=options.seed)
    if pattern.structural:
        # How many levels a group is measured at by itself depends on how many groups there are.
        rows = _groups(work, options, None if levels is None else wanted, progress)
    else:
        rows = _layers(work, pattern, options, wanted, progress)
    return {
        "pattern": pattern.text,
        "samples": sum(rows_of(feeds[i]) for i in chosen_feeds(work)),
        "notes": [] if told is None else [told],
        "rows": rows,
    }


def checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the levels.

    Raises:
        UsageError: they do not ascend strictly between 0 and 1.
    """
    wanted = tuple(levels)
    if not wanted or list(wanted) != sorted(set(wanted)) or not 0 < wanted[0] <= wanted[-1] < 1:
        raise UsageError(f"levels {list(wanted)}: give ascending fractions above 0 and below 1")
    return wanted


def _layers(
    work: Reconstruction,
    pattern: Pattern,
    options: SelectOptions,
    levels: Sequence[float],
    progress: Progress,
) -> list[dict[str, Any]]:
    layers, _ = choose_layers(find_layers(work.analyzer), pattern, options)
    names = [layer.value.name or "" for layer in layers]
    table = apply_levels.measure(work, names, pattern, levels=levels, progress=progress)
    if not table:
        raise UsageError("no layer of this model has an input of its own to take statistics of")
    return [row for entry in table for row in _rows(entry, entry.tensor, "weights")]


def _groups(
    work: Reconstruction,
    options: SelectOptions,
    levels: Sequence[float] | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    work.columns = few_columns
    scored, free = free_groups(work.analyzer, options)
    channels = Channels(work, scored, by_data=options.criterion == "auto", progress=progress)
    table = channel_levels.measure_groups(channels, free, levels=levels, progress=progress)
    if not table:
        raise UsageError("this model has no group of units that a layer with statistics reads")
    return [
        row
        for group in sorted(table)
        for row in _rows(table[group], scored[group].group.spans[0].tensor, "units")
    ]


def _rows(entry: Sensitivity, tensor: str, count: str) -> list[dict[str, Any]]:
    """An entry as plain data, a row a level; ``count`` says what was counted."""
    return [
        {"layer": entry.layer, "tensor": tensor, count: entry.weights, "sparsity": level,
         "loss": loss, "top1": top1}
        for level, loss, top1 in zip(entry.levels, entry.loss, entry.top1, strict=True)
    ]  # fmt: skip
