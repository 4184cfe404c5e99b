"""The sensitivity table of channels: every group of coupled units pruned alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxprune.calibration.samples import calibration_feeds
from onnxprune.errors import UsageError
from onnxprune.planning import SelectOptions
from onnxprune.planning.structure import free_groups
from onnxprune.recovery.apply import Progress, Reconstruction, few_columns, rows_of
from onnxprune.recovery.apply_levels import chosen_feeds
from onnxprune.recovery.channel_levels import LEVELS, measure_groups
from onnxprune.recovery.channels import Channels
from onnxprune.rules.analysis import analyze

DEFAULT = LEVELS


def channel_report(
    model: ir.Model,
    data: Any,
    options: SelectOptions,
    levels: Sequence[float] | None,
    samples: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the groups of a model; see :func:`onnxprune.sensitivity`.

    Raises:
        UsageError: no group of units can be pruned, or no layer with statistics reads one.
        DataError: the samples do not fit, or the model does not run on them.
    """
    from onnxprune.passes.base import Context
    from onnxprune.passes.fold_constants import FoldConstants

    feeds = calibration_feeds(data, model, samples)
    FoldConstants().run(model, Context(seed=options.seed))
    analyzer = analyze(model)
    work = Reconstruction(analyzer, feeds, seed=options.seed)
    work.columns = few_columns
    scored, free = free_groups(analyzer, options)
    by_data = options.criterion == "auto"
    channels = Channels(work, scored, by_data=by_data, progress=progress)
    table = measure_groups(channels, free, levels=levels, progress=progress)
    if not table:
        raise UsageError("this model has no group of units that a layer with statistics reads")
    rows = []
    for group in sorted(table):
        entry = table[group]
        makers = scored[group].group.spans
        rows += [
            {
                "layer": entry.layer,
                "tensor": makers[0].tensor,
                "units": entry.weights,
                "sparsity": level,
                "loss": loss,
                "top1": top1,
            }
            for level, loss, top1 in zip(entry.levels, entry.loss, entry.top1, strict=True)
        ]
    return {
        "pattern": options.pattern,
        "samples": sum(rows_of(feeds[i]) for i in chosen_feeds(work)),
        "rows": rows,
    }
