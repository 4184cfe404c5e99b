"""Execute a plan: delete coordinates, or write zeros."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.errors import UsageError
from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.passes.shrink import Surgery, set_constant
from onnxprune.planning import PrunePlan, find_layers
from onnxprune.planning.bits import Masks
from onnxprune.planning.structure import removed_from
from onnxprune.rules.analysis import Analyzer, analyze
from onnxprune.rules.stored import select


@PASSES.member("apply-plan")
@dataclass(frozen=True)
class ApplyPlan(Pass):
    """Rewrite the model to the plan in ``context.facts["plan"]``.

    Works on the main graph: what a subgraph or function touches is frozen, so a plan never speaks
    of it.

    Attributes:
        mask_only: write the dense model in which the removed units count for nothing, instead of
            deleting them. Masks of single weights are zeros either way.
    """

    name: ClassVar[str] = "apply-plan"
    mask_only: bool = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Apply ``context.facts["plan"]``; an analysis in ``facts["analysis"]`` is used if its own.

        Raises:
            UsageError: no plan, or one that does not fit the model.
        """
        plan = context.facts.get("plan")
        if not isinstance(plan, PrunePlan):
            raise UsageError("pass 'apply-plan' needs a plan; select one first or load one")
        analyzer = context.facts.get("analysis")
        if (
            not isinstance(analyzer, Analyzer)
            or analyzer.model is not model
            or analyzer.through_norms != plan.through_norms
            or analyzer.inside_heads != (plan.kind == "structure")
        ):
            states = plan.options.get("shrink_states")
            analyzer = analyze(
                model,
                states=states,
                through_norms=plan.through_norms,
                inside_heads=plan.kind == "structure",
            )
        stats: dict[str, Any]
        if plan.kind == "mask":
            stats = apply_masks(analyzer, plan)
            return PassResult(model, bool(stats["zeroed"]), stats)
        removed = removed_from(analyzer, plan)
        surgery = Surgery(analyzer, removed)
        if self.mask_only:
            surgery.mask()
        else:
            surgery.shrink()
        context.facts.pop("analysis", None)  # it speaks of the model as it was
        return PassResult(model, bool(removed.any()), {"units": int(removed.sum())})


def _masked_piece(
    masks: Masks, name: str, start: int, values: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return a run of a flat weight with zeros where its mask has them."""
    return select(masks.part(name, start, start + values.size), values)


def apply_masks(analyzer: Analyzer, plan: PrunePlan) -> dict[str, Any]:
    """Write zeros where the plan's masks are False.

    Raises:
        UsageError: the plan does not fit the model.
    """
    layers = {layer.value.name or "": layer for layer in find_layers(analyzer)}
    zeroed = 0
    for name in plan.masks:
        layer = layers.get(name)
        plan.check_shape(name, None if layer is None else layer.shape)
        assert layer is not None
        if layer.stored.fault:
            raise UsageError(f"the plan zeroes weights of {name!r}, but {layer.stored.fault}")
        if io.stays_out(layer.tensor) and not layer.stored.quantised:
            gone = plan.masks.size(name) - plan.masks.kept(name)
            zeroed += gone
            hollow = plan.masks.hollow.get(name)
            piece = partial(_masked_piece, plan.masks, name)
            zeros = None if hollow is None else gone + hollow
            set_constant(layer.value, io.DerivedTensor(layer.tensor, piece, zeros))
            continue
        mask = plan.masks[name]
        zeroed += int(np.count_nonzero(~layer.stored.is_zero() > mask))
        set_constant(layer.value, io.derived(layer.tensor, partial(layer.stored.masked, mask)))
    return {"zeroed": zeroed, "tensors": len(plan.masks)}
