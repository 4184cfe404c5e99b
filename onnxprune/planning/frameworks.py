"""A plan in the words of a training framework: which indices of which parameter stay."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.planning.plan import PrunePlan

FRAMEWORKS = ("torch",)
VERSION = 1
Array = np.ndarray[Any, Any]


def digest(array: Array) -> str:
    """Return a hash of an array's bytes, row by row: how a parameter is known by its values."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def parameters(
    plan: PrunePlan, framework: str, weights: Mapping[str, Array] | None = None
) -> dict[str, Any]:
    """Return JSON-ready data: every tensor of the plan with what it keeps.

    Args:
        plan: of kind ``structure`` or ``mask``.
        framework: one of :data:`FRAMEWORKS`.
        weights: the dense tensors by name. Exporters rename and transpose weights; with these the
            framework can find a parameter by its values.
    """
    tensors: dict[str, Any] = {}
    for name in (*plan.kept, *plan.masks):
        # A vector that several nodes use, each in its own way, is told apart by its user.
        base, _, use = name.partition("@")
        entry: dict[str, Any] = {"shape": plan.shapes[name]}
        if use and base in plan.kept:
            entry["name"], entry["use"] = base, use
        if name in plan.kept:
            kept = plan.kept[name]
            entry["kept"] = kept
            entry["pruned_shape"] = [
                n if k is None else len(k) for n, k in zip(plan.shapes[name], kept, strict=True)
            ]
        else:
            packed = zlib.compress(np.packbits(plan.masks[name].reshape(-1)).tobytes(), 1)
            entry["mask"] = base64.b64encode(packed).decode("ascii")
        array = None if weights is None else weights.get(base if use else name)
        if array is not None and list(array.shape) == plan.shapes[name]:
            entry["digest"] = digest(array)
            if array.ndim == 2:
                entry["digest_transposed"] = digest(array.T)
        tensors[name] = entry
    return {
        "onnxprune_export": VERSION,
        "framework": framework,
        "kind": plan.kind,
        "parameters": tensors,
    }
