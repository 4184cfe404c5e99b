"""Recovery for deleted channels: every consumer re-solved on what it still sees.

Deleting a channel takes its columns out of all layers that read it. In the dense-shaped network
that is a mask of whole columns, so the refit is the reconstruction of masks: layer by layer, on
inputs of the pruned prefix, against dense targets, with the lost mean moved into the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.axes import Bools
from onnxprune.patterns import parse_pattern
from onnxprune.planning import PrunePlan, find_layers
from onnxprune.planning.layers import Layer
from onnxprune.recovery.apply import (
    Feed,
    Progress,
    Reconstruction,
    apply_recovered,
    quiet,
    rows_of,
)
from onnxprune.rules.analysis import Analyzer


def column_masks(analyzer: Analyzer, removed: Bools) -> dict[str, npt.NDArray[np.bool_]]:
    """Return, by tensor name, the weights of every layer that still get an input.

    Args:
        analyzer: of the dense model.
        removed: units that are deleted [units].
    """
    found = {}
    for layer in find_layers(analyzer):
        name = layer.value.name or ""
        axes = analyzer.parameters.get((layer.value, None))
        if axes is None or layer.stored.quantised:
            continue
        mask = np.ones(tuple(layer.tensor.shape.numpy()), np.bool_)
        for axis, (ids, atoms) in enumerate(zip(axes, layer.atoms, strict=True)):
            if ids is None or not any(role == "i" for role, _ in atoms):
                continue
            kept = ~removed[analyzer.partition.labels[ids]]
            mask &= kept.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
        found[name] = mask
    return found


def refit_consumers(
    analyzer: Analyzer,
    removed: Bools,
    feeds: Sequence[Feed],
    *,
    seed: int = 0,
    progress: Progress = quiet,
) -> tuple[dict[str, Any], dict[str, Layer]]:
    """Write refitted weights and biases into the analyzed dense model, if that helps.

    All layers behind the first loss are solved anew, also those that lost no input themselves:
    their inputs changed. The model keeps its shapes; deleting the channels is the caller's.

    Args:
        analyzer: of the dense model; analyze anew afterwards, biases may have been added.
        removed: units that are to be deleted.
        feeds: calibration samples.
        seed: for the draw of positions.
        progress: called with (stage, fraction done).

    Returns:
        The account, as plain data (see ``recovery`` in ``docs/report.md``), and biases that were
        added, by name, with their layers.

    Raises:
        DataError: onnxruntime does not run the model on the feeds.
    """
    work = Reconstruction(analyzer, feeds, seed=seed)
    masks = column_masks(analyzer, removed)
    judge = work.judge()
    before = work.agreement(judge, work.masked(masks), [])
    found = work.run(
        masks, parse_pattern("element"), method="given", shared_bias=False, progress=progress
    )
    after = work.agreement(judge, found.weights, found.biases)
    kept = after.loss <= before.loss
    created = apply_recovered(analyzer, found) if kept else {}
    account = {
        "samples": sum(rows_of(f) for f in feeds),
        "held_out": sum(rows_of(f) for f in work.held_feeds),
        "steps": [
            {"step": "delete", **before.as_dict(), "kept": True},
            {"step": "refit", **after.as_dict(), "kept": kept},
        ],
        "layers": found.report["layers"],
    }
    return account, created


def extended(plan: PrunePlan, created: Mapping[str, Layer]) -> PrunePlan:
    """Return the plan that says for added biases what it says for their layers' outputs."""
    wider = PrunePlan(
        plan.kind,
        dict(plan.shapes),
        dict(plan.kept),
        options=plan.options,
        groups=plan.groups,
    )
    for name, layer in created.items():
        kept = plan.kept.get(layer.value.name or "")
        for axis, atoms in enumerate(layer.atoms):
            roles = {role for role, _ in atoms}
            if kept is None or kept[axis] is None or "o" not in roles:
                continue
            wider.shapes[name] = [int(layer.tensor.shape.numpy()[axis])]
            wider.kept[name] = [kept[axis]]
    return wider
