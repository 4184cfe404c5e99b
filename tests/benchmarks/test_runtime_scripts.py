"""The runtime benchmarks' arithmetic: parsing of the C++ benchmark, ratios, rounds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import networks
import runtime_layers
import timing

LISTING = """avx2, peak 100.0 GFLOP/s (one core, measured)
layer                  | u80             | u90
1x1   64- 256@56 x4    |   50.0 GF 50.0%  |   40.0 GF 40.0%
3x3   64-  64@56 x3    |   80.0 GF 80.0%  |   20.0 GF 20.0%
1x1 1024-2048@ 7 x1    |   26.5 GF 26.5%  |   32.0 GF 32.0%
u80    sum  43.916 ms    34.0 GF/s (33.0% of peak), dense-equivalent 170.2 GF/s, planned in 142 ms
u90    sum  24.119 ms    31.0 GF/s (30.0% of peak), dense-equivalent 310.0 GF/s, planned in 69 ms
avx2, peak 100.0 GFLOP/s (one core, measured)
u80    chain  32.737 ms; 36.5 MB of weights and code (1.5 MB code), planned in 115 ms
    1x1   64- 256@56 x4    2.0 ms   50.0 GF/s  spmm_csr_f32_avx2
"""


def test_layers_are_parsed() -> None:
    result = runtime_layers.parse(LISTING, ["u80", "u90"])
    assert result["peak_gflops"] == 100.0
    assert len(result["layers"]) == 6
    assert result["sums"]["u80"] == {
        "ms": 43.916,
        "share": 0.33,
        "planned_ms": 142.0,
        "chain_ms": 32.737,
        "packed_mb": 36.5,
        "code_mb": 1.5,
    }
    # Work over what the time would allow: a harmonic mean weighted by work.
    a, b = 64 * 256 * 4, 9 * 64 * 64 * 3
    expected = (a + b) / (a / 0.4 + b / 0.2)
    assert result["classes"]["u90"]["56x56"] == pytest.approx(expected, abs=1e-3)
    assert result["classes"]["u80"]["7x7"] == 0.265


def test_ratio_is_the_median_of_the_rounds() -> None:
    assert timing.ratio([4.0, 9.0, 2.0], [2.0, 3.0, 2.0]) == 2.0


def test_rounds_measure_everybody_equally_often() -> None:
    calls = {"a": 0, "b": 0}

    def run(name: str) -> None:
        calls[name] += 1

    times = timing.rounds({"a": lambda: run("a"), "b": lambda: run("b")}, 0.0, least=3)
    assert len(times["a"]) == len(times["b"]) == 3
    assert min(calls.values()) >= 3
    assert all(t >= 0 for t in times["a"] + times["b"])


@pytest.mark.parametrize("kind", ["u90", "b4x1_90"])
def test_quantised_weights_are_pruned_to_their_zero_points(kind: str) -> None:
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (16, 8, 3, 3)).astype(np.uint8)
    zero = rng.integers(100, 150, 16).astype(np.uint8)
    names = {"q": q, "s": np.full(16, 0.1, np.float32), "z": zero, "b": np.zeros(16, np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in names.items()],
    )
    pruned = networks.prune(helper.make_model(graph), kind, skip_first=False)
    after = numpy_helper.to_array(pruned.graph.initializer[0])
    gone = after == zero.reshape(-1, 1, 1, 1)
    assert after.dtype == np.uint8 and 0.88 <= gone.mean() <= 0.93
    assert np.array_equal(after[~gone], q[~gone])
    away = np.abs(q.astype(int) - zero.reshape(-1, 1, 1, 1))
    if kind == "u90":
        assert away[~gone].min() >= away[gone].max() - 1
