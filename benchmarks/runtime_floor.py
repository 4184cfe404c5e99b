# bench: make
"""Is the sparse provider ever slower than the CPU provider? Every network, every sparsity.

    python benchmarks/runtime_floor.py [--only RE] [--kinds u0,u50,...] [--seconds 1] [--threads 1]

Both providers run the same pruned network on the same input, in alternating order by rounds; the
ratio is the median of the rounds' own ratios (above 1 the sparse provider is faster). Where nothing
is claimed the two run the same graph, so those ratios show the noise of the measurement. A line for
every network, and at the end everything below the floor of 0.97. ``create`` is the time to make the
session against the CPU provider's, the best of three each. Exit code 1 where something is below.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import onnx
import suite

from onnxprune import runtime
from onnxprune.calibration.feeds import working_feeds

FLOOR = 0.97
CREATIONS = 3
MIN_ROUNDS = 9


def race(sessions: list[Any], feed: dict[str, Any], seconds: float) -> tuple[float, float]:
    """Median milliseconds of the first session, and the median ratio of the first to the second."""

    def took(session: Any, repeat: int) -> float:
        start = time.perf_counter()
        for _ in range(repeat):
            session.run(None, feed)
        return (time.perf_counter() - start) / repeat

    for session in sessions:
        session.run(None, feed)
    once = min(took(sessions[0], 1) for _ in range(3))
    repeat = max(1, round(0.004 / once))
    times: list[list[float]] = [[], []]
    start = time.perf_counter()
    while len(times[0]) < MIN_ROUNDS or time.perf_counter() - start < seconds:
        order = (0, 1) if len(times[0]) % 2 else (1, 0)
        for which in order:
            times[which].append(took(sessions[which], repeat))
        if time.perf_counter() - start > 6 * seconds:
            break
    return 1e3 * median(times[0]), median(a / b for a, b in zip(*times, strict=True))


def create(data: bytes, provider: str, threads: int) -> tuple[Any, float]:
    """A session, and the shortest time it took to make one."""
    best = float("inf")
    for _ in range(CREATIONS):
        start = time.perf_counter()
        made = runtime.session(data, threads, provider=provider)
        best = min(best, time.perf_counter() - start)
    return made, best


def measure(model: onnx.ModelProto, seconds: float, threads: int) -> dict[str, Any]:
    """Time one network on both providers."""
    data = model.SerializeToString()
    feed = working_feeds(data, 0, 1)[0]
    cpu, cpu_seconds = create(data, "cpu", threads)
    sparse, sparse_seconds = create(data, "sparse", threads)
    decisions = runtime.explain(sparse)
    ms, ratio = race([cpu, sparse], feed, seconds)
    return {
        "claimed": sum(d.claimed for d in decisions),
        "nodes": len(decisions),
        "cpu_ms": ms,
        "ratio": ratio,
        "create": sparse_seconds / cpu_seconds,
        "create_ms": 1e3 * sparse_seconds,
    }


def main() -> int:
    """Measure; 1 if anything claimed is below the floor."""
    parser = argparse.ArgumentParser(description="is the sparse provider ever slower?")
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--kinds", default=",".join(suite.KINDS))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each network and kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=Path, help="instead: files NAME.KIND.onnx below it")
    parser.add_argument("--write", type=Path, help="only write the pruned models to this folder")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    given = parser.parse_args()
    below = []
    if given.models:
        variants = suite.saved(given.models, given.only)
    else:
        variants = suite.variants(given.only, tuple(given.kinds.split(",")))
    for name, kind, model in variants:
        if given.write:
            given.write.mkdir(parents=True, exist_ok=True)
            stem = f"{name.replace('/', '_')}.{kind.replace(':', 'of')}"
            onnx.save(model, given.write / f"{stem}.onnx")
            continue
        row = {"network": name, "kind": kind, **measure(model, given.seconds, given.threads)}
        if row["claimed"] and row["ratio"] < FLOOR:
            below.append(row)
        if given.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{name:44} {kind:8} {row['claimed']:4}/{row['nodes']:<4} {row['cpu_ms']:9.3f} ms "
                f"x{row['ratio']:.3f}  create {row['create_ms']:7.1f} ms x{row['create']:.2f}",
                flush=True,
            )
    for row in below:
        print(f"below {FLOOR}: {row['network']} {row['kind']} x{row['ratio']:.3f}", flush=True)
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
