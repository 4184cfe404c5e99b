"""The public functions and nothing else: what ``import onnxprune`` offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from onnxprune import io
from onnxprune.criteria import parse_criterion
from onnxprune.errors import UsageError
from onnxprune.io import Source, load, save
from onnxprune.planning import PrunePlan, SelectOptions
from onnxprune.proof.bench import bench_models
from onnxprune.proof.validate import Thresholds, validate_models
from onnxprune.pruning import Progress, Result, run_prune, silent
from onnxprune.recipe import Recipe
from onnxprune.report.inspection import inspect_model

__all__ = [
    "PrunePlan",
    "Recipe",
    "Result",
    "bench",
    "export_plan",
    "inspect",
    "load",
    "prune",
    "save",
    "sensitivity",
    "validate",
]

PROOF_SAMPLES = 64
"""Samples a proof runs on when nothing else is asked for."""


def prune(
    model: Source | io.Loaded,
    pattern: str = "channel",
    sparsity: float | None = None,
    *,
    target: Mapping[str, float] | None = None,
    criterion: str = "auto",
    allocation: str = "auto",
    align: int = 1,
    only: str | None = None,
    keep: str | None = None,
    layers: Mapping[str, float] | None = None,
    first_layer: str = "prune",
    last_layer: str = "prune",
    seed: int = 0,
    shrink_states: str | None = None,
    structure: str = "auto",
    permute: str = "auto",
    plan: PrunePlan | str | PathLike[str] | None = None,
    mask_only: bool = False,
    format: str | None = None,
    proof: bool = True,
    data: Any = None,
    samples: int | None = None,
    recover: str | Sequence[str] | None = None,
    cache: str | PathLike[str] | None = None,
    recipe: Recipe | str | PathLike[str] | None = None,
    progress: Progress = silent,
) -> Result:
    """Prune a model and prove the result; nothing is written.

    Args:
        model: path, bytes, ``onnx.ModelProto``, ``onnx_ir.Model``, ``onnx_graphsurgeon.Graph`` or
            what :func:`load` returned. Never changed.
        pattern: what is removed together, see ``onnxprune list patterns``.
        sparsity: fraction to remove: of the weights, or of each group's units for ``channel``.
        target: instead of a sparsity, the fraction of ``params`` or ``macs`` to keep.
        criterion: score by which weights or units are ranked; ``auto`` is magnitude, and with
            ``data`` a search. One that is named has the last word also with ``data``.
        allocation: how the sparsity is divided over layers or groups.
        align: kept channel counts are multiples of this.
        only: regular expression; other layers are left alone.
        keep: regular expression; these layers are left alone.
        layers: name or regular expression -> sparsity of those layers.
        first_layer: ``prune`` or ``keep``.
        last_layer: ``prune`` or ``keep``.
        seed: for random scores.
        shrink_states: regular expression on names of inputs; those that are streaming state, given
            back by an output, may lose units at both ends. This changes the model's interface.
        structure: for ``channel``: kinds of units, of ``heads``, ``head_dim``, ``ffn``,
            ``channels`` and ``hidden`` (through normalisations: approximate), or ``auto``: all
            that is exact.
        permute: for patterns that tie neighbouring channels (N:M, blocks, vectors): ``auto``: with
            ``data``, channels are reordered where that loses less; ``on``: also without; ``none``.
        plan: replay this plan (object, or path of its JSON) instead of selecting.
        mask_only: leave shapes alone; write the dense model with zeros.
        format: also pack the weights, see :class:`~onnxprune.passes.emit.Emit`: ``auto`` for the
            smallest form of each, or one of ``onnxprune list formats``.
        proof: compare with the dense model in onnxruntime before returning.
        data: unlabelled samples for the proof and for ``recover``: ``.npz``, folder,
            ``file.py:function``, dict or iterable of feeds, ``synthetic`` for random inputs; random
            inputs for the proof, and no recovery, when None.
        samples: how many samples of ``data`` to use; when None 64 for the proof, and for recovery
            1024, or fewer, at least 128, where a large network would take long.
        recover: ``auto``: with ``data``, masks are searched and kept weights solved anew so that
            the outputs stay what they were, as far as that helps on held-out samples; ``none``:
            kept weights stay as they are; or the steps to try, a list or with commas between:
            ``reconstruct``, ``allocate``, ``permute``, ``train`` for masks, ``select``,
            ``reconstruct``, ``statistics``, ``train`` for channels. None for what the recipe says,
            which is ``auto``.
        cache: a folder where recovery keeps what it has worked out, by model and samples, and from
            where it goes on after an interruption; the result is the same.
        recipe: takes the place of all options above but ``plan``, ``data``, ``samples``,
            ``cache`` and ``recover``, which win over what it says; a :class:`Recipe` or the path
            of one.
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
        pattern=pattern,
        sparsity=sparsity,
        target=dict(target or {}),
        criterion=criterion,
        allocation=allocation,
        align=align,
        only=only,
        keep=keep,
        layers=dict(layers or {}),
        first_layer=first_layer,
        last_layer=last_layer,
        seed=seed,
        shrink_states=shrink_states,
        structure=structure,
        permute=permute,
    )
    if recipe is None:
        recipe = Recipe(options).with_mask_only(mask_only)
        recipe = recipe if format is None else recipe.with_format(format)
    elif options != SelectOptions() or mask_only or format is not None or not proof:
        raise UsageError("give either a recipe or options; to vary a recipe, change the Recipe")
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    loaded = load(model)
    plan = plan if plan is not None else recipe.plan
    if plan is not None and not isinstance(plan, PrunePlan):
        plan = PrunePlan.load(Path(plan))
    if plan is not None:
        recipe = recipe.for_plan(plan)
    feeds = calibration = synthetic = told = None
    data = data if data is not None else recipe.data.path
    if recover is not None:
        recipe = recipe.with_recover(recover)
    if data is not None:
        from onnxprune.calibration.feeds import open_feeds
        from onnxprune.calibration.samples import SYNTHETIC, synthetic_feeds
        from onnxprune.recovery.effort import affordable_feeds

        samples = samples if samples is not None else recipe.data.samples
        if isinstance(data, str) and data == SYNTHETIC:
            synthetic = synthetic_feeds(loaded.model, samples, recipe.select.seed)
            feeds = synthetic[:2]
        else:
            data = open_feeds(data, loaded.model)  # once: a generator gives its samples once
            feeds = list(open_feeds(data, loaded.model, samples or PROOF_SAMPLES))
        looks = parse_criterion(recipe.select.criterion).needs
        if recipe.recover != "none" or "activations" in looks:
            if synthetic is not None:
                calibration = synthetic
            else:
                calibration, told = affordable_feeds(data, loaded.model, samples)
    return run_prune(
        loaded,
        recipe.select,
        plan=plan,
        mask_only=recipe.mask_only,
        prove=proof and recipe.proof.run,
        feeds=feeds,
        calibration=calibration,
        synthetic=synthetic is not None,
        notes=[] if told is None else [told],
        recover=recipe.recover,
        cache=cache,
        before=recipe.before,
        after=recipe.after,
        progress=progress,
    )


def inspect(model: Source | io.Loaded, *, structure: str = "auto") -> dict[str, Any]:
    """Return what a model consists of and what of it can be pruned, as plain data.

    Args:
        model: as for :func:`prune`. Never changed.
        structure: as for :func:`prune`; with ``hidden`` normalisations hold nothing.

    Returns:
        Interface, layers, groups of coupled units, what is frozen and why, totals; every key is
        described in ``docs/report.md``.

    Raises:
        LoadError, UnsupportedError: the model cannot be read or carried.
        UsageError: there is no such structure.
    """
    through = "hidden" in SelectOptions(structure=structure).structures
    return inspect_model(load(model), through)


def export_plan(
    plan: PrunePlan | str | PathLike[str],
    framework: str = "torch",
    *,
    model: Source | io.Loaded | None = None,
) -> dict[str, Any]:
    """Return what a plan keeps of every parameter, for a training framework.

    Args:
        plan: object, or path of its JSON.
        framework: ``torch``.
        model: the dense model the plan was made for, as for :func:`prune`; with it, every entry
            holds hashes by which a parameter is found when the exporter renamed or transposed it.

    Returns:
        Plain data; ``docs/fine_tuning.md`` describes it and shows how it is used.

    Raises:
        DataError: not a plan.
        LoadError, UnsupportedError: the model cannot be read.
        UsageError: an unknown framework, or a model that the plan does not speak of.
    """
    from onnxprune.planning.frameworks import FRAMEWORKS, parameters

    if framework not in FRAMEWORKS:
        raise UsageError(f"framework {framework!r}; choose from: {', '.join(FRAMEWORKS)}")
    if not isinstance(plan, PrunePlan):
        plan = PrunePlan.load(Path(plan))
    if model is None:
        return parameters(plan, framework)
    from onnxprune.passes.base import Context
    from onnxprune.passes.fold_constants import FoldConstants

    graph = load(model).model
    FoldConstants().run(graph, Context())  # as prune does: the plan may speak of what it folded
    weights = {}
    for name in (*plan.kept, *plan.masks):
        value = graph.graph.initializers.get(name.partition("@")[0])
        if value is not None and value.const_value is not None:
            weights[value.name or ""] = value.const_value.numpy()
    if (plan.kept or plan.masks) and not weights:
        raise UsageError("the model has none of the tensors that the plan speaks of")
    return parameters(plan, framework, weights)


def sensitivity(
    model: Source | io.Loaded,
    data: Any,
    pattern: str = "element",
    *,
    levels: Sequence[float] | None = None,
    samples: int | None = None,
    only: str | None = None,
    keep: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Prune every layer alone, re-solve it, and measure what that does to the outputs.

    Args:
        model: as for :func:`prune`. Never changed.
        data: unlabelled samples, as for :func:`prune`.
        pattern: what is removed together; for ``channel``, groups of coupled units are measured.
        levels: fractions of a layer to remove, ascending, each above 0 and below 1; 0.3 to 0.95
            when None. A pattern of fixed density has one level.
        samples: how many samples of ``data`` to use at most; when None 1024, or
            down to 128 of a large network.
        only: regular expression; other layers are left out.
        keep: regular expression; these layers are left out.
        seed: for the draw of positions.
        progress: called with (stage, fraction done).

    Returns:
        Plain data; every key is described in ``docs/report.md``.

    Raises:
        LoadError, UnsupportedError: the model cannot be read.
        UsageError: a pattern or level that cannot be meant, or that fits no layer.
        DataError: the samples do not fit, or the model does not run on them.
    """
    from onnxprune.recovery.sensitivity import sensitivity_report

    options = SelectOptions(pattern=pattern, only=only, keep=keep, seed=seed)
    return sensitivity_report(load(model).model, data, options, levels, samples, progress)


def validate(
    dense: Source | io.Loaded,
    pruned: Source | io.Loaded,
    *,
    data: Any = None,
    samples: int | None = None,
    seed: int = 0,
    max_error: float | None = None,
    min_agreement: float | None = None,
    runtime: str = "cpu",
    threads: int | None = None,
    layers: bool = False,
    metric: str | None = None,
) -> dict[str, Any]:
    """Compare two models: interface, errors and agreement of every output.

    Args:
        dense: the reference, as for :func:`prune`; it runs on onnxruntime's CPU provider.
        pruned: the model in question.
        data: samples as for :func:`prune`; random inputs when None.
        samples: how many samples of ``data``, or random feeds, to use.
        seed: of random inputs.
        max_error: largest relative error allowed, in units of the output's spread.
        min_agreement: smallest share of equal top-1 classes allowed, 0..1.
        runtime: ``cpu`` or ``sparse``: what runs ``pruned``.
        threads: of both sessions.
        layers: also compare layers that both models name alike.
        metric: ``file.py:function``, called with an onnxruntime session and the list of feeds once
            for each model; it returns a number, or a mapping from names to numbers.

    Returns:
        Plain data; every key is described in ``docs/report.md``. ``passed`` is False when the
        interfaces differ, ``pruned`` does not run, or a threshold is missed.

    Raises:
        LoadError, UnsupportedError: a model cannot be read.
        DataError: the samples do not fit, or the dense model does not run on them.
        UsageError: unknown runtime, thresholds that cannot be meant.
        RuntimeUnavailableError: ``sparse`` cannot be used here.
    """
    return validate_models(
        dense,
        pruned,
        data=data,
        samples=samples,
        seed=seed,
        thresholds=Thresholds(max_error, min_agreement),
        runtime=runtime,
        threads=threads,
        layers=layers,
        metric=metric,
    )


def bench(
    models: Sequence[Source | io.Loaded],
    *,
    threads: Sequence[int] = (1,),
    runtimes: Sequence[str] = ("cpu",),
    seconds: float = 3.0,
    seed: int = 0,
    data: Any = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Time models against each other: interleaved rounds on the same inputs, medians, ratios.

    Args:
        models: as for :func:`prune`; the first is what the others are compared with.
        threads: numbers of threads of the sessions, 0 for onnxruntime's choice.
        runtimes: of ``cpu`` and ``sparse``.
        seconds: how long each model is measured on each runtime with each number of threads.
        seed: of the random inputs, which fit the first model.
        data: take the inputs from here instead, see :func:`prune`.
        progress: called with (stage, fraction done).

    Returns:
        Plain data; every key is described in ``docs/report.md``.

    Raises:
        LoadError, UnsupportedError: a model cannot be read.
        DataError: a model does not run on the inputs.
        UsageError: no models, unknown runtimes, numbers that cannot be meant.
        RuntimeUnavailableError: ``sparse`` cannot be used here.
    """
    return bench_models(
        models,
        threads=threads,
        runtimes=runtimes,
        seconds=seconds,
        seed=seed,
        data=data,
        progress=progress,
    )
