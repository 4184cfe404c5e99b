"""Speed against sparsity for each pattern, and from where on each pays: a table and a picture.

    python benchmarks/breakeven.py [--networks resnet50,bert] [--rounds 5] [--threads 1]
        [--out build/bench] [--work .cache/peers/work/breakeven] [--prepare]

Each network is pruned by ``onnxprune.prune`` with every pattern at several sparsities and run on
the sparse provider as users get it (what does not pay stays with onnxruntime), batch 1, against the
dense network on onnxruntime's CPU provider; the two alternate, ratios are medians. Channels are cut
out of the graph, so that their share is that of parameters which are gone; the smaller dense
network runs on the same provider. ``--prepare`` only prunes; models are kept in ``--work``.
Writes breakeven.json and breakeven.md, and breakeven.png where matplotlib can be installed into an
environment of its own.
"""

# bench: make

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import peers
from onnx import numpy_helper

from onnxprune import api, runtime

ROOT = Path(__file__).resolve().parent.parent
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
#: Sparsities a pattern is measured at; None: the pattern says it.
PATTERNS: dict[str, tuple[float | None, ...]] = {
    "element": SHARES,
    "block:4x1": SHARES,
    "block:8x1": SHARES,
    "channel": (0.25, 0.5, 0.75),
    "2:4": (None,),
    "1:4": (None,),
}
PAYS = 1.1
"""Times as fast as dense from which a pattern is said to pay."""

PLOT = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
rows = json.load(open(sys.argv[1]))
networks = list(dict.fromkeys(r["network"] for r in rows))
figure, axes = plt.subplots(1, len(networks), figsize=(6 * len(networks), 4.5), squeeze=False)
for network, axis in zip(networks, axes[0]):
    mine = [r for r in rows if r["network"] == network]
    for pattern in dict.fromkeys(r["pattern"] for r in mine):
        points = [(100 * r["sparsity"], r["speedup"]) for r in mine if r["pattern"] == pattern]
        line = "-" if len(points) > 1 else ""
        axis.plot(*zip(*points), marker="o", linestyle=line, label=pattern)
    axis.axhline(1.0, color="grey", linewidth=1)
    axis.set(title=network, xlabel="weights that are zero or gone, %", yscale="log",
             ylabel="times as fast as dense onnxruntime")
    ticks = [0.8, 1, 1.5, 2, 3, 4, 6, 8]
    axis.set_yticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
figure.tight_layout()
figure.savefig(sys.argv[2], dpi=110)
"""


def zero_share(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
    """Share of the multiplied weights of ``before`` that are zero or gone in ``after``."""

    def kept(model: onnx.ModelProto) -> int:
        weights = {n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
        return sum(
            int(np.count_nonzero(numpy_helper.to_array(t)))
            for t in model.graph.initializer
            if t.name in weights
        )

    return 1 - kept(after) / kept(before)


def prepare(network: str, work: Path) -> list[dict[str, Any]]:
    """Prune ``network`` in every way, or find it pruned; one row each, without times."""
    folder = work / network
    folder.mkdir(parents=True, exist_ok=True)
    dense_path = folder / "dense.onnx"
    dense = networks.NETWORKS[network]()
    if not dense_path.exists():
        onnx.save(dense, dense_path)
    rows = []
    for pattern, shares in PATTERNS.items():
        for share in shares:
            name = pattern.replace(":", "_") + ("" if share is None else f"_{share:g}")
            path, note = folder / f"{name}.onnx", folder / f"{name}.json"
            if not note.exists():
                done = api.prune(
                    dense, pattern=pattern, sparsity=share, first_layer="keep", proof=False
                )
                onnx.save(done.model, path)
                note.write_text(json.dumps({"sparsity": zero_share(dense, done.model)}))
            sparsity = json.loads(note.read_text())["sparsity"]
            rows.append(
                {"network": network, "pattern": pattern, "sparsity": sparsity, "path": str(path)}
            )
    return rows


def fastest(session: Any, feeds: dict[str, Any], runs: int = 3) -> float:
    """Seconds of the fastest of a few runs."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feeds)
        best = min(best, time.perf_counter() - start)
    return best


def measure(rows: list[dict[str, Any]], dense_path: Path, rounds: int, threads: int) -> None:
    """Add times and ratios to the rows of one network."""
    dense = runtime.session(dense_path, threads, provider="cpu")
    rng = np.random.default_rng(0)
    feeds = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in dense.get_inputs()}
    dense.run(None, feeds)
    for row in rows:
        session = runtime.session(row["path"], threads)
        session.run(None, feeds)
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(fastest(dense, feeds))
            ours.append(fastest(session, feeds))
        row["ms"] = 1e3 * statistics.median(ours)
        row["dense_ms"] = 1e3 * statistics.median(theirs)
        row["speedup"] = statistics.median(d / o for d, o in zip(theirs, ours, strict=True))


def pays_from(rows: list[dict[str, Any]]) -> str:
    """The sparsity at which a pattern's curve passes :data:`PAYS`, between measured points."""
    points = sorted((row["sparsity"], row["speedup"]) for row in rows)
    for i, (sparsity, speedup) in enumerate(points):
        if speedup < PAYS or any(s < PAYS for _, s in points[i:]):
            continue
        if i == 0:
            return (
                f"{100 * sparsity:.0f} % or less" if len(points) > 1 else f"{100 * sparsity:.0f} %"
            )
        below, slower = points[i - 1]
        return f"{100 * (below + (PAYS - slower) / (speedup - slower) * (sparsity - below)):.0f} %"
    return "not here"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one table a network."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        lines += [
            f"{network}, dense onnxruntime {statistics.median(r['dense_ms'] for r in mine):.1f} ms",
            "",
        ]
        lines += ["| pattern | times as fast at this share of zeros | pays from |", "|---|---|---|"]
        for pattern in dict.fromkeys(row["pattern"] for row in mine):
            points = [row for row in mine if row["pattern"] == pattern]
            cells = ", ".join(f"{r['speedup']:.2f} at {100 * r['sparsity']:.0f} %" for r in points)
            lines.append(f"| {pattern} | {cells} | {pays_from(points)} |")
        lines.append("")
    return "\n".join(lines)


def plot(json_path: Path, png: Path) -> str:
    """Draw the curves; return why not, or nothing."""
    binaries, why = peers.environment("matplotlib")
    if binaries is None:
        return why
    command = [str(binaries / "python"), "-c", PLOT, str(json_path), str(png)]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()[-300:]


def main() -> None:
    """Prune, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="resnet50,bert")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--work", type=Path, default=peers.CACHE / "work" / "breakeven")
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    all_rows: list[dict[str, Any]] = []
    for network in options.networks.split(","):
        rows = prepare(network, options.work)
        if not options.prepare:
            dense = options.work / network / "dense.onnx"
            measure(rows, dense, options.rounds, options.threads)
        all_rows += rows
    if options.prepare:
        return
    json_path = options.out / "breakeven.json"
    for row in all_rows:
        del row["path"]
    json_path.write_text(json.dumps(all_rows, indent=1) + "\n")
    text = table(all_rows)
    (options.out / "breakeven.md").write_text(text)
    print(text)
    why = plot(json_path, options.out / "breakeven.png")
    print(f"no picture: {why}" if why else f"picture: {options.out / 'breakeven.png'}")


if __name__ == "__main__":
    main()
