# bench: make
"""Memory and file size of one 90 % sparse 256 MB matrix, packed against dense on the CPU provider.

    python benchmarks/runtime_memory.py [--sparsity 0.9] [--size 8192] [--json]
    python benchmarks/runtime_memory.py --network resnet50 --kind u90   # a network of networks.py

For each way of storing it a fresh process loads the model, runs it once, and tells its resident
memory; what a session with a tiny model on the same provider holds is taken off. ``loaded`` is
after the session is made, ``ran`` after the first run, ``peak`` the most there ever was. The first
row is what the others are compared with: the CPU provider with the dense model. Exit code 1 if the
bar is missed: file at most 20 % of the dense one, memory at most 25 %, results equal.

For a network, ``packed`` is what the kernels hold of its weights (``kernel_bytes`` of the decision
log: values, indices, generated code), and the bar is memory after the first run, activations
included, of at most 1.5 times that, from the dense file and from the packed one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent))

import networks

FILE_BAR, MEMORY_BAR = 0.20, 0.25
PACKED_BAR = 1.5


def model_of(weight: np.ndarray[Any, Any], rows: int | str) -> onnx.ModelProto:
    """One MatMul with ``weight`` [inputs, outputs] on ``rows`` rows."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, weight.shape[0]]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, weight.shape[1]]),
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")
    graph = helper.make_graph(
        [node], "one", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def write_models(folder: Path, size: int, sparsity: float, rows: int | str) -> None:
    """Write the dense model, with data inside and outside, every packed one, and a tiny one."""
    from onnxprune import formats, io

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((size, size), np.float32)
    weight[rng.random((size, size), np.float32) < sparsity] = 0
    onnx.save(model_of(np.ones((4, 4), np.float32), rows), folder / "tiny.onnx")
    model = model_of(weight, rows)
    onnx.save(model, folder / "dense.onnx")
    onnx.save(model, folder / "external.onnx", save_as_external_data=True, location="external.data")
    del model, weight
    for form in ("auto", "csr", "bitmap"):
        held = io.load(folder / "dense.onnx")
        formats.convert_model(held.model, form)
        io.save(held, folder / f"{form}.onnx")


def resident() -> dict[str, float]:
    """Resident memory of this process now and at most, MB."""
    text = Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {k: int(lines[v].split()[0]) / 1e3 for k, v in (("now", "VmRSS"), ("peak", "VmHWM"))}


def child(path: Path, provider: str, rows: int) -> None:
    """Load and run ``path``; print what memory it took, and a digest of the output."""
    from onnxprune import runtime

    session = runtime.session(path, 1, provider=provider)
    loaded = resident()
    shapes = {
        i.name: [d if isinstance(d, int) else rows for d in i.shape] for i in session.get_inputs()
    }
    rng = np.random.default_rng(1)
    y = session.run(None, {k: rng.standard_normal(s, np.float32) for k, s in shapes.items()})[0]
    np.save(path.with_name("out.npy"), y)
    decisions = runtime.explain(session) if provider == "sparse" else []
    packed = sum(d.kernel_bytes or 0 for d in decisions) / 1e6
    ran = resident()
    print(json.dumps({"loaded": loaded["now"], "ran": ran["now"], "peak": ran["peak"],
                      "claimed": sum(d.claimed for d in decisions), "packed": packed}))  # fmt: skip


def measure(path: Path, provider: str, rows: int) -> dict[str, Any]:
    """Run ``child`` in a fresh process; its findings, and the output under ``y``."""
    command = [sys.executable, __file__, "--child", str(path), provider, "--rows", str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["y"] = np.load(path.with_name("out.npy"))
    return found


def size_of(path: Path) -> int:
    """Bytes of a model with its external data."""
    side = path.with_suffix(".data")
    return path.stat().st_size + (side.stat().st_size if side.exists() else 0)


def write_network(folder: Path, network: str, kind: str) -> None:
    """Write a pruned network as it is and packed, and the tiny model."""
    from onnxprune import formats, io

    write_models(folder, 4, 0.0, 1)
    onnx.save(networks.prune(networks.NETWORKS[network](), kind), folder / "dense.onnx")
    held = io.load(folder / "dense.onnx")
    formats.convert_model(held.model, "auto", merge_zeros=True)
    io.save(held, folder / "auto.onnx")


def report(folder: Path, rows: int, forms: Sequence[str]) -> list[dict[str, Any]]:
    """Measure every model; a row each, the dense one on the CPU provider first."""
    empty = {p: measure(folder / "tiny.onnx", p, rows) for p in ("cpu", "sparse")}
    table: list[dict[str, Any]] = []
    cases = [(form, "cpu") for form in forms if form in ("dense", "external")]
    cases += [(form, "sparse") for form in forms]
    expected = None
    for name, provider in cases:
        path = folder / f"{name}.onnx"
        found = measure(path, provider, rows)
        y = found.pop("y")
        expected = y if expected is None else expected
        row = {"model": name, "provider": provider, "file": size_of(path) / 1e6, **found}
        for key in ("loaded", "ran", "peak"):
            row[key] -= empty[provider][key]
        row["error"] = float(np.abs(y - expected).max() / np.abs(expected).max())
        first = table[0] if table else row
        row["file_share"] = row["file"] / first["file"]
        row["share"] = row["loaded"] / first["loaded"]
        table.append(row)
    return table


def main() -> int:
    """Measure and print; 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description="memory of one large sparse matrix")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "PROVIDER"), help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=sorted(networks.NETWORKS))
    parser.add_argument("--kind", default="u90", help="how --network is pruned")
    parser.add_argument("--size", type=int, default=8192, help="rows and columns of the matrix")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--rows", type=int, default=1, help="rows of the input")
    parser.add_argument("--open", action="store_true", help="leave the rows open in the model")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), given.child[1], given.rows)
        return 0
    with tempfile.TemporaryDirectory(prefix="onnxprune-memory-") as text:
        folder = Path(text)
        if given.network:
            write_network(folder, given.network, given.kind)
            forms = ["dense", "auto"]
        else:
            write_models(folder, given.size, given.sparsity, "rows" if given.open else given.rows)
            forms = ["dense", "external", "auto", "csr", "bitmap"]
        table = report(folder, given.rows, forms)
    if given.json:
        print(json.dumps(table, indent=2))
    else:
        title = f"{given.sparsity:.0%} sparse {given.size} x {given.size} MatMul"
        title = f"{given.network} {given.kind}" if given.network else title
        print(f"{title}, MB beyond an empty session")
        heads = ("file", "", "loaded", "", "ran", "peak", "packed", "error")
        print(f"{'model':10}{'provider':10}" + "".join(f"{h:>9}" for h in heads))
        for r in table:
            print(
                f"{r['model']:10}{r['provider']:10}{r['file']:9.1f}{r['file_share']:9.1%}"
                f"{r['loaded']:9.1f}{r['share']:9.1%}{r['ran']:9.1f}{r['peak']:9.1f}{r['packed']:9.1f}{r['error']:9.1e}"
            )
    if given.network:
        shares = [r["ran"] / r["packed"] for r in table if r["provider"] == "sparse"]
        met = max(shares) <= PACKED_BAR
        told = ", ".join(f"{share:.2f}" for share in shares)
        print(f"memory after a run by packed weights (bar {PACKED_BAR}): {told}")
        return 0 if met else 1
    best = next(r for r in table if r["model"] == "auto")
    right = all(r["error"] <= 1e-5 * max(1, given.size**0.5 / 32) for r in table)
    met = best["file_share"] <= FILE_BAR and best["share"] <= MEMORY_BAR and right
    verdict = "met" if met else "MISSED"
    print(f"bar (packed: file <= {FILE_BAR:.0%}, memory <= {MEMORY_BAR:.0%}): {verdict}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
