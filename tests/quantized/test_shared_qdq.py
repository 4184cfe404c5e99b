"""Every Q/DQ twin of the shared networks, every pattern, at one half."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from read_weights import read_weights

import onnxprune.api as onnxprune

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
MODELS = sorted(SHARED.glob("*/*qdq*.onnx"))


@pytest.mark.skipif(not MODELS, reason="the shared networks are not on this machine")
@pytest.mark.parametrize("pattern", ["element", "2:4", "block:4x1", "vector", "kernel"])
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
def test_masks(path: Path, pattern: str) -> None:
    dense = onnx.load(path)
    result = onnxprune.prune(dense, pattern, None if pattern == "2:4" else 0.5)
    before, after = read_weights(dense), read_weights(result.model)
    assert result.report["proof"]["passed"] is True
    assert result.plan.masks
    for name, mask in result.plan.masks.items():
        assert not after[name][~mask].any()
        np.testing.assert_array_equal(after[name][mask], before[name][mask])
