"""Proving a structured prune, and a mask, while carrying them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.axes import Bools
from onnxprune.errors import ProofError
from onnxprune.passes.apply_plan import apply_masks
from onnxprune.passes.shrink import Surgery
from onnxprune.planning import PrunePlan, find_layers
from onnxprune.proof.equivalence import (
    Proof,
    compare,
    forgive_noise,
)
from onnxprune.proof.sampled import TOO_LARGE, follows, prove_layers
from onnxprune.proof.staging import Stage, weight_bytes
from onnxprune.rules.analysis import Analyzer

Feeds = Sequence[Mapping[str, np.ndarray[Any, Any]]]
WATCHED = 6
OFF = {"passed": None, "max_rel_error": None, "kind": "none: switched off"}


def _watched(analyzer: Analyzer) -> list[ir.Value]:
    """Choose values inside the network to compare: the last products, and some on the way."""
    values = [
        c.node.outputs[0]
        for c in analyzer.contractions
        if c.node.graph is analyzer.graph  # what is inside a body cannot be shown
        and c.node.outputs[0].name
        and not c.node.outputs[0].is_graph_output()
        and c.node.outputs[0].dtype == ir.DataType.FLOAT
    ]
    if len(values) <= WATCHED:
        return values
    places = np.unique(np.linspace(0, len(values) - 1, WATCHED).astype(int))
    return [values[i] for i in places]


class _WithOutputs:
    """Adds values to a graph's outputs for as long as the context lasts."""

    def __init__(self, graph: ir.Graph, values: Sequence[ir.Value]) -> None:
        self.graph, self.values = graph, values

    def __enter__(self) -> None:
        self.graph.outputs.extend(self.values)

    def __exit__(self, *_: object) -> None:
        for _value in self.values:
            self.graph.outputs.pop()


def prove_structure(
    analyzer: Analyzer,
    removed: Bools,
    feeds: Feeds | None,
    *,
    mask_only: bool,
    on: bool,
) -> tuple[dict[str, Any], ir.Model]:
    """Shrink (or mask) the analyzed model, comparing the two models when ``on``.

    Returns:
        The proof as plain data, and the model to go on with.

    Raises:
        ProofError: they differ, or one of them cannot be run; the model must not be used then.
    """
    surgery = Surgery(analyzer, removed)
    if not on:
        (surgery.mask if mask_only else surgery.shrink)()
        return dict(OFF), analyzer.model
    with Stage() as stage:
        return _prove(stage, analyzer, surgery, feeds, mask_only)


def _prove(
    stage: Stage, analyzer: Analyzer, surgery: Surgery, feeds: Feeds | None, mask_only: bool
) -> tuple[dict[str, Any], ir.Model]:
    watched = _watched(analyzer)
    names = [v.name or "" for v in (*analyzer.graph.outputs, *watched)]
    keep = {
        v.name or "": [_kept(analyzer, surgery, v, a) for a in range(len(v.shape or ()))]
        for v in (*watched, *(v for pair in analyzer.states for v in pair))
    }
    valid = stage.problem(analyzer.model)
    surgery.mask()
    # The rewrite cannot be undone, so the masked twin is a copy (its weights are shared).
    twin = io.load(analyzer.model).model if mask_only else None
    with _WithOutputs(analyzer.graph, watched):
        masked, inputs, reference = stage.run(analyzer.model, feeds, names)
    surgery.unmask()
    plain = _plain(stage, analyzer, surgery, inputs, watched, names)
    surgery.shrink()
    with _WithOutputs(analyzer.graph, watched):
        shrunk = stage.put(analyzer.model)

    def crop(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        for axis, mask in enumerate(keep.get(name, ())):
            if mask is not None:
                array = np.compress(mask, array, axis=axis)
        return array

    states = {a.name for a, _ in analyzer.states}
    cut = [{n: crop(n, x) if n in states else x for n, x in feed.items()} for feed in inputs]
    _, got = shrunk.run(cut, names)
    kind = "shrunk model against masked dense model"
    if plain is not None:
        kind += " whose normalisations see what stays"
    if stage.wide:
        kind += f", {stage.wide}"
    proof = compare(reference, got, names, kind, crop)
    if not proof.passed:
        _, again = masked.run(inputs, names, otherwise=True)
        proof = forgive_noise(proof, compare(reference, again, names, "noise").values)
    if not proof.passed and masked.large:
        # Integer products saturate unless onnxruntime may rewrite them; see open_session.
        _, got = shrunk.run(inputs, names, otherwise=True)
        other = compare(again, got, names, proof.kind, crop)
        proof = other if other.passed else proof
    _judge(proof, "the shrunk model does not compute what the masked dense model computes")
    if valid is None:
        problem = stage.problem(analyzer.model)
        if problem:
            raise ProofError(f"the pruned model is not valid ONNX: {problem}; nothing was written")
    facts = proof.as_dict()
    if plain is not None:
        outputs = [v.name or "" for v in analyzer.graph.outputs]
        far = compare(plain, got, names, "", crop).values
        facts["approximation"] = {
            "kind": "shrunk model against masked dense model with the statistics of the dense one",
            "normalisations": len(surgery.restated),
            "max_rel_error": max((far[name] for name in outputs), default=0.0),
        }
    return facts, twin if twin is not None else analyzer.model


def _plain(
    stage: Stage,
    analyzer: Analyzer,
    surgery: Surgery,
    inputs: Feeds,
    watched: Sequence[ir.Value],
    names: Sequence[str],
) -> list[list[np.ndarray[Any, Any]]] | None:
    """Run the masked model whose normalisations see everything; None where that is no other."""
    if not surgery.restated:
        return None
    surgery.mask(restate=False)
    with _WithOutputs(analyzer.graph, watched):
        masked = stage.put(analyzer.model)
    _, values = masked.run(inputs, names)
    surgery.unmask()
    return values


def _kept(analyzer: Analyzer, surgery: Surgery, value: ir.Value, axis: int) -> Bools | None:
    ids = analyzer.ids(value, axis, None)
    kept = None if ids is None else surgery.kept(ids)
    return None if kept is None or kept.all() else kept


def _judge(proof: Proof, what: str) -> None:
    if proof.passed:
        return
    worst = max(proof.values, key=lambda name: proof.values[name])
    raise ProofError(
        f"{what}: {worst!r} is off by {proof.max_rel_error:.2e} of its spread (limit "
        f"{proof.limit:g}); nothing was written. Please report the model; --keep with the layers "
        "around that value leaves them alone"
    )


def prove_mask(
    analyzer: Analyzer, plan: PrunePlan, feeds: Feeds | None, *, on: bool
) -> dict[str, Any]:
    """Write the plan's zeros, checking every weight and that the result runs when ``on``.

    Raises:
        ProofError: a weight is neither what it was nor a zero of the mask, or the model does not
            run.
    """
    originals = {layer.value.name or "": layer for layer in find_layers(analyzer)}
    apply_masks(analyzer, plan)
    if not on:
        return dict(OFF)
    for name in plan.masks:
        if not follows(plan.masks, name, originals[name]):
            raise ProofError(f"weight {name!r} does not follow its mask; nothing was written")
    if weight_bytes(analyzer.model) >= TOO_LARGE:
        return prove_layers(analyzer, plan, originals)
    with Stage() as stage:
        # Random inputs come back only once the model has run on them.
        _, inputs, _ = stage.run(analyzer.model, feeds, limit=0 if feeds is None else 1)
        wide = f" {stage.wide}" if stage.wide else ""
    return {
        "passed": True,
        "max_rel_error": 0.0,
        "limit": 0.0,
        "kind": f"every weight is its old value or a zero of the mask; the model runs{wide}",
        "values": {},
        "samples": len(inputs[:1]),
    }
