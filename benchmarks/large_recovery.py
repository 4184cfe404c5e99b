"""Recovery of a transformer of common size: seconds, peak memory and what is given back.

    python benchmarks/large_recovery.py                       # BERT-base's shape, 50 %, 128 samples
    python benchmarks/large_recovery.py --width 384 --layers 6 --ask 2:4 channel:0.7

An encoder with random weights (embedding, pre-norm attention and feed-forward blocks, a pooled
classifier of 128 classes) on unevenly drawn tokens. A process a request, so that peaks do not mix.
Weights are random: losses say that recovery works at the size, not what trained networks gain.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORDS, CLASSES = 4000, 128


class Encoder:
    """Writes the graph node by node."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        self.rng = np.random.default_rng(0)
        self.width, self.heads = width, heads
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        table = self.constant(self.rng.standard_normal((WORDS, width)).astype(np.float32))
        x = self.node("Gather", table, "ids")
        for _ in range(layers):
            x = self.node("Add", x, self.attention(self.norm(x)))
            hidden = self.linear(self.norm(x), width, 4 * width)
            x = self.node("Add", x, self.linear(self.gelu(hidden), 4 * width, width))
        pooled = self.node("ReduceMean", self.norm(x), axes=[1], keepdims=0)
        self.nodes.append(
            helper.make_node("Identity", [self.linear(pooled, width, CLASSES, 4.0)], ["y"])
        )

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], out, **attributes))
        return out

    def linear(self, x: str, rows: int, columns: int, gain: float = 1.0) -> str:
        weight = self.rng.standard_normal((rows, columns)) * gain / np.sqrt(rows)
        bias = self.constant(0.1 * self.rng.standard_normal(columns).astype(np.float32))
        product = self.node("MatMul", x, self.constant(weight.astype(np.float32)))
        return self.node("Add", product, bias)

    def norm(self, x: str) -> str:
        scale = 1 + 0.1 * self.rng.standard_normal(self.width)
        shift = 0.1 * self.rng.standard_normal(self.width)
        parts = [self.constant(a.astype(np.float32)) for a in (scale, shift)]
        return self.node("LayerNormalization", x, *parts, axis=-1)

    def gelu(self, x: str) -> str:
        root, one, half = (self.constant(np.float32(v)) for v in (2**-0.5, 1.0, 0.5))
        bell = self.node("Add", self.node("Erf", self.node("Mul", x, root)), one)
        return self.node("Mul", self.node("Mul", x, half), bell)

    def split(self, x: str, order: list[int]) -> str:
        shape = self.constant(np.array([0, 0, self.heads, self.width // self.heads], np.int64))
        return self.node("Transpose", self.node("Reshape", x, shape), perm=order)

    def attention(self, x: str) -> str:
        query, key, value = (self.linear(x, self.width, self.width) for _ in range(3))
        scale = self.constant(np.float32((self.width // self.heads) ** -0.5))
        scores = self.node("MatMul", self.split(query, [0, 2, 1, 3]), self.split(key, [0, 2, 3, 1]))
        weights = self.node("Softmax", self.node("Mul", scores, scale), axis=-1)
        mixed = self.node("MatMul", weights, self.split(value, [0, 2, 1, 3]))
        back = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        flat = self.constant(np.array([0, 0, self.width], np.int64))
        return self.linear(self.node("Reshape", back, flat), self.width, self.width)

    def model(self) -> onnx.ModelProto:
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])
        graph = helper.make_graph(self.nodes, "encoder", [ids], [out], self.weights)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(model: str, ask: str, samples: int, length: int) -> None:
    """Prune once in this process and print a row."""
    import onnxprune

    rng = np.random.default_rng(1)
    ids = np.minimum(rng.zipf(1.2, (samples, length)), WORDS) - 1
    pattern, _, level = ask.partition(":") if ask != "2:4" else (ask, "", "")
    how: dict[str, Any] = {"sparsity": float(level)} if level else {}
    if pattern == "channel":
        how = {"target": {"macs": float(level)}}
    started = time.perf_counter()
    found = onnxprune.prune(model, pattern, data={"ids": ids}, samples=samples, **how)
    took = time.perf_counter() - started
    steps = found.report["recovery"]["steps"]
    kept = [row for row in steps if row["kept"]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    left = " -> ".join(f"{row['step']} {row['loss']:.4f}" for row in kept)
    print(f"{ask:12s} {took:8.0f} {peak:8.1f}   {left}", flush=True)
    for row in steps:
        if "why" in row:
            print(f"{'':30s}   no {row['step']}: {row['why']}", flush=True)


def main() -> None:
    """Build the encoder and prune it, a process a request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--length", type=int, default=128, help="tokens a sample")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--ask", nargs="+", default=["element:0.5"], help="PATTERN[:LEVEL]")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        run(options.model, options.ask[0], options.samples, options.length)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        made = Encoder(options.width, options.layers, max(1, options.width // 64)).model()
        path.write_bytes(made.SerializeToString())
        print(f"{path.stat().st_size / 1e6:.0f} MB, {options.samples} x {options.length} tokens")
        print(f"{'':12s} {'seconds':>8s} {'peak GB':>8s}   divergence on held-out samples")
        for ask in options.ask:
            command = [sys.executable, __file__, "--model", str(path), "--ask", ask]
            command += ["--samples", str(options.samples), "--length", str(options.length)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
