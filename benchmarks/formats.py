"""Size and speed of every storage format: ``python benchmarks/formats.py [--rows N] [--json]``.

One fp32 matrix with random zeros at several sparsities, in 4x1 blocks, and 2:4. Size is the whole
blob, relative to the dense tensor; speed is dense bytes a second, the median of ``--repeats`` runs.
Speeds depend on the machine and on what else runs on it: compare them within one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxprune.formats import FORMATS, Matrix, decode, default_view, encode, encoded_size

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


def matrices(rows: int, cols: int) -> dict[str, Any]:
    """The dense matrices by name."""
    rng = np.random.default_rng(0)
    full = rng.standard_normal((rows, cols), np.float32)
    order = rng.random((rows, cols), np.float32)
    result = {f"{s:.0%}": np.where(order < s, np.float32(0), full) for s in SPARSITIES}
    pairs = order.reshape(-1, 4)
    kept = pairs >= np.sort(pairs, axis=1)[:, 2:3]
    result["2:4"] = np.where(kept.reshape(rows, cols), full, np.float32(0))
    blocks = np.repeat(rng.random((-(-rows // 4), cols)) < 0.9, 4, axis=0)[:rows]
    result["4x1 90%"] = np.where(blocks, np.float32(0), full)
    return result


def seconds(action: Callable[[], Any], repeats: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, dense: Any, format: str, repeats: int) -> dict[str, Any] | None:
    """One row of the table; ``None`` where the matrix does not have the format's structure."""
    if encoded_size(Matrix.of(dense, default_view(2)), format) is None:
        return None
    blob = encode(dense, format)
    if decode(blob).tobytes() != dense.tobytes():
        raise AssertionError(f"{format} did not give back {name}")
    encoding = seconds(lambda: encode(dense, format), repeats)
    decoding = seconds(lambda: decode(blob), repeats)
    return {
        "matrix": name,
        "format": format,
        "bytes": len(blob),
        "of_dense": len(blob) / dense.nbytes,
        "encode_gb_s": dense.nbytes / encoding / 1e9,
        "decode_gb_s": dense.nbytes / decoding / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        row
        for name, dense in matrices(options.rows, options.cols).items()
        for format in FORMATS.names()
        if (row := measure(name, dense, format, options.repeats)) is not None
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"fp32 {options.rows} x {options.cols}, {options.rows * options.cols * 4 / 1e6:.0f} MB")
    print(f"{'matrix':10}{'format':10}{'of dense':>10}{'encode GB/s':>14}{'decode GB/s':>14}")
    for row in rows:
        print(
            f"{row['matrix']:10}{row['format']:10}{row['of_dense']:>10.1%}"
            f"{row['encode_gb_s']:>14.2f}{row['decode_gb_s']:>14.2f}"
        )


if __name__ == "__main__":
    main()
