"""What a model consists of, and what of it can be pruned."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.criteria import parse_criterion
from onnxprune.passes.base import Context
from onnxprune.passes.fold_constants import FoldConstants
from onnxprune.passes.inline_functions import InlineFunctions
from onnxprune.patterns import parse_pattern
from onnxprune.patterns.base import PATTERNS, Pattern
from onnxprune.planning.cost import CostModel
from onnxprune.planning.layers import Layer, find_layers
from onnxprune.planning.structure import ScoredGroup, score_groups
from onnxprune.report.facts import by_reason, frozen_units, unit_labels
from onnxprune.rules.analysis import Analyzer, analyze


def inspect_model(loaded: io.Loaded, through_norms: bool = False) -> dict[str, Any]:
    """Describe ``loaded``, whose model is used up; ``through_norms``: these hold nothing.

    Returns:
        JSON-ready data; every key is described in ``docs/report.md``.
    """
    model = loaded.model
    facts = _file_facts(loaded)
    bad = io.nonfinite_weights(model)
    InlineFunctions().run(model, Context())
    FoldConstants().run(model, Context())
    analyzer = analyze(model, through_norms=through_norms, inside_heads=True)
    cost = CostModel(analyzer)
    layers = find_layers(analyzer)
    units, frozen = frozen_units(analyzer)
    units.pop("labels")
    units["prunable"] = units["total"] - units["frozen"]
    units.pop("removed")
    scored, _ = score_groups(analyzer, parse_criterion("l1"), 0)
    rows = _layer_rows(analyzer, layers, scored)
    zeros = sum(row["zeros"] for row in rows)
    weights = sum(row["weights"] for row in rows)
    return facts | {
        "params": cost.params(),
        "macs": cost.macs(),
        "sparsity": zeros / weights if weights else 0.0,
        "units": units,
        "layers": rows,
        "groups": [_group_row(s, layers) for s in scored],
        "frozen": frozen,
        "frozen_by": by_reason(frozen),
        "unsupported": dict(sorted(analyzer.unsupported.items())),
        "nonfinite": bad,
    }


def _file_facts(loaded: io.Loaded) -> dict[str, Any]:
    model = loaded.model
    files = loaded.origin.files
    values = [*model.graph.inputs, *model.graph.outputs]
    inner = model.graph.all_nodes()
    return {
        "producer": " ".join(x for x in (model.producer_name, model.producer_version) if x),
        "ir_version": model.ir_version,
        "opsets": {domain or "ai.onnx": v for domain, v in model.graph.opset_imports.items()},
        "bytes": sum(f.stat().st_size for f in files) if files else io.stored_size(loaded),
        "external_data": [f.name for f in files if f != loaded.path],
        "inputs": [_face(v) for v in model.graph.inputs if not v.is_initializer()],
        "outputs": [_face(v) for v in model.graph.outputs],
        "dynamic_dims": sorted({d for v in values for d in _dims(v) or () if isinstance(d, str)}),
        "operators": dict(sorted(Counter(_op(node) for node in inner).items())),
        "functions": len(model.functions),
    }


def _op(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _face(value: ir.Value) -> dict[str, Any]:
    return {"name": value.name, "type": str(value.type or "?"), "shape": _dims(value)}


def _dims(value: ir.Value) -> list[int | str | None] | None:
    if value.shape is None:
        return None
    dims = [d if isinstance(d, int) else d.value for d in value.shape]
    # Inference calls sizes that nobody named unk__0, unk__1 ...
    return [None if isinstance(d, str) and d.startswith("unk__") else d for d in dims]


def _layer_rows(
    analyzer: Analyzer, layers: list[Layer], scored: list[ScoredGroup]
) -> list[dict[str, Any]]:
    groups_of: dict[str, list[str]] = {}
    for s in scored:
        for name in dict.fromkeys(s.layers):
            groups_of.setdefault(name, []).append(s.name)
    made = unit_labels(analyzer)
    held = analyzer.partition.frozen
    examples = _examples()
    rows = []
    for layer in layers:
        filled = ~layer.stored.is_zero()
        zeros = filled.size - int(np.count_nonzero(filled))
        labels = made.get(layer.name)
        rows.append(
            {
                "name": layer.name,
                "op": _op(layer.node),
                "weight": layer.value.name or "",
                "weight_shape": list(filled.shape),
                "output_shape": _dims(layer.node.outputs[0]),
                "params": _params(analyzer, layer),
                "macs": layer.macs,
                "weights": filled.size,
                "zeros": zeros,
                "sparsity": zeros / filled.size,
                "groups": groups_of.get(layer.name, []),
                "units": 0 if labels is None else len(labels),
                "frozen": 0 if labels is None else int(held[labels].sum()),
                "fits": [p.text for p in examples if p.misfit(layer.view_shape) is None],
                "follows": [p.text for p in examples if zeros and _follows(p, layer, filled)],
            }
        )
    return rows


def _params(analyzer: Analyzer, layer: Layer) -> int:
    """Return the number of weights of a layer and of the constants its node adds."""
    others = {v for v in layer.node.inputs if v is not None and v is not layer.value}
    tensors = (analyzer.tensor(v) for v in others if not v.shape or len(v.shape) == 1)
    biases = [t for t in tensors if t is not None and t.dtype == layer.tensor.dtype]
    return layer.size + sum(int(t.size) for t in biases)


def _examples() -> list[Pattern]:
    """Return the patterns worth telling about: the first two examples of each that zero weights."""
    texts = [t for _, m in PATTERNS.items() if not m.structural for t in m.examples[:2]]
    return [p for p in map(parse_pattern, texts) if p.text != "element"]


def _follows(pattern: Pattern, layer: Layer, nonzero: np.ndarray[Any, Any]) -> bool:
    """Return whether the zeros of a weight are those of a pattern."""
    if pattern.misfit(layer.view_shape) is not None:
        return False
    filled = layer.view(nonzero)
    saliency = filled.astype(np.float32)
    if pattern.fixed_density is not None:
        return not bool((filled & ~pattern.mask(saliency)).any())
    units = pattern.unit_scores(saliency) > 0
    kept = pattern.mask_from_units(units, layer.view_shape)
    return not units.all() and not bool(kept[~filled].any())


def _group_row(scored: ScoredGroup, layers: list[Layer]) -> dict[str, Any]:
    touched = {span.tensor for span in scored.group.spans}
    readers = [x.name for x in layers if x.value.name in touched and x.name not in scored.layers]
    return {
        "name": scored.name,
        "kind": scored.kind,
        "units": len(scored.group),
        "layers": list(scored.layers),
        "consumers": readers,
        "tensors": len(touched),
    }
