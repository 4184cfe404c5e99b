"""The nine full-size classification graphs that ship inside the onnx package, with weights.

onnx keeps them small ("light") by computing their weights with ConstantOfShape nodes. Here every
weight becomes a seeded random initializer: He-normal convolutions and matrices, random biases, and
batch-norm scales, offsets and statistics under which a wrong channel shows. Running statistics are
measured on a random image first and perturbed afterwards, so that activations stay of order one.

    python benchmarks/light.py --out .cache/light [--only RE] [--overridable]
"""

from __future__ import annotations

import argparse
import re
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]

#: Short names of the graphs.
NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def light_path(name: str) -> Path:
    """Path of the weightless graph inside the installed onnx package; ValueError if unknown."""
    if name not in NAMES:
        raise ValueError(f"no light graph is called {name!r}; there are {', '.join(NAMES)}")
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"


def materialise(name: str, *, seed: int = 0, overridable: bool = False) -> onnx.ModelProto:
    """Return the light graph `name` with float32 initializers instead of ConstantOfShape nodes.

    seed: of the weights; the same seed gives the same bytes. overridable: keep every initializer
    also as a graph input, as IR version 3 demands and these files originally were; otherwise the
    IR version becomes 8 and only the image remains an input. Raises ValueError for an unknown name.
    """
    model = onnx.load(light_path(name))
    weights = _take_weights(model)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    for key, role in _roles(model.graph, weights).items():
        weights[key] = _draw(rng, role, weights[key].shape)
    _set_weights(model, weights)
    _interface(model, weights, overridable=False)
    _calibrate(model, rng)
    if overridable:
        _interface(model, weights, overridable=True)
    onnx.checker.check_model(model)
    return model


def _take_weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Remove ConstantOfShape nodes and float initializers; return them as arrays by name."""
    graph = model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    weights = {name: a for name, a in constants.items() if a.dtype == np.float32}
    shapes: set[str] = set()
    kept = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = constants[node.input[0]]
            shapes.add(node.input[0])
            weights[node.output[0]] = np.zeros(shape.tolist(), np.float32)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    integers = [i for i in graph.initializer if i.name not in weights and i.name in used]
    weights = {name: array for name, array in weights.items() if name in used}
    del graph.initializer[:]
    graph.initializer.extend(integers)
    return weights


def _roles(graph: onnx.GraphProto, weights: dict[str, Array]) -> dict[str, str]:
    """What each weight is for: kernel, matrix, matrix_t (Gemm transB), bias, scale, mean, var."""
    roles: dict[str, str] = {}
    renamed: dict[str, str] = {}  # Caffe Scale layers unsqueeze, inception_v1 reshapes its weight
    for node in graph.node:
        if node.op_type in ("Unsqueeze", "Reshape") and node.input[0] in weights:
            renamed[node.output[0]] = node.input[0]
            continue
        inputs = [renamed.get(name, name) for name in node.input]
        names: tuple[str, ...]
        if node.op_type == "BatchNormalization":
            names = ("", "scale", "bias", "mean", "var")
        elif node.op_type in ("Conv", "Gemm"):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            matrix = "matrix_t" if transposed else "matrix"
            names = ("", "kernel" if node.op_type == "Conv" else matrix, "bias")
        elif node.op_type in ("Mul", "Add"):
            role = "scale" if node.op_type == "Mul" else "bias"
            names = (role, role)
        else:
            continue
        for name, role in zip(inputs, names, strict=False):
            if name in weights and role:
                roles[name] = role
    return roles


def _draw(rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> Array:
    if role == "bias":
        values = 0.2 * rng.standard_normal(shape)
    elif role == "scale":
        values = rng.uniform(0.5, 1.5, shape) * rng.choice((-1.0, 1.0), shape)
    elif role == "mean":
        values = 0.3 * rng.standard_normal(shape)
    elif role == "var":
        values = rng.uniform(0.5, 1.5, shape)
    else:
        fan_in = {"matrix": shape[-2:][0], "matrix_t": shape[-1]}.get(role) or np.prod(shape[1:])
        drawn: Array = rng.standard_normal(shape, np.float32)
        drawn *= np.float32(np.sqrt(2.0 / fan_in))
        return drawn
    return values.astype(np.float32)


def _set_weights(model: onnx.ModelProto, weights: dict[str, Array]) -> None:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model.graph.initializer.extend(tensors)


def _interface(model: onnx.ModelProto, weights: Iterable[str], *, overridable: bool) -> None:
    """Make weights graph inputs (IR 3) or plain initializers (IR 8)."""
    graph = model.graph
    own = {item.name for item in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    images = [v for v in graph.input if v.name not in own and v.name in read]
    del graph.input[:]
    graph.input.extend(images)
    if overridable:
        graph.input.extend(
            helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
            for item in graph.initializer
        )
    model.ir_version = 3 if overridable else 8


def _calibrate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Measure every batch norm's input statistics in one pass, perturb them, tame the logits.

    With one image, batch norm in training mode is instance norm, so a copy of the graph with
    InstanceNormalization in its place yields all statistics consistently at once.
    """
    graph = model.graph
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    extra: list[onnx.NodeProto] = []
    wanted: list[str] = []
    for node in probe.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        node.op_type = "InstanceNormalization"
        del node.input[3:], node.output[1:], node.attribute[:]
        source, stem = node.input[0], node.output[0]
        extra += [
            helper.make_node("ReduceMean", [source], [f"{stem}/m"], axes=[0, 2, 3], keepdims=0),
            helper.make_node("Mul", [source, source], [f"{stem}/sq"]),
            helper.make_node(
                "ReduceMean", [f"{stem}/sq"], [f"{stem}/s"], axes=[0, 2, 3], keepdims=0
            ),
        ]
        wanted += [f"{stem}/m", f"{stem}/s"]
    probe.graph.node.extend(extra)
    feeds = {graph.input[0].name: rng.standard_normal(_shape(graph.input[0])).astype(np.float32)}
    values = _run(probe, wanted, feeds) if wanted else {}
    tensors = {item.name: item for item in graph.initializer}
    for node in norms:
        mean, square = values[f"{node.output[0]}/m"], values[f"{node.output[0]}/s"]
        std = np.sqrt(np.maximum(square - mean**2, 1e-3))
        mean = mean + 0.3 * std * rng.standard_normal(mean.shape)
        var = std**2 * rng.uniform(0.7, 1.6, mean.shape)
        for name, array in ((node.input[3], mean), (node.input[4], var)):
            tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    _tame(model, tensors, feeds)


def _tame(
    model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto], feeds: dict[str, Array]
) -> None:
    """Scale the last layer so that its outputs have standard deviation 2 (softmax stays soft)."""
    nodes = model.graph.node
    last = [node for node in nodes if node.op_type in ("Conv", "Gemm")][-1]
    std = float(_run(model, [last.output[0]], feeds)[last.output[0]].std())
    behind = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Reshape"}
    for name in (behind.get(name, name) for name in last.input[1:]):
        array = numpy_helper.to_array(tensors[name]) * np.float32(2.0 / max(std, 1e-6))
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _run(model: onnx.ModelProto, names: list[str], feeds: dict[str, Array]) -> dict[str, Array]:
    """Values of inner tensors `names`, computed by onnxruntime with no optimisation."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, feeds), strict=True))


def write_all(
    out: Path, *, only: str = "", seed: int = 0, overridable: bool = False
) -> dict[str, Path]:
    """Write the chosen graphs to `out` as light_<name>.onnx unless already there; paths by name.

    only: regular expression on names. Vgg19 takes 575 MB, the nine together 1.4 GB.
    """
    out.mkdir(parents=True, exist_ok=True)
    suffix = "_overridable" if overridable else ""
    paths: dict[str, Path] = {}
    for name in NAMES:
        if not re.search(only, name):
            continue
        path = out / f"light_{name}{suffix}_seed{seed}.onnx"
        if not path.exists():
            part = path.with_suffix(".part")
            onnx.save(materialise(name, seed=seed, overridable=overridable), part)
            part.replace(path)
        paths[name] = path
    return paths


def main() -> int:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description="Write onnx's light graphs with random weights.")
    parser.add_argument("--out", type=Path, default=Path(".cache/light"))
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overridable", action="store_true", help="weights also as graph inputs")
    given = parser.parse_args()
    chosen = write_all(given.out, only=given.only, seed=given.seed, overridable=given.overridable)
    for path in chosen.values():
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
