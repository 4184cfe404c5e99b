"""Is a pruned file right? Judged from the files alone, with onnx, onnxruntime and numpy.

Nothing of onnxprune is imported here: the judge counts parameters, compares interfaces, runs files
and compares weights itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the bodies inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Every dense constant of the model by value name: initializers and Constant nodes."""
    found: dict[str, onnx.TensorProto] = {}
    for graph in graphs(model.graph):
        found.update((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def parameters(model: onnx.ModelProto) -> dict[str, int]:
    """Float weights: "all", and of these "embedding" and "looked_up".

    ``looked_up`` are tables that a Gather (or EmbedLayerNormalization) reads at computed indices.
    ``embedding`` adds two forms that exporters give such tables: a copy of one, turned round for
    the output matrix that is tied to it, and a table of positions that is added to the stream.
    """
    held = tensors(model)
    weights = {
        name: int(np.prod(tensor.dims, dtype=np.int64))
        for name, tensor in held.items()
        if tensor.data_type in _FLOATS
    }
    constants = set(held)
    tables = {
        node.input[0]
        for graph in graphs(model.graph)
        for node in graph.node
        if node.op_type == "Gather" and node.input[1] not in constants
    }
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type == "EmbedLayerNormalization":
                tables.update(name for name in node.input[2:5] if name)
    looked_up = sum(size for name, size in weights.items() if name in tables)
    turned = {numpy_helper.to_array(held[name]).T.tobytes() for name in tables if name in weights}
    sizes = {weights[name] for name in tables if name in weights}
    other = {
        name
        for name, size in weights.items()
        if size in sizes
        and len(held[name].dims) == 2
        and name not in tables
        and numpy_helper.to_array(held[name]).tobytes() in turned
    }
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type == "Add":
                other.update(n for n in node.input if n in weights and _places(held[n].dims))
    embedding = looked_up + sum(weights[name] for name in other - tables)
    return {"all": sum(weights.values()), "embedding": embedding, "looked_up": looked_up}


def _places(dims: Sequence[int]) -> bool:
    """Return whether an added constant has a row for every position: [1, T, D] or [T, D]."""
    return len(dims) in (2, 3) and min(dims[-2:]) > 1 and all(d == 1 for d in dims[:-2])


def _values(values: Any, own: set[str]) -> dict[str, tuple[int, list[int | str]]]:
    result = {}
    for value in values:
        if value.name in own:
            continue
        tensor = value.type.tensor_type
        dims: list[int | str] = [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param
            for dim in tensor.shape.dim
        ]
        result[value.name] = (tensor.elem_type, dims)
    return result


def interface_differences(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """What changed in names, order, types or declared dims of inputs and outputs; empty if nothing.

    Initializers that are also graph inputs are no part of it.
    """
    own = {tensor.name for model in (before, after) for tensor in model.graph.initializer}
    found: list[str] = []
    for kind in ("input", "output"):
        old = _values(getattr(before.graph, kind), own)
        new = _values(getattr(after.graph, kind), own)
        if list(old) != list(new):
            found.append(f"{kind}s {list(old)} became {list(new)}")
            continue
        found += [
            f"{kind} {name} {old[name]} became {new[name]}"
            for name in old
            if old[name] != new[name]
        ]
    return found


def full_check(path: Path) -> str:
    """What the checker with full_check says against the file, or "" when it is content."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        return " ".join(str(error).split())[:300]
    return ""


def run(path: Path, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Outputs of the file in onnxruntime, one thread, basic optimisation only."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[Any]] = session.run(None, dict(feeds))
    return outputs


def mask_violations(
    dense: onnx.ModelProto, masked: onnx.ModelProto, plan: Mapping[str, Any]
) -> list[str]:
    """Ways in which `masked` is more than `dense` with removed coordinates zeroed.

    Inside the box of kept indices every weight must be the dense one; outside it must be the dense
    one or zero. Tensors of the plan that the files do not have under that name are left out.
    """
    old, new = tensors(dense), tensors(masked)
    found: list[str] = []
    for name, entry in plan.get("tensors", {}).items():
        if name not in old or name not in new or "kept" not in entry:
            continue
        a, b = numpy_helper.to_array(old[name]), numpy_helper.to_array(new[name])
        if a.shape != b.shape:
            found.append(f"{name}: shape {a.shape} became {b.shape}")
            continue
        inside = np.ix_(
            *(range(n) if k is None else k for k, n in zip(entry["kept"], a.shape, strict=True))
        )
        if a.ndim and not np.array_equal(a[inside], b[inside], equal_nan=True):
            found.append(f"{name}: a kept weight changed")
        elif not ((a == b) | (b == 0)).all():
            found.append(f"{name}: a removed weight is neither zero nor as it was")
    return found


def shrink_violations(
    dense: onnx.ModelProto, shrunk: onnx.ModelProto, plan: Mapping[str, Any]
) -> list[str]:
    """Tensors of the plan whose shrunk values are not the dense ones at the kept indices."""
    old, new = tensors(dense), tensors(shrunk)
    found: list[str] = []
    for name, entry in plan.get("tensors", {}).items():
        if name not in old or name not in new or "kept" not in entry:
            continue
        a, b = numpy_helper.to_array(old[name]), numpy_helper.to_array(new[name])
        if not a.ndim:
            continue
        inside = np.ix_(
            *(range(n) if k is None else k for k, n in zip(entry["kept"], a.shape, strict=True))
        )
        if a[inside].shape != b.shape or not np.array_equal(a[inside], b, equal_nan=True):
            found.append(f"{name}: {list(a.shape)} became {list(b.shape)}, not the kept part of it")
    return found
