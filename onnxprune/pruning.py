"""One prune from model to proved model: analyze, select, rewrite, prove."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.criteria import parse_criterion
from onnxprune.errors import ModelError, ProofError, UsageError
from onnxprune.formats.weights import DOMAIN
from onnxprune.passes.base import Context, Pass
from onnxprune.passes.inline_functions import InlineFunctions
from onnxprune.passes.permute import permute_units
from onnxprune.passes.prepare import prepare
from onnxprune.patterns import parse_pattern
from onnxprune.planning import PrunePlan, SelectOptions, find_layers
from onnxprune.planning.cost import CostModel
from onnxprune.planning.masks import select_masks
from onnxprune.planning.structure import removed_from, select_structure
from onnxprune.proof.structure import prove_mask, prove_structure
from onnxprune.recovery.steps import steps_for
from onnxprune.report.facts import (
    forget_shapes,
    frozen_units,
    interface,
    state_rows,
    untold_shapes,
    weight_sparsity,
)
from onnxprune.rules.analysis import analyze
from onnxprune.rules.bodies import unique_names

#: Layers that a note names; the report has them all.
SPARED_NAMES = 8
SYNTHETIC_NOTE = (
    "calibrated on random inputs: statistics, and the agreement that decided, are those of inputs "
    "the network will never see; a few hundred real samples (--data PATH) are worth far more"
)
FEW_NOTE = (
    "only {} samples: kept weights were solved anew only if that was better on samples left out; "
    "a few hundred samples give more"
)
WITHOUT_DATA = (
    "no samples were given, so kept weights stay as they are; with --data PATH masks are searched "
    "and weights solved anew, which loses far less"
)
Progress = Callable[[str, float], None]


@dataclass
class Result:
    """What a prune gives back.

    Attributes:
        model: the pruned model, in the kind that was given (for a path: ``onnx_ir.Model``).
        plan: what was kept, replayable.
        report: JSON-ready facts; see ``docs/report.md``.
        loaded: the pruned model inside onnxprune, for :func:`onnxprune.save`.
    """

    model: Any
    plan: PrunePlan
    report: dict[str, Any]
    loaded: io.Loaded = field(repr=False)


def silent(stage: str, done: float) -> None:
    """Progress callback that does nothing."""


def run_prune(
    loaded: io.Loaded,
    options: SelectOptions,
    *,
    plan: PrunePlan | None = None,
    mask_only: bool = False,
    prove: bool = True,
    feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]] | None = None,
    calibration: Sequence[Mapping[str, np.ndarray[Any, Any]]] | None = None,
    recover: str = "auto",
    cache: str | PathLike[str] | None = None,
    synthetic: bool = False,
    notes: Sequence[str] = (),
    after: Sequence[Pass] = (),
    before: Sequence[Pass] = (),
    progress: Progress = silent,
) -> Result:
    """Prune ``loaded.model`` in place and prove the result.

    Args:
        loaded: a private model.
        options: what to select; only recorded when ``plan`` is given.
        plan: replay this plan instead of selecting.
        mask_only: leave shapes alone and write zeros.
        prove: compare against the dense model in onnxruntime.
        feeds: inputs for the proof; random ones when None.
        calibration: samples, for criteria that look at activations and for ``recover``.
        recover: what gives what stays new values, with ``calibration``; see
            :mod:`onnxprune.recovery.steps`.
        cache: folder in which recovery keeps what it has worked out; see
            :mod:`onnxprune.recovery.journal`.
        notes: what is to be told beside what is found out here.
        synthetic: whether ``calibration`` are random inputs; the report says what that costs.
        before: passes that run on the dense model first.
        after: passes that run on the pruned model.
        progress: called with (stage, fraction done).

    Raises:
        ModelError: weights that are not finite.
        UsageError: the request cannot be meant for this model.
        ProofError: the pruned model differs from the dense one.
    """
    started = time.perf_counter()
    model = loaded.model
    context = Context(seed=options.seed, progress=progress)
    progress("analyze", 0.0)
    _check_weights(model)
    kind = (
        plan.kind
        if plan is not None
        else ("structure" if parse_pattern(options.pattern).structural else "mask")
    )
    steps = steps_for(recover, kind)
    if options.shrink_states is not None and kind == "mask":
        raise UsageError("states shrink only where whole units go; give a pattern such as channel")
    size_before = io.stored_size(loaded)
    faces = [*model.graph.inputs, *model.graph.outputs]
    original = {v.name: v.shape for v in faces}
    declared = [(v.shape, v.type) for v in faces]
    face = interface(model)
    for step in before:
        step.run(model, context)
    notes = list(notes)
    inlined = InlineFunctions().run(model, context).stats["functions"]
    if inlined:
        notes.append(f"{inlined} local functions were put in the place of their calls")
    unique_names(model)
    untold = untold_shapes(model)
    prepare(model, context, structural=kind == "structure")
    through = "hidden" in options.structures if plan is None else plan.through_norms
    analyzer = analyze(
        model,
        states=options.shrink_states,
        through_norms=through,
        inside_heads=kind == "structure",
    )
    if options.shrink_states is not None and not analyzer.states:
        notes.append(
            f"no input that matches {options.shrink_states!r} is a state that an output gives back"
        )
    resized = {v.name for pair in analyzer.states for v in pair}
    face = [(*row[:3], () if row[1] in resized else row[3]) for row in face]
    cost = CostModel(analyzer)
    report: dict[str, Any] = {
        "params": {"before": cost.params()},
        "macs": {"before": cost.macs()},
        "bytes": {"before": size_before},
        "recovery": None,
    }
    progress("select", 0.2)
    skipped: list[dict[str, str]] = []
    orders: dict[str, list[int]] = {}
    replay = plan is not None
    wanted = parse_pattern(options.pattern)
    alone = options.permute == "on" and (calibration is None or not steps)
    if plan is not None and plan.orders:
        permute_units(analyzer, plan.orders)
        analyzer = analyze(model)
    elif kind == "mask" and alone and plan is None:
        from onnxprune.recovery.apply_orders import reorder

        # Only how much of each layer stays is looked at, so weights alone may say it.
        masks = select_masks(analyzer, replace(options, criterion="l1"))[0].masks
        found = reorder(analyzer, wanted, masks, calibration or feeds, measured=False)
        if found is not None:
            analyzer = found.analyzer
            model = analyzer.model
            orders = {o.group: list(o.order) for o in found.orders}
    criterion = parse_criterion(options.criterion)
    measured = "activations" in criterion.needs
    calibrated = calibration if steps else None
    journal = None
    if cache is not None and calibrated is not None:
        from onnxprune.recovery.journal import Journal, digest_of

        what = options.pattern if plan is None else plan.options
        journal = Journal(
            Path(cache), digest_of(io.to_bytes(model), calibrated, what, options.seed)
        )
    if calibrated is not None and synthetic:
        notes.append(SYNTHETIC_NOTE)
    elif calibration is None and plan is None and kind == "mask":
        notes.append(WITHOUT_DATA)
    if plan is None and kind == "structure":
        units_said = None
        if measured and calibration is not None:
            from onnxprune.recovery.evidence import unit_scores

            units_said = unit_scores(
                analyzer, criterion, calibration, seed=options.seed, progress=progress
            )
        plan, told = select_structure(analyzer, options, units_said)
        notes.extend(told)
    elif plan is None:
        said = None
        if measured and calibration is not None:
            from onnxprune.recovery.evidence import weight_scores

            said = weight_scores(
                analyzer, criterion, calibration, seed=options.seed, progress=progress
            )
        plan, left_out = select_masks(analyzer, options, said)
        skipped = [{"layer": s.layer, "why": s.why} for s in left_out]
    assert plan is not None
    plan.orders.update(orders)
    progress("rewrite", 0.4)
    units, frozen = frozen_units(analyzer)
    gone = sum(g["units"] - g["kept"] for g in plan.groups if g.get("kind") == "hidden")
    if gone:
        notes.append(
            f"approximate: {gone} units were taken out of axes that normalisations mix; their "
            "statistics are now those of what stays"
        )
    if kind == "structure":
        removed = again = removed_from(analyzer, plan)
        if calibrated is not None and removed.any():
            from onnxprune.recovery.apply_structure import recover_structure

            mended = recover_structure(
                analyzer, plan, options, calibrated,
                replay=replay, steps=steps, journal=journal, progress=progress,
            )  # fmt: skip
            plan, removed, again = mended.plan, mended.removed, mended.again
            analyzer, report["recovery"] = mended.analyzer, mended.account
        units["removed"] = int(np.count_nonzero(removed[units.pop("labels")]))
        report["params"]["after"] = cost.params(None if mask_only else removed)
        report["macs"]["after"] = cost.macs(None if mask_only else removed)
        proof, model = prove_structure(analyzer, again, feeds, mask_only=mask_only, on=prove)
    else:
        units.pop("labels")
        units["removed"] = 0
        report["params"]["after"] = report["params"]["before"]
        report["macs"]["after"] = report["macs"]["before"]
        if calibrated is not None and plan.masks:
            from onnxprune.recovery.apply_prune import recover_and_prove

            proof, report["recovery"], analyzer = recover_and_prove(
                analyzer, plan, options, calibrated,
                replay=replay, on=prove, steps=steps, journal=journal, progress=progress,
            )  # fmt: skip
            model = analyzer.model
            spared = (report["recovery"] or {}).get("spared", [])
            if spared:
                more = len(spared) - SPARED_NAMES
                notes.append(
                    "where that hurts the outputs least, layers stay dense and the others lose "
                    f"that much more: {', '.join(spared[:SPARED_NAMES])}"
                    f"{f' and {more} more' if more > 0 else ''}; "
                    "give --layer NAME=S to prune them, or --recover none"
                )
        else:
            proof = prove_mask(analyzer, plan, feeds, on=prove)
    told_of = report["recovery"] or {}
    if told_of.get("cross_check"):
        notes.append(FEW_NOTE.format(told_of["samples"]))
    # Shrinking changes weights but not which nodes hold them; packing would hide the zeros.
    same_nodes = kind == "mask" or model is loaded.model
    sparsity = weight_sparsity(analyzer if same_nodes else analyze(model))
    for step in after:
        step.run(model, context)
    # Inference and rules may know more than the file declares; the file stays as it was written.
    forget_shapes(model, untold)
    faces = [*model.graph.inputs, *model.graph.outputs]
    for value, (shape, kind_of) in zip(faces, declared, strict=False):
        if not value.is_initializer():
            value.type = kind_of
            value.shape = _resized(value.shape, shape) if value.name in resized else shape
    if interface(model, resized) != face:
        raise ProofError(
            f"the inputs or outputs changed: {face} became {interface(model)}; nothing was written"
        )
    if (model.ir_version or 0) >= 4 and io.take_from_inputs(model):  # older files have to list them
        notes.append(
            "weights are no longer listed among the inputs: runtimes take them for constant"
        )
    report["bytes"]["after"] = io.stored_size(loaded.with_model(model))
    report |= {
        "pattern": options.pattern,
        "sparsity": sparsity,
        "units": units,
        "states": state_rows(model, analyzer.states, original),
        "frozen": frozen,
        "unsupported": dict(sorted(analyzer.unsupported.items())),
        "groups": [{k: v for k, v in g.items() if k != "removed"} for g in plan.groups],
        "skipped": skipped,
        "notes": notes,
        "proof": proof,
        "seconds": round(time.perf_counter() - started, 3),
    }
    progress("done", 1.0)
    loaded = loaded.with_model(model)
    return Result(loaded.restore(), plan, report, loaded)


def _resized(now: ir.Shape | None, declared: ir.Shape | None) -> ir.Shape | None:
    """Return a declared shape with the sizes it has now; symbols and unknowns stay."""
    if now is None or declared is None or len(now) != len(declared):
        return declared
    pairs = zip(now, declared, strict=True)
    return ir.Shape([a if isinstance(a, int) and isinstance(b, int) else b for a, b in pairs])


def _check_weights(model: ir.Model) -> None:
    if any(node.domain == DOMAIN for node in model.graph.all_nodes()):
        raise ModelError(
            "its weights are packed; 'onnxprune convert MODEL -o DENSE --format dense' restores "
            "them bit for bit"
        )
    bad = io.nonfinite_weights(model)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ModelError(
            f"weight {bad[0]!r}{more} holds NaN or infinity; nothing can be ranked or proved with "
            "it. Repair the model first"
        )


__all__ = ["Progress", "Result", "find_layers", "run_prune"]
