"""Recovery for deleted channels: every consumer re-solved on what it still sees.

Deleting a channel takes its columns out of all layers that read it. In the dense-shaped network
that is a mask of whole columns, so the refit is the reconstruction of masks: layer by layer, on
inputs of the pruned prefix, against dense targets, with the lost mean moved into the bias.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import io
from onnxprune.axes import Bools
from onnxprune.calibration.samples import rows_of
from onnxprune.criteria.l1 import L1
from onnxprune.passes.shrink import set_constant
from onnxprune.patterns import parse_pattern
from onnxprune.planning import PrunePlan, SelectOptions, find_layers
from onnxprune.planning.layers import Layer
from onnxprune.planning.structure import plan_of, removed_from, score_groups
from onnxprune.recovery.apply import (
    Feed,
    Progress,
    Reconstruction,
    Recovered,
    few_columns,
    quiet,
)
from onnxprune.recovery.choose_units import candidates
from onnxprune.recovery.cross_check import SHORT, cross_check
from onnxprune.recovery.journal import Journal
from onnxprune.recovery.repair import repair
from onnxprune.recovery.solve_layers import solve_layers
from onnxprune.recovery.steps import CHANNEL_STEPS
from onnxprune.recovery.train_blocks import train_blocks, write_back
from onnxprune.recovery.write_values import apply_recovered
from onnxprune.rules.analysis import Analyzer, analyze


def column_masks(analyzer: Analyzer, removed: Bools) -> dict[str, npt.NDArray[np.bool_]]:
    """Return, by tensor name, the weights of every layer that still get an input.

    Args:
        analyzer: of the dense model.
        removed: units that are deleted [units].
    """
    found = {}
    for layer in find_layers(analyzer):
        name = layer.value.name or ""
        axes = analyzer.parameter(layer.value, layer.node)
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


@dataclass
class Recovery:
    """What became of a structured plan.

    Attributes:
        plan: what is kept, of the model's tensors as they were.
        removed: the same as components of the first analysis.
        analyzer: of the dense-shaped model with its new values.
        again: ``removed`` as components of that analysis.
        account: ``recovery`` of ``docs/report.md``.
    """

    plan: PrunePlan
    removed: Bools
    analyzer: Analyzer
    again: Bools
    account: dict[str, Any]


def recover_structure(
    analyzer: Analyzer,
    plan: PrunePlan,
    options: SelectOptions,
    feeds: Sequence[Feed],
    *,
    replay: bool = False,
    steps: Collection[str] = CHANNEL_STEPS,
    checked: bool = False,
    journal: Journal | None = None,
    progress: Progress = quiet,
) -> Recovery:
    """Choose units and new values by samples, each step kept only if held-out agreement holds.

    Steps: the plan as it is; its units' consumers solved anew (where a criterion or plan has the
    last word), or units and widths chosen by samples and solved; the moments of normalisations;
    training of what stays against the dense network's inner values. The model keeps its shapes;
    deleting the units is the caller's.

    Args:
        analyzer: of the dense model, whose weights are replaced here.
        plan: what was chosen without samples; the fallback.
        options: what was asked for.
        feeds: calibration samples.
        replay: the plan is not to be improved upon.
        steps: of :data:`~onnxprune.recovery.steps.CHANNEL_STEPS`.
        checked: take the steps without a check across few samples, as one of its parts.
        journal: where answers are kept and taken from.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model on the feeds.
    """
    removed = removed_from(analyzer, plan)
    masks = column_masks(analyzer, removed)

    def from_others(samples: Sequence[Feed], own: Journal) -> Recovered:
        copy = _anew(analyzer, options, io.load(analyzer.model).model)
        done = recover_structure(
            copy, plan, options, samples,
            replay=replay, steps=steps, checked=True, journal=own, progress=progress,
        )  # fmt: skip
        return Recovered(analyzer=done.analyzer)

    check = None
    if steps and not checked:
        check = cross_check(analyzer, masks, feeds, from_others, journal)
    if check is not None and not check.kept:
        steps = ()
    work = Reconstruction(analyzer, feeds, journal=journal, seed=options.seed)
    judge = work.judge()
    dense = work.stages.proto
    first = Recovered(weights=work.masked(masks))
    before = work.agreement(judge, first.weights, [])
    told: list[dict[str, Any]] = [{"step": "delete", **before.as_dict(), "kept": True}]
    best, choice, least = first, removed, before.loss
    table: list[dict[str, Any]] = []
    missed: list[str] = []
    ways: Iterable[tuple[str, Bools]] = ()
    if "select" in steps and not replay:
        ways = candidates(
            work, plan, options, seed=options.seed, progress=progress, table=table, missed=missed
        )

    def solved(wanted: Bools) -> Recovered:
        return solve_layers(
            work,
            column_masks(analyzer, wanted),
            parse_pattern("element"),
            method="given",
            shared_bias=False,
            progress=progress,
        )

    def take(name: str, wanted: Bools) -> None:
        nonlocal best, choice, least
        found = solved(wanted)
        after = work.agreement(judge, found.weights, found.biases)
        kept = after.loss <= least and after.no_worse(before)
        told.append({"step": name, **after.as_dict(), "kept": kept})
        if kept:
            best, choice, least = found, wanted, after.loss

    every, work.columns = work.columns, few_columns
    for name, wanted in ways:
        take(name, wanted)
    left = {"step": "allocate", "loss": least, "top1": None, "kept": False}
    told += [{**left, "why": why} for why in missed]
    work.columns = every
    if "reconstruct" in steps:
        take("refit", choice)
    statistics: dict[str, npt.NDArray[Any]] = {}
    mended = None
    if "statistics" in steps and best is not first:
        mended = repair(work, best, judge)
    if mended is not None:
        kept = mended.agreement.loss < least and mended.agreement.no_worse(before)
        told.append({"step": mended.name, **mended.agreement.as_dict(), "kept": kept})
        if kept:
            best, statistics = mended.recovered, mended.statistics
            least = mended.agreement.loss
    if choice is not removed:
        plan = _planned(analyzer, choice, plan)
    for name, array in statistics.items():
        set_constant(analyzer.by_name[name], array)
    created = apply_recovered(analyzer, best)
    held = work.held_feeds
    again = _anew(analyzer, options)
    gone = removed_from(again, extended(plan, created))
    trained = None
    if "train" in steps:
        trained = train_blocks(
            again, gone, dense, work.training, held, judge,
            outputs=work.stages.outputs, variety=work.variety(judge),
            passes=SHORT if checked else 1.0, seed=options.seed, progress=progress,
        )  # fmt: skip
    account: dict[str, Any] = {
        "samples": sum(rows_of(f) for f in feeds),
        "held_out": sum(rows_of(f) for f in held),
        "cross_check": None if check is None else check.as_dict(),
        "steps": told,
        "layers": best.report.get("layers", []),
    }
    if table:
        account["sensitivity"] = table
    if trained is None:
        account["training"] = {"why": "not among the steps to take"}
    elif trained.agreement is None:
        account["training"] = {"why": trained.why}
    else:
        kept = trained.agreement.loss < least and trained.agreement.no_worse(before)
        told.append({"step": "train blocks", **trained.agreement.as_dict(), "kept": kept})
        account["training"] = trained.account
        if kept:
            write_back(again, trained)
            again = _anew(analyzer, options)  # an analysis remembers numbers
            gone = removed_from(again, extended(plan, created))
    return Recovery(plan, choice, again, gone, account)


def _anew(analyzer: Analyzer, options: SelectOptions, model: ir.Model | None = None) -> Analyzer:
    """The model, or a copy of it, analyzed as before, its values as they are now."""
    return analyze(
        analyzer.model if model is None else model,
        states=options.shrink_states,
        through_norms=analyzer.through_norms,
        inside_heads=analyzer.inside_heads,
    )


def _planned(analyzer: Analyzer, removed: Bools, old: PrunePlan) -> PrunePlan:
    """The plan of another choice of units, its groups told as the old plan tells them."""
    plan = plan_of(analyzer, removed)
    plan.options, plan.orders = old.options, old.orders
    plan.through_norms = old.through_norms
    labels = {s.name: s.group.labels for s in score_groups(analyzer, L1(), 0)[0]}
    for entry in old.groups:
        gone = np.flatnonzero(removed[labels[entry["name"]]])
        plan.groups.append({**entry, "kept": entry["units"] - len(gone), "removed": gone.tolist()})
    return plan


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
            if kept is None or kept[axis] is None or not roles <= {"g", "o"}:
                continue
            wider.shapes[name] = [int(layer.tensor.shape.numpy()[axis])]
            wider.kept[name] = [kept[axis]]
    return wider
