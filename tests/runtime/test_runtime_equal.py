"""A slice of benchmarks/runtime_equal.py: the bundled networks, every pattern, every kernel set."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

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
        session = runtime_equal.session_of(reference, runtime_equal.CONFIGS[config])
        verdict = reference.judge(session)
        assert verdict.error <= verdict.limit, (config, verdict)
        if config != "default":
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
    verdict = reference.judge(runtime_equal.cpu_session(worse.SerializeToString()))
    assert verdict.error > verdict.limit and not verdict.right
    one = np.ones(3, np.float32)
    infinite = float("inf")
    assert runtime_equal.relative_error(one, one.astype(np.float64)) == infinite
    assert runtime_equal.relative_error(one[:2], one) == infinite
    assert runtime_equal.relative_error(one * np.float32(np.nan), one) == infinite
    assert runtime_equal.relative_error(one, one) == 0
