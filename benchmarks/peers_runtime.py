"""Whole networks, ours against onnxruntime, OpenVINO and DeepSparse, interleaved in one run.

    python benchmarks/peers_runtime.py [--networks bert,resnet50,mobilenet_v2,light_squeezenet]
        [--patterns dense,u80,u90,u95,b4x1_90,2:4] [--threads 1,2] [--peers openvino,deepsparse]
        [--rounds 7] [--json FILE] [--work .cache/peers/work]

Batch 1, float32, random weights pruned as ``networks.py`` does. Every engine, model and number of
threads is a process of its own; in each round each runs for a moment, the others waiting, and the
median of that counts; times are medians of rounds, ratios medians of the rounds' ratios to
onnxruntime's CPU provider on the dense network with as many threads. Outputs are compared with
onnxruntime's on the same pruned network. A peer that cannot be installed is skipped with a notice
(DeepSparse 1.8, the last one, needs Python 3.8 to 3.11; it is looked for on PATH and in pyenv).
"""

# bench: make

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import peers
import suite
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("engine_worker.py")
SECONDS = 0.2
"""How long one engine runs in one round."""
PEERS = ("openvino", "deepsparse")
DEFAULT = {
    "bert": "dense,u80,u90,u95,b4x1_90,2:4",
    "resnet50": "dense,u80,u90,u95,b4x1_90,2:4",
    "mobilenet_v2": "dense,u80,u90,u95",
    "light_squeezenet": "dense,u90",
}
console = Console(width=None if sys.stdout.isatty() else 140)


@dataclass
class Contender:
    """One engine in its process.

    Attributes:
        engine: as in ``engine_worker.py``.
        pattern: of the network it runs.
        threads: it may use.
        process: of the engine, waiting for lines.
        outputs: file with its answer.
        load: seconds it took to load the model.
        times: seconds of an inference, one a round.
        error: of its answer, relative to the largest value of onnxruntime's on the same model.
    """

    engine: str
    pattern: str
    threads: int
    process: subprocess.Popen[str]
    outputs: Path
    load: float = 0.0
    times: list[float] = field(default_factory=list)
    error: float = 0.0

    def answer(self) -> float:
        """Return the number on its next line; its other output (banners) is passed over.

        Raises:
            RuntimeError: it ended instead.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, number = line.strip().partition(" ")
            if word in ("ready", "took"):
                return float(number)
        raise RuntimeError(f"{self.engine} on {self.pattern} ended with {self.process.wait()}")

    def measure(self) -> None:
        """Add one round."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{SECONDS}\n")
        self.process.stdin.flush()
        self.times.append(self.answer())

    def close(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()


def start(engine: str, python: Path, model: Path, threads: int, feeds: Path) -> Contender:
    """Start an engine on a model and wait until it has answered once.

    Raises:
        RuntimeError: it does not take the model.
    """
    outputs = model.with_suffix(f".{engine}.{threads}.npz")
    process = subprocess.Popen(
        [str(python), str(WORKER), engine, str(model), str(feeds), str(outputs), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Elsewhere than here our own packages must not be found.
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH" or python_is_ours(python)},
    )
    contender = Contender(engine, model.stem, threads, process, outputs)
    try:
        contender.load = contender.answer()
    except RuntimeError:
        contender.close()
        raise
    return contender


def python_is_ours(python: Path) -> bool:
    """Whether this is the interpreter we run in."""
    return str(python) == sys.executable


def write_models(network: str, patterns: list[str], folder: Path) -> tuple[dict[str, Path], Path]:
    """Write the pruned networks and feeds; return the models by pattern, and the feeds."""
    folder.mkdir(parents=True, exist_ok=True)
    dense = suite.sources(f"^{network}$")[network]()
    made = {}
    for pattern in dict.fromkeys(["dense", *patterns]):
        made[pattern] = folder / f"{pattern}.onnx"
        if not made[pattern].exists():
            onnx.save(suite.pruned(dense, "u0" if pattern == "dense" else pattern), made[pattern])
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for value in dense.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    path = folder / "feeds.npz"
    np.savez(path, **feeds)
    return made, path


def relative_error(contender: Contender, reference: Path) -> float:
    """Largest difference of any output, relative to that output's largest value."""
    worst = 0.0
    with np.load(contender.outputs) as ours, np.load(reference) as theirs:
        for name in theirs.files:
            scale = max(float(np.abs(theirs[name]).max()), 1e-30)
            worst = max(worst, float(np.abs(ours[name] - theirs[name]).max()) / scale)
    return worst


def race(
    network: str,
    patterns: list[str],
    threads: int,
    engines: dict[str, Path],
    rounds: int,
    work: Path,
) -> list[dict[str, Any]]:
    """Measure every engine on every pattern of one network; one row each."""
    models, feeds = write_models(network, patterns, work / network)
    contenders: list[Contender] = []
    try:
        for pattern in models:
            reference: Path | None = None
            for engine in ["cpu", *engines]:
                if engine == "sparse" and pattern == "dense":
                    continue
                python = engines.get(engine, Path(sys.executable))
                try:
                    contender = start(engine, python, models[pattern], threads, feeds)
                except RuntimeError as trouble:
                    console.print(f"{network}: {trouble}; left out")
                    continue
                if engine == "cpu":
                    reference = contender.outputs
                    if pattern != "dense":  # needed for its answer only
                        contender.close()
                        continue
                elif reference is not None:
                    contender.error = relative_error(contender, reference)
                contenders.append(contender)
        for number in range(rounds):
            shift = number % len(contenders)
            for contender in contenders[shift:] + contenders[:shift]:
                contender.measure()
    finally:
        for contender in contenders:
            contender.close()
    base = contenders[0].times
    return [
        {
            "network": network,
            "pattern": c.pattern,
            "engine": c.engine,
            "threads": c.threads,
            "ms": 1e3 * statistics.median(c.times),
            "speedup": statistics.median(b / t for b, t in zip(base, c.times, strict=True)),
            "load_s": c.load,
            "error": c.error,
        }
        for c in contenders
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table a network: patterns down, engines and threads across."""
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        columns = list(dict.fromkeys((row["engine"], row["threads"]) for row in mine))
        columns.sort(key=lambda c: c[1])
        names = [f"{engine}, {n} thread{'s' if n > 1 else ''}" for engine, n in columns]
        table = Table("pattern", *names, title=f"{network}: ms (times dense onnxruntime)")
        for pattern in dict.fromkeys(row["pattern"] for row in mine):
            cells = []
            for engine, n in columns:
                found = [
                    row
                    for row in mine
                    if (row["pattern"], row["engine"], row["threads"]) == (pattern, engine, n)
                ]
                cells.append(f"{found[0]['ms']:.2f} ({found[0]['speedup']:.2f})" if found else "")
            table.add_row(pattern, *cells)
        console.print(table)
    worst = max((row for row in rows if row["engine"] == "sparse"), key=lambda row: row["error"])
    console.print(
        f"largest relative error of ours: {worst['error']:.1e} "
        f"({worst['network']}, {worst['pattern']})"
    )


def main() -> int:
    """Run; 1 when one of our answers is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default=",".join(DEFAULT))
    parser.add_argument("--patterns", help="default: what the network is usually measured at")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers", default=",".join(PEERS), help="none: only onnxruntime and ours")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=peers.CACHE / "work" / "runtime")
    options = parser.parse_args()
    engines = {"sparse": Path(sys.executable)}
    for name in options.peers.split(","):
        if name in ("", "none"):
            continue
        binaries, why = peers.environment(name)
        if binaries is None:
            console.print(f"skipped {why}")
        else:
            engines[name] = binaries / "python"
    rows = []
    for network in options.networks.split(","):
        patterns = (options.patterns or DEFAULT.get(network, "u90")).split(",")
        for threads in (int(n) for n in options.threads.split(",")):
            rows += race(network, patterns, threads, engines, options.rounds, options.work)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    wrong = [row for row in rows if row["engine"] == "sparse" and not row["error"] <= 1e-4]
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
