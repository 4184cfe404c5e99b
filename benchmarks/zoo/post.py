"""Rewrites of an exported file that imitate other writers of ONNX.

Names, as used in `Case.post`:

* `ort`: onnxruntime's graph optimizer at EXTENDED level (FusedConv, fused Gelu ...);
* `ort-bert`, `ort-gpt2`: its transformer optimizer (Attention, EmbedLayerNormalization ...);
* `keras`: node and weight names in the style of tf2onnx, output `Identity:0`;
* `constants`: initializers become Constant nodes;
* `nameless`: node names removed, as some writers leave them;
* `simplify-shapes`: onnxruntime at BASIC level (folds constants, keeps to ai.onnx operators).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

_OPS = {
    "Conv": "Conv2D",
    "ConvTranspose": "Conv2DTranspose",
    "MatMul": "MatMul",
    "Gemm": "MatMul",
    "Add": "add",
    "Mul": "mul",
    "Relu": "Relu",
    "BatchNormalization": "FusedBatchNormV3",
    "Concat": "concat",
    "MaxPool": "MaxPool",
    "AveragePool": "AvgPool",
    "Clip": "Relu6",
}


def _ort(path: Path, level: str) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    done = path.with_suffix(".opt.onnx")
    options.optimized_model_filepath = str(done)
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    done.replace(path)


def ort_extended(path: Path) -> None:
    """Replace the file by what onnxruntime saves at EXTENDED level for its CPU provider."""
    _ort(path, "ORT_ENABLE_EXTENDED")


def ort_basic(path: Path) -> None:
    """Replace the file by what onnxruntime saves at BASIC level."""
    _ort(path, "ORT_ENABLE_BASIC")


def ort_transformer(path: Path, model_type: str) -> None:
    from onnxruntime.transformers import optimizer

    # Every language model of the zoo has four heads and width 64.
    optimized = optimizer.optimize_model(
        str(path), model_type=model_type, num_heads=4, hidden_size=64, opt_level=0
    )
    optimized.save_model_to_file(str(path))


def keras_names(path: Path) -> None:
    """Rename nodes, values and weights the way tf2onnx names what Keras wrote."""
    model = onnx.load(path)
    graph = model.graph
    names: dict[str, str] = {}
    weights = {initializer.name for initializer in graph.initializer}
    counts: dict[str, int] = {}
    for node in graph.node:
        kind = _OPS.get(node.op_type, node.op_type)
        index = counts.get(kind, 0)
        counts[kind] = index + 1
        stem = f"StatefulPartitionedCall/model/{kind.lower()}_{index}/{kind}"
        node.name = stem
        for position, name in enumerate(node.input):
            if name in weights and name not in names:
                names[name] = f"{stem}/ReadVariableOp:{position - 1}"
        for position, name in enumerate(node.output):
            if name:
                names.setdefault(name, f"{stem}:{position}")
    for position, value in enumerate(graph.output):
        names[value.name] = "Identity:0" if position == 0 else f"Identity_{position}:0"
        value.name = names[value.name]
    del graph.value_info[:]
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    model.producer_name = "tf2onnx-style"
    onnx.save(model, path)


def constants(path: Path) -> None:
    """Turn every initializer into a Constant node at the top of the graph."""
    model = onnx.load(path)
    nodes = [
        onnx.helper.make_node("Constant", [], [tensor.name], name=f"const_{i}", value=tensor)
        for i, tensor in enumerate(model.graph.initializer)
    ]
    rest = list(model.graph.node)
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    onnx.save(model, path)


def nameless(path: Path) -> None:
    """Drop node names and value_info."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    del model.graph.value_info[:]
    onnx.save(model, path)


POST: dict[str, Callable[[Path], None]] = {
    "ort": ort_extended,
    "simplify-shapes": ort_basic,
    "ort-bert": lambda path: ort_transformer(path, "bert"),
    "ort-gpt2": lambda path: ort_transformer(path, "gpt2"),
    "keras": keras_names,
    "constants": constants,
    "nameless": nameless,
}
