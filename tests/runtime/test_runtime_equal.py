"""A slice of benchmarks/runtime_equal.py: the bundled networks, every pattern, every kernel set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from runtime_graphs import Net, sparse

from onnxprune import runtime

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import runtime_equal  # noqa: E402
import suite  # noqa: E402

NETWORKS = ("digits_resnet", "digits_mobile", "digits_transformer")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", suite.KINDS)
def test_bundled_networks(name: str, kind: str) -> None:
    model = suite.pruned(onnx.load(ROOT / "models" / f"{name}.onnx"), kind)
    reference = runtime_equal.Reference(suite.show_logits(model))
    configs = list(runtime_equal.CONFIGS) if kind in ("u0", "u90") else ["default", "force"]
    for config in configs:
        session = runtime_equal.session_of(reference.data, runtime_equal.CONFIGS[config])
        verdict = reference.judge(session, runtime_equal.CONFIGS[config])
        assert verdict.error <= verdict.limit, (config, verdict)
        if "force" in runtime_equal.CONFIGS[config]:
            assert any(d.claimed for d in runtime.explain(session)), config


def test_the_judge_sees_errors() -> None:
    """One weight moved by a thousandth of the largest is wrong; another type, shape or NaN is."""
    model = onnx.load(ROOT / "models" / "digits_resnet.onnx")
    reference = runtime_equal.Reference(model)
    worse = onnx.ModelProto()
    worse.CopyFrom(model)
    tensor = max(worse.graph.initializer, key=lambda t: len(t.raw_data))
    values = np.frombuffer(tensor.raw_data, np.float32).copy()
    values[::7] += 1e-3 * np.abs(values).max()
    tensor.raw_data = values.tobytes()
    verdict = reference.judge(runtime_equal.cpu_session(worse.SerializeToString()), {})
    assert verdict.error > verdict.limit and not verdict.right
    one = np.ones(3, np.float32)
    infinite = float("inf")
    assert runtime_equal.relative_error(one, one.astype(np.float64)) == infinite
    assert runtime_equal.relative_error(one[:2], one) == infinite
    assert runtime_equal.relative_error(one * np.float32(np.nan), one) == infinite
    assert runtime_equal.relative_error(one, one) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exact_result_is_nearer_than_any_provider(name: str) -> None:
    """Double precision throughout: constants, casts and attributes too."""
    model = onnx.load(ROOT / "models" / f"{name}.onnx")
    reference = runtime_equal.Reference(model)
    exact = runtime_equal.exact_outputs(model, reference.feeds[0])
    for output, wide in enumerate(exact):
        if wide.dtype.kind != "f":
            continue
        assert wide.dtype == np.float64
        error = runtime_equal.relative_error(reference.expected[0][output].astype(float), wide)
        assert 0 < error <= 1e-6
        verdict = runtime_equal.Verdict(1e-4)
        reference.look_closer(verdict, wide.astype(np.float32), 0, output)
        assert verdict.right and verdict.exact <= 6e-8 < verdict.noise
        reference.look_closer(verdict, (1.0001 * wide).astype(np.float32), 0, output)
        assert not verdict.right


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_long_sums_are_as_exact_as_the_cpu_provider(isa: str, sparsity: float) -> None:
    """Against sums in double precision: 4608 terms added in one chain lose four times as much."""
    net = Net(3)
    weight = sparse(net.rng, (64, 512, 3, 3), sparsity)
    x = net.input("x", [1, 512, 8, 8])
    model = net.model(net.add("Conv", x, net.constant(weight), pads=[1, 1, 1, 1]))
    given = net.rng.standard_normal((1, 512, 8, 8)).astype(np.float32)
    padded = np.pad(given.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    columns = np.stack(
        [padded[0, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=1
    )
    exact = (weight.reshape(64, -1).astype(np.float64) @ columns.reshape(-1, 64)).reshape(
        1, 64, 8, 8
    )

    def error(**options: Any) -> float:
        session = runtime.session(model, 1, **options)
        return float(np.sqrt(np.mean((session.run(None, {"x": given})[0] - exact) ** 2)))

    ours = error(force=True, timing=False, isa=isa)
    assert ours <= 2 * error(provider="cpu")
