"""New weights and biases put into a model."""

from __future__ import annotations

import numpy as np

from onnxprune.passes.shrink import set_constant
from onnxprune.planning import find_layers
from onnxprune.planning.layers import Layer
from onnxprune.recovery.apply import Recovered
from onnxprune.rules.analysis import Analyzer
from onnxprune.rules.rewriter import Constants


def apply_recovered(analyzer: Analyzer, recovered: Recovered) -> dict[str, Layer]:
    """Write the new weights and biases into the analyzed model.

    Returns:
        Names of biases that did not exist before, with the layer they were added to.
    """
    layers = {layer.value.name or "": layer for layer in find_layers(analyzer)}
    constants = Constants(analyzer.graph)
    created: dict[str, Layer] = {}
    for site, vector in recovered.biases:
        node, index = site.node, site.index
        old = node.inputs[index] if index < len(node.inputs) else None
        like = next((x.tensor for x in layers.values() if x.node is node), None)
        tensor = analyzer.tensor(old) if old is not None else like
        dtype = np.float32 if tensor is None else np.asarray(tensor.numpy()).dtype
        array = vector.astype(dtype)
        if old is not None:
            constants.replace(node, index, array)
            continue
        base = f"{node.name or node.outputs[0].name}_bias"
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        bias = constants.add(base, array)
        node.replace_input_with(index, bias)
        owner = next((x for x in layers.values() if x.node is node), None)
        if owner is not None:
            created[bias.name or ""] = owner
    for name, array in recovered.weights.items():
        set_constant(layers[name].value, array)
    return created
