"""Recovery inside a prune: new values written into the model, checked, and accounted for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.allocation import resolve_overrides
from onnxprune.criteria import parse_criterion
from onnxprune.errors import ProofError
from onnxprune.planning import PrunePlan, SelectOptions, find_layers
from onnxprune.proof.equivalence import open_session
from onnxprune.recovery.apply import Feed, Progress, Recovered
from onnxprune.recovery.cross_check import SHORT, cross_check
from onnxprune.recovery.journal import Journal
from onnxprune.recovery.recover_masks import recover_masks
from onnxprune.recovery.steps import MASK_STEPS
from onnxprune.recovery.write_values import apply_recovered
from onnxprune.rules.analysis import Analyzer


def recover_and_prove(
    analyzer: Analyzer,
    plan: PrunePlan,
    options: SelectOptions,
    feeds: Sequence[Feed],
    *,
    replay: bool,
    on: bool,
    steps: Collection[str] = MASK_STEPS,
    journal: Journal | None = None,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any], Analyzer]:
    """Recover a mask plan and write the result into the analyzed model.

    Args:
        analyzer: of the dense model, changed here.
        plan: masks; those found here take their place.
        options: what was asked for.
        feeds: calibration samples.
        replay: the masks are given and only values are solved.
        on: whether to check the result.
        steps: of :data:`~onnxprune.recovery.steps.MASK_STEPS`.
        journal: where answers are kept and taken from.
        progress: called with (stage, fraction done).

    Returns:
        The proof and the account of the recovery, as plain data; and the analyzer of the model that
        was written, which is a copy where channels were reordered.

    Raises:
        ProofError: a weight off its mask is not zero, or the model does not run.
        DataError: onnxruntime does not run the model on the samples.
    """
    pattern = str(plan.options.get("pattern", options.pattern))
    names = [layer.name for layer in find_layers(analyzer)]
    fixed = resolve_overrides(names, options.layers) if options.layers else {}
    chosen = set(steps)
    if options.allocation not in ("auto", "measured"):
        chosen.discard("allocate")
    if options.permute == "none":
        chosen.discard("permute")

    def recover(
        samples: Sequence[Feed],
        own: Journal | None,
        wanted: Collection[str],
        passes: float = 1.0,
    ) -> Recovered:
        return recover_masks(
            analyzer,
            plan,
            samples,
            pattern=pattern,
            method="given" if replay else method_of(options.criterion),
            steps=wanted,
            fixed=fixed,
            passes=passes,
            journal=own,
            seed=options.seed,
            progress=progress,
        )

    def from_others(samples: Sequence[Feed], own: Journal) -> Recovered:
        return recover(samples, own, chosen, SHORT)

    checked = cross_check(analyzer, plan.masks, feeds, from_others, journal) if chosen else None
    recovered = recover(feeds, journal, chosen if checked is None or checked.kept else ())
    recovered.report["cross_check"] = None if checked is None else checked.as_dict()
    if recovered.analyzer is not None:
        analyzer = recovered.analyzer
    plan.orders.update(recovered.orders)
    plan.masks.update(recovered.masks)
    for group in plan.groups:
        mask = plan.masks.get(group.get("tensor", ""))
        if mask is not None:
            group["kept"] = int(np.count_nonzero(mask))
    apply_recovered(analyzer, recovered)
    if not on:
        off = {"passed": None, "max_rel_error": None, "kind": "none: switched off"}
        return off, recovered.report, analyzer
    _check(analyzer, plan)
    session = open_session(io.to_bytes(analyzer.model))
    outputs = session.run(None, dict(feeds[0]))
    finite = all(np.asarray(o).dtype.kind != "f" or np.isfinite(o).all() for o in outputs)
    if not finite and not recovered.holes:
        raise ProofError("the recovered model gives NaN or infinity; nothing was written")
    proof = {
        "passed": True,
        "max_rel_error": 0.0,
        "limit": 0.0,
        "kind": "every weight off the masks is zero; the model runs; what stays was solved anew",
        "values": {},
        "samples": 1,
    }
    return proof, recovered.report, analyzer


def method_of(criterion: str) -> str:
    """Return how masks are found under a criterion: its own search, the best one, or ``given``."""
    name = parse_criterion(criterion).name.replace("-", "_")
    return name if name in ("auto", "alps", "exact_obs", "sparsegpt") else "given"


def _check(analyzer: Analyzer, plan: PrunePlan) -> None:
    values = {v.name: v for v in analyzer.graph.initializers.values()}
    for node in analyzer.graph:
        if node.op_type == "Constant":
            values[node.outputs[0].name] = node.outputs[0]
    layers = {layer.value.name or "": layer for layer in find_layers(analyzer)}
    for name, mask in plan.masks.items():
        found = ir.convenience.get_const_tensor(values[name]) if name in values else None
        if found is None:
            raise ProofError(f"weight {name!r} was lost in recovery; nothing was written")
        stored = layers[name].stored
        finite = np.isfinite(stored.plain(found).astype(np.float32)).all()
        if np.count_nonzero(~stored.is_zero(found) > mask) or not finite:
            raise ProofError(f"weight {name!r} does not follow its mask; nothing was written")
