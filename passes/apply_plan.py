"""Execute a plan: delete coordinates, or write zeros."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.axes import Bools
from onnxprune.errors import UsageError
from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.passes.shrink import Surgery, set_constant
from onnxprune.planning import PrunePlan, find_layers
from onnxprune.planning.structure import removed_from
from onnxprune.rules.analysis import Analyzer, analyze


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
        ):
            states = plan.options.get("shrink_states")
            analyzer = analyze(model, states=states, through_norms=plan.through_norms)
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


def with_zeros(mask: Bools, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy of ``array`` with zeros where ``mask`` is False."""
    # Bits of 0 or -1 let a value pass or not. Choosing with a mask that is as good as random costs
    # a processor more than ten times as much.
    bits = np.dtype(f"i{array.dtype.itemsize}")
    chosen = np.negative(mask.view(np.int8)).astype(bits)
    chosen &= np.ascontiguousarray(array).view(bits)
    return chosen.view(array.dtype)


def apply_masks(analyzer: Analyzer, plan: PrunePlan) -> dict[str, Any]:
    """Write zeros where the plan's masks are False.

    Raises:
        UsageError: the plan does not fit the model.
    """
    values = {layer.value.name or "": layer.value for layer in find_layers(analyzer)}
    zeroed = 0
    for name, mask in plan.masks.items():
        value = values.get(name)
        tensor = None if value is None else analyzer.tensor(value)
        plan.check_shape(name, None if tensor is None else tensor.shape.numpy())
        assert value is not None and tensor is not None
        held = np.asarray(tensor.numpy())
        zeroed += int(np.count_nonzero((held != 0) > mask))
        set_constant(value, io.derived(tensor, partial(with_zeros, mask)))
    return {"zeroed": zeroed, "tensors": len(plan.masks)}
