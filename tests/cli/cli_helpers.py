"""What the tests of the command line share."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def digest(path: Path) -> str:
    """Return a hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of every file in a folder, hidden ones too."""
    return {str(p.relative_to(folder)): digest(p) for p in folder.rglob("*") if p.is_file()}


def save_convs(
    path: Path,
    channels: tuple[int, ...] = (3, 8, 8, 4),
    bad: float | None = None,
    external: bool = False,
) -> Path:
    """Write a chain of 3x3 convolutions with Relu between; ``bad`` replaces the first weight."""
    rng = np.random.default_rng(7)
    nodes, weights, name = [], [], "x"
    for i, (cin, cout) in enumerate(itertools.pairwise(channels)):
        weight = rng.standard_normal((cout, cin, 3, 3)).astype(np.float32)
        if bad is not None and i == 0:
            weight.flat[0] = bad
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        out = f"y{i}" if i < len(channels) - 2 else "out"
        made = f"c{i}" if out != "out" else "out"
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [made], f"conv{i}", pads=[1] * 4))
        if out != "out":
            nodes.append(helper.make_node("Relu", [made], [out], f"relu{i}"))
        name = out
    shapes = [["batch", n, "height", "width"] for n in (channels[0], channels[-1])]
    graph = helper.make_graph(
        nodes,
        "convs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shapes[1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(
        model,
        path,
        save_as_external_data=external,
        location=f"{path.name}.weights",
        size_threshold=0,
    )
    return path
