"""All networks that the runtime is measured and checked on, by name, with ways to prune each.

ResNet-50, MobileNetV2 and BERT (``networks.py``), the nine graphs of the onnx package with weights
(``light.py``), and, where there is a folder of trained networks, every ``*.onnx`` in it. The folder
is ``../shared/data`` beside the repository unless ``ONNXPRUNE_DATA`` names another.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent))

import light
import networks

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ONNXPRUNE_DATA", ROOT.parent / "shared" / "data"))

#: Every way of pruning that the runtime is held to, from dense to nothing left.
KINDS = ("u0", "u50", "u70", "u80", "u90", "u95", "u99", "u100", "2:4", "1:4", "b4x1_90")


def sources(only: str = "") -> dict[str, Callable[[], onnx.ModelProto]]:
    """Loaders by name for which ``only`` (a regular expression) is found in the name."""
    found: dict[str, Callable[[], onnx.ModelProto]] = {
        "mobilenet_v2": networks.mobilenet_v2,
        "resnet50": networks.resnet50,
        "bert": networks.bert,
        "llama": networks.llama,
        "llama_step": networks.llama_step,
    }
    for path in sorted(DATA.rglob("*.onnx")):
        where = path.parent.name if path.stem == "model" else f"{path.parent.name}/{path.stem}"
        found[where] = lambda path=path: _named_constants(onnx.load(path))  # type: ignore[misc]
    for name in sorted(light.NAMES, key=lambda n: (n == "vgg19", n)):
        found[f"light_{name}"] = lambda name=name: light.materialise(name)  # type: ignore[misc]
    return {name: load for name, load in found.items() if re.search(only, name)}


def pruned(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """A copy with every weight of Conv, Gemm and MatMul pruned, the first one too if it is u100."""
    if kind == "u0":
        kind = "dense"
    return networks.prune(model, kind, skip_first=kind != "u100", skip_depthwise=kind != "u100")


def _named_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make initializers of Constant nodes, which is where some exporters keep weights."""
    graph = model.graph
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain and node.attribute[0].name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    return model


def show_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make what a closing Softmax reads an output as well: behind a softmax little shows."""
    graph = model.graph
    outputs = {v.name for v in graph.output}
    for node in list(graph.node):
        if node.op_type == "Softmax" and node.output[0] in outputs and node.input[0] not in outputs:
            info = helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None)
            graph.output.append(info)
    return model


def show_quantised(model: onnx.ModelProto) -> list[str]:
    """Make every quantised value inside an output as well; their names in graph order."""
    graph = model.graph
    types = {t.name: t.data_type for t in graph.initializer}
    outputs = {v.name for v in graph.output}
    names = []
    for node in graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        names.append(node.output[0])
        if node.output[0] not in outputs:
            kind = types[node.input[2]] if len(node.input) > 2 else onnx.TensorProto.UINT8
            graph.output.append(helper.make_tensor_value_info(node.output[0], kind, None))
    return names


def reduction(model: onnx.ModelProto) -> int:
    """The longest sum in the network: the most weights that one output of a layer reads."""
    sizes = {t.name: list(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    longest = 1
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            continue
        dims = sizes.get(node.input[1], [])
        if len(dims) < 2:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        length = int(np.prod(dims[1:])) if node.op_type == "Conv" else dims[-1 if transposed else 0]
        longest = max(longest, length)
    return longest


def sparsity(model: onnx.ModelProto) -> float:
    """Fraction of zeros among the weights of two and more axes."""
    zeros = total = 0
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            array: Any = numpy_helper.to_array(tensor)
            zeros += int(array.size - np.count_nonzero(array))
            total += int(array.size)
    return zeros / max(total, 1)


def variants(
    only: str = "", kinds: tuple[str, ...] = KINDS
) -> Iterator[tuple[str, str, onnx.ModelProto]]:
    """Yield (network, kind, pruned model), one at a time; VGG-19, the largest, comes last."""
    for name, load in sources(only).items():
        dense = load()
        for kind in kinds:
            yield name, kind, pruned(dense, kind)


def saved(folder: Path, only: str = "") -> Iterator[tuple[str, str, onnx.ModelProto]]:
    """Yield what files ``NAME.KIND.onnx`` below ``folder`` hold, the smallest first.

    ``only``: a regular expression found in names. Any pruned files will do, whoever pruned them.
    """
    for path in sorted(folder.rglob("*.onnx"), key=lambda p: p.stat().st_size):
        name, _, kind = path.stem.rpartition(".")
        if re.search(only, name or kind):
            kind = kind.replace("of", ":") if name else "as it is"
            yield name or path.stem, kind, _named_constants(onnx.load(path))
