"""SparseGPT on one layer of LLM size, against what its matrix products alone cost.

    python benchmarks/sparsegpt.py                     # 4096 x 11008, 50 % and 2:4

The products: ``2/3 d^3`` flops for the inverse factor and ``R d^2`` for the updates of the columns
behind each block, at the rate that a square product of the same precision reaches on this machine.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from onnxprune.patterns import parse_pattern
from onnxprune.recovery.sparsegpt import sparsegpt
from onnxprune.recovery.structure import structure_of


def rate(size: int = 3072, rounds: int = 3) -> float:
    """Flops a second of a float32 matrix product, the best of a few."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def main() -> None:
    """Measure and print a line a pattern."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=11008)
    parser.add_argument("--pattern", action="append", help="element (50 %%) or N:M")
    options = parser.parse_args()
    rows, columns = options.rows, options.columns
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((rows, columns), dtype=np.float32)
    mixed = rng.standard_normal((columns, 512), dtype=np.float32)
    gram = mixed @ mixed.T
    gram[np.diag_indices(columns)] += 0.5 * 512
    flops = 2 / 3 * columns**3 + rows * columns**2
    print(f"{'pattern':10s} {'seconds':>8s} {'products':>9s} {'ratio':>6s}")
    for text in options.pattern or ("element", "2:4"):
        pattern = parse_pattern(text)
        structure = structure_of(pattern, (rows, columns))
        assert structure is not None
        keep = None if pattern.fixed_density is not None else rows * columns // 2
        speed = rate()
        started = time.perf_counter()
        mask, _ = sparsegpt(weight, gram, structure, keep)
        took = time.perf_counter() - started
        assert abs(float(mask.mean()) - 0.5) < 1e-3
        print(
            f"{text:10s} {took:8.1f} {flops / speed:9.1f} {took * speed / flops:6.2f}", flush=True
        )


if __name__ == "__main__":
    main()
