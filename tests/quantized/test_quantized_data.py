"""Samples with quantised networks: masks stay zero points, what stays keeps its value."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from quantizers import build, feeds
from read_weights import read_weights

import onnxprune.api as onnxprune

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("form", ["qdq-uint8-per-channel", "qoperator-per-channel"])
def test_masks_with_samples(form: str) -> None:
    dense = onnx.ModelProto.FromString(build("resnet", form))
    result = onnxprune.prune(dense, "element", 0.5, data=feeds(dense, 48))
    before, after = read_weights(dense), read_weights(result.model)
    for name, mask in result.plan.masks.items():
        assert not after[name][~mask].any()
        np.testing.assert_array_equal(after[name][mask], before[name][mask])
    rows = result.report["recovery"]["layers"]
    assert {row["method"] for row in rows} == {"none"}


def test_channels_with_samples() -> None:
    dense = onnx.ModelProto.FromString(build("resnet", "qdq-per-channel"))
    result = onnxprune.prune(dense, "channel", 0.5, data=feeds(dense, 12))
    assert result.report["proof"]["passed"] is True
    assert result.report["params"]["after"] < 0.3 * result.report["params"]["before"]
