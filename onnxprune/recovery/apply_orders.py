"""Channel permutation on a graph: searched, written into a copy, proved against the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxprune import io
from onnxprune.criteria import parse_criterion
from onnxprune.errors import ProofError, UsageError
from onnxprune.passes.permute import permute_units
from onnxprune.patterns import Pattern
from onnxprune.proof.equivalence import Proof, compare
from onnxprune.proof.staging import Stage, Staged
from onnxprune.recovery.apply import Feed, Progress, quiet
from onnxprune.recovery.evidence import weight_scores
from onnxprune.recovery.orders import Masks, Ordered, find_orders, ties
from onnxprune.rules.analysis import Analyzer, analyze

#: Feeds that a new order is proved on.
PROOF_FEEDS = 2


@dataclass(frozen=True)
class Reordered:
    """A model with other orders of channels that computes the same.

    Attributes:
        analyzer: of the reordered copy.
        orders: what was reordered.
        refused: names of groups whose order did not pass the proof.
        proof: largest relative error of the outputs, as plain data.
    """

    analyzer: Analyzer
    orders: tuple[Ordered, ...]
    refused: tuple[str, ...]
    proof: dict[str, Any]


def reorder(
    analyzer: Analyzer,
    pattern: Pattern,
    masks: Masks,
    feeds: Sequence[Feed] | None,
    *,
    measured: bool = True,
    seed: int = 0,
    progress: Progress = quiet,
) -> Reordered | None:
    """Return a reordered copy of the analyzed model, or None where no order is better.

    Args:
        analyzer: of the dense model, which stays as it is.
        pattern: the pattern.
        masks: by tensor name; how much of each weight stays.
        feeds: samples, for the scores and the proof; random inputs for the proof, and magnitude
            for the scores, when None.
        measured: with ``feeds``, score by the layers' curvature.
        seed: of the search.
        progress: called with (stage, fraction done).
    """
    if not ties(pattern, analyzer, masks):
        return None
    scores = None
    if measured and feeds:
        scores = weight_scores(
            analyzer, parse_criterion("obs"), feeds, tensors=masks, seed=seed, progress=progress
        )
        scores = {n: s / max(float(s.sum()), 1e-30) for n, s in scores.items()}
    orders = find_orders(analyzer, pattern, masks, scores, seed=seed)
    if not orders:
        return None
    with Stage() as stage:
        dense = stage.put(analyzer.model)
        inputs, want = dense.run(None if feeds is None else feeds[:PROOF_FEEDS])

        def attempt(chosen: Sequence[Ordered]) -> tuple[ir.Model, Proof] | None:
            model = io.load(analyzer.model).model
            try:
                permute_units(analyze(model), {o.group: o.order for o in chosen})
                proof = _compare(stage.put(model), analyzer, inputs, want)
            except (UsageError, ProofError):
                return None
            return (model, proof) if proof.passed else None

        done = attempt(orders)
        refused: list[str] = []
        if done is None:  # some group's graph does not allow it: find out which
            fine = [order for order in orders if attempt([order])]
            refused = [order.group for order in orders if order not in fine]
            orders, done = fine, attempt(fine) if fine else None
    if done is None:
        return None
    return Reordered(analyze(done[0]), tuple(orders), tuple(refused), done[1].as_dict())


def _compare(staged: Staged, analyzer: Analyzer, inputs: Any, want: Any) -> Proof:
    names = [v.name or "" for v in analyzer.graph.outputs]
    _, got = staged.run(inputs)
    return compare(want, got, names, "reordered model against the original")


def as_rows(found: Reordered) -> list[dict[str, Any]]:
    """Return the orders as plain data, a row a group."""
    return [
        {"group": o.group, "units": len(o.order), "layers": list(o.layers),
         "efficacy": round(o.efficacy, 4)}
        for o in found.orders
    ]  # fmt: skip
