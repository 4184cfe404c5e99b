"""Element and N:M pruning of a large model with external data: memory beyond the page cache, time.

    python benchmarks/large.py [--gigabytes 4] [--folder DIR] [--patterns element,2:4]
        [--rounds 3] [--json]

Generates a stack of matrix products and convolutions with random weights, copies its data with
``shutil.copyfile`` and a flush to disk (what a copy costs here), prunes it in a process of its own
for each pattern, in turn, and compares medians: a disk is not the same twice. Memory is the peak
of anonymous pages (``RssAnon``), sampled 50 times a second; mapped file pages are the page cache's.
The files are deleted afterwards, but not a model that was there before (``--generate-only``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH, HIDDEN = 4096, 8192


def generate(path: Path, gigabytes: float) -> int:
    """Write a model of about so many gigabytes; return the bytes of its data."""
    rng = np.random.default_rng(0)
    nodes, weights, offset = [], [], 0
    data = path.with_name(path.name + ".data")
    pool = rng.standard_normal(1 << 22, np.float32) * np.float32(0.02)
    source, layer = "x", 0
    with data.open("wb") as file:
        while offset < gigabytes * (1 << 30):
            shape = (WIDTH, HIDDEN) if layer % 2 == 0 else (HIDDEN, WIDTH)
            tensor = onnx.TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            size = shape[0] * shape[1] * 4
            for key, value in (("location", data.name), ("offset", offset), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            for _ in range(size // pool.nbytes):
                file.write((np.roll(pool, int(rng.integers(1 << 22)))).data)
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [source, f"w{layer}"], [f"h{layer}"]))
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
            source, offset, layer = f"r{layer}", offset + size, layer + 1
        file.flush()
        os.fsync(file.fileno())
    last = HIDDEN if layer % 2 else WIDTH
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["n", last])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return offset


def copy(path: Path) -> float:
    """Return the seconds a flushed copy of a file takes."""
    target = path.with_name("copy")
    started = time.perf_counter()
    shutil.copyfile(path, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    took = time.perf_counter() - started
    target.unlink()
    return took


def watch(command: list[str], folder: Path) -> tuple[float, int]:
    """Run a command; return its seconds and the peak of its anonymous memory in bytes."""
    started = time.perf_counter()
    # Not in a checkout, whose `onnxprune` lacks the passes.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, peak


def main() -> None:
    """Generate, prune, measure, delete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--patterns", default="element,2:4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generate-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder: Path = options.folder or Path(tempfile.mkdtemp(prefix="onnxprune-large-"))
    keep = False
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    source, target = folder / "large.onnx", folder / "out.onnx"
    rows: list[dict[str, Any]] = []
    try:
        data = source.with_name(source.name + ".data")
        there = data.exists()
        size = data.stat().st_size if there else generate(source, options.gigabytes)
        keep = there or options.generate_only
        if options.generate_only:
            return
        patterns = options.patterns.split(",")
        copied: list[float] = []
        took: dict[str, list[tuple[float, int]]] = {p: [] for p in patterns}
        for _ in range(options.rounds):
            copied.append(copy(data))
            for pattern in patterns:
                command = [sys.executable, "-m", "onnxprune", "prune", str(source)]
                command += ["-o", str(target), "--pattern", pattern]
                command += [] if ":" in pattern else ["--sparsity", "0.5"]
                took[pattern].append(watch(command, folder))
                for file in (target, target.with_name(target.name + ".data")):
                    file.unlink(missing_ok=True)
        for pattern, runs in took.items():
            seconds, copying = median(s for s, _ in runs), median(copied)
            rows.append(
                {
                    "pattern": pattern,
                    "bytes": size,
                    "copy_seconds": round(copying, 2),
                    "seconds": round(seconds, 2),
                    "speed_of_copy": round(copying / seconds, 3),
                    "peak_anonymous_mb": round(max(peak for _, peak in runs) / 1e6),
                    "all_copies": [round(s, 2) for s in copied],
                    "all_runs": [round(s, 2) for s, _ in runs],
                }
            )
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(rows) if options.json else "\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
