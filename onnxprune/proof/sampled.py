"""Masks of models that are too large to be run as a whole: checked in samples, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from onnxprune.errors import ProofError
from onnxprune.io import DerivedTensor
from onnxprune.planning import Layer, PrunePlan
from onnxprune.planning.bits import Masks
from onnxprune.proof.equivalence import open_session
from onnxprune.rules.analysis import Analyzer

TOO_LARGE = 1 << 31
"""Bytes of weights from which the whole model is not run to prove a mask."""
LAYERS = 6
PIECES = 4
_WEIGHTS = 1 << 24  # of a layer that is run alone, at most, if there are smaller ones


def follows(masks: Masks, name: str, layer: Layer) -> bool:
    """Return whether a weight is what it was, or zero where the mask says so.

    Of a weight that is computed whenever it is read, a few pieces are looked at.
    """
    found = ir.convenience.get_const_tensor(layer.value)
    if found is None or tuple(found.shape.numpy()) != tuple(layer.tensor.shape.numpy()):
        return False
    if not isinstance(found, DerivedTensor):
        old, new, mask = layer.stored.plain(), layer.stored.plain(found), masks[name]
        return not (((new != old) & mask).any() or (~layer.stored.is_zero(found) > mask).any())
    flat = np.asarray(layer.tensor.numpy()).reshape(-1)
    step = 1 << 16
    for start in np.unique(np.linspace(0, max(flat.size - step, 0), PIECES).astype(int)):
        first = int(start) // 8 * 8
        old = flat[first : first + step]
        new, mask = found.piece(first, old), masks.part(name, first, first + old.size)
        if ((new != old) & mask).any() or ((new != 0) > mask).any():
            return False
    return True


def prove_layers(
    analyzer: Analyzer, plan: PrunePlan, layers: Mapping[str, Layer]
) -> dict[str, Any]:
    """Run some layers alone, with the weight as it will be written and with the mask laid by hand.

    Returns:
        The proof as plain data; ``kind`` says how many layers were run.

    Raises:
        ProofError: a layer does not compute what its masked weight should give.
    """
    usable = [name for name in plan.masks if _index(layers[name]) is not None]
    small = [name for name in usable if layers[name].size <= _WEIGHTS]
    some = small or sorted(usable, key=lambda name: layers[name].size)[:1]
    places = np.unique(np.linspace(0, max(len(some) - 1, 0), LAYERS).astype(int))
    values: dict[str, float] = {}
    refused = ""
    for name in [some[i] for i in places] if some else []:
        layer = layers[name]
        try:
            values[layer.name] = _run(analyzer, plan, layer)
        except ProofError as error:
            refused = str(error)
    worst = max(values.values(), default=0.0)
    if worst > 0:
        raise ProofError(f"layers do not follow their masks: {values}; nothing was written")
    kind = (
        f"the model is too large to be run here as a whole: {len(values)} of {len(plan.masks)} "
        "masked layers were run alone, and samples of every weight are its old values or zeros "
        "of the mask"
    )
    return {
        "passed": True,
        "max_rel_error": worst,
        "limit": 0.0,
        "kind": kind + (f"; onnxruntime refused others: {refused}" if refused else ""),
        "values": values,
        "samples": len(values),
    }


def _index(layer: Layer) -> int | None:
    """Return which input of the node is the weight itself."""
    found = [i for i, v in enumerate(layer.node.inputs) if v is layer.value]
    return found[0] if len(found) == 1 and len(layer.node.outputs) == 1 else None


def _run(analyzer: Analyzer, plan: PrunePlan, layer: Layer) -> float:
    """Return the largest difference between a layer with its new weight and one masked by hand."""
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    names: list[str] = []
    for index, value in enumerate(layer.node.inputs):
        names.append("" if value is None else f"x{index}")
        if value is None:
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            feeds[f"x{index}"] = np.asarray(tensor.numpy())
            continue
        dims = analyzer.dims(value)
        if dims is None or value.dtype is None:
            raise ProofError(f"the input of {layer.name} has no known shape")
        shape = [d if isinstance(d, int) else 1 for d in dims]
        feeds[f"x{index}"] = rng.standard_normal(shape).astype(value.dtype.numpy())
    proto = ir.to_proto(layer.node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("y")
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
        )
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([proto], "layer", inputs, [helper.make_empty_tensor_value_info("y")])
    opsets = [helper.make_opsetid(d, v) for d, v in analyzer.graph.opset_imports.items()]
    version = min(analyzer.model.ir_version or 8, onnx.IR_VERSION)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
    model = onnx.shape_inference.infer_shapes(model)
    session = open_session(model.SerializeToString())
    name = layer.value.name or ""
    weight = f"x{_index(layer)}"
    try:
        (have,) = session.run(None, feeds)
        by_hand = np.array(layer.tensor.numpy())
        by_hand[~plan.masks[name]] = 0
        (want,) = session.run(None, {**feeds, weight: by_hand})
    except Exception as error:  # onnxruntime raises its own types, one per status code
        raise ProofError(f"{layer.name}: {' '.join(str(error).split())[:200]}") from error
    return float(np.abs(np.asarray(have, np.float64) - np.asarray(want, np.float64)).max())
