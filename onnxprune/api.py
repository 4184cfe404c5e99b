"""The public functions and nothing else: what ``import onnxprune`` offers."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from onnxprune import io
from onnxprune.io import Source, load, save
from onnxprune.planning import PrunePlan, SelectOptions
from onnxprune.pruning import Progress, Result, run_prune, silent

__all__ = ["PrunePlan", "Result", "load", "prune", "save"]


def prune(
    model: Source | io.Loaded,
    pattern: str = "channel",
    sparsity: float | None = None,
    *,
    target: Mapping[str, float] | None = None,
    criterion: str = "l1",
    allocation: str = "uniform",
    align: int = 1,
    only: str | None = None,
    keep: str | None = None,
    layers: Mapping[str, float] | None = None,
    first_layer: str = "prune",
    last_layer: str = "prune",
    seed: int = 0,
    plan: PrunePlan | str | PathLike[str] | None = None,
    mask_only: bool = False,
    proof: bool = True,
    data: Any = None,
    samples: int | None = None,
    progress: Progress = silent,
) -> Result:
    """Prune a model and prove the result; nothing is written.

    Args:
        model: path, bytes, ``onnx.ModelProto``, ``onnx_ir.Model``, ``onnx_graphsurgeon.Graph`` or
            what :func:`load` returned. Never changed.
        pattern: what is removed together, see ``onnxprune list patterns``.
        sparsity: fraction to remove: of the weights, or of each group's units for ``channel``.
        target: instead of a sparsity, the fraction of ``params`` or ``macs`` to keep.
        criterion: score by which weights or units are ranked.
        allocation: how the sparsity is divided over layers or groups.
        align: kept channel counts are multiples of this.
        only: regular expression; other layers are left alone.
        keep: regular expression; these layers are left alone.
        layers: name or regular expression -> sparsity of those layers.
        first_layer: ``prune`` or ``keep``.
        last_layer: ``prune`` or ``keep``.
        seed: for random scores.
        plan: replay this plan (object, or path of its JSON) instead of selecting.
        mask_only: leave shapes alone; write the dense model with zeros.
        proof: compare with the dense model in onnxruntime before returning.
        data: inputs for the proof: ``.npz``, folder, ``file.py:function``, dict or iterable of
            feeds; random inputs when None.
        samples: how many samples of ``data`` to use.
        progress: called with (stage, fraction done).

    Returns:
        The pruned model in the kind that was given, the plan and the report.

    Raises:
        LoadError, UnsupportedError: the model cannot be read or carried.
        ModelError: weights that are not finite.
        UsageError: an option that cannot be meant for this model.
        DataError: samples or a plan that do not fit.
        ProofError: the pruned model would not compute the right thing.
    """
    options = SelectOptions(
        pattern=pattern, sparsity=sparsity, target=dict(target or {}), criterion=criterion,
        allocation=allocation, align=align, only=only, keep=keep, layers=dict(layers or {}),
        first_layer=first_layer, last_layer=last_layer, seed=seed,
    )
    loaded = load(model)
    if plan is not None and not isinstance(plan, PrunePlan):
        plan = PrunePlan.load(plan)
    feeds = None
    if data is not None:
        from onnxprune.calibration.feeds import open_feeds

        feeds = list(open_feeds(data, loaded.model.graph.inputs, samples))
    return run_prune(
        loaded, options, plan=plan, mask_only=mask_only, prove=proof, feeds=feeds,
        progress=progress,
    )
