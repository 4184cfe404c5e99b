"""Mirrored pictures are samples where the network says so."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from onnxprune import io
from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.mirror import mirrored, same_classes
from onnxprune.recovery.apply import Reconstruction
from onnxprune.rules.analysis import analyze

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3, 4, 6), 3), ((2, 1, 4, 6), 3), ((2, 4, 6, 3), 2)]
)
def test_columns_of_pictures_are_turned(shape, axis):
    array = RNG.standard_normal(shape).astype(np.float32)
    turned = mirrored({"x": array})
    assert turned is not None
    np.testing.assert_array_equal(turned["x"], np.flip(array, axis))
    np.testing.assert_array_equal(mirrored(turned)["x"], array)


@pytest.mark.parametrize(
    "feed",
    [
        {"x": np.zeros((2, 3, 8), np.float32)},
        {"x": np.zeros((2, 4, 8, 8), np.float32)},
        {"x": np.zeros((2, 3, 8, 8), np.uint8)},
        {"x": np.zeros((2, 3, 8, 1), np.float32)},
        {"x": np.zeros((2, 3, 8, 8), np.float32), "y": np.zeros(2, np.float32)},
    ],
)
def test_what_is_no_picture_is_left_alone(feed):
    assert mirrored(feed) is None


def test_only_classes_that_stay_make_them_samples():
    scores = 4 * RNG.standard_normal((64, 10)).astype(np.float32)
    judge = Judge([[scores]])
    assert same_classes(judge, [[scores + 0.1 * RNG.standard_normal(scores.shape)]])
    assert not same_classes(judge, [[scores[::-1].copy()]])
    pictures = RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)
    assert not same_classes(Judge([[pictures]]), [[pictures]]), "values are not classes"


def test_mirrored_pictures_are_held_out_with_those_that_they_mirror():
    """What decides must know nothing of what was trained on, mirrored or not."""
    wide = RNG.standard_normal((6, 3, 1, 1)).astype(np.float32)
    net = parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,6] y)
        { c = Conv(x, w)  r = Relu(c)  p = GlobalAveragePool(r)  y = Flatten(p) }
    """)
    net.graph.initializer.append(numpy_helper.from_array(10 * wide, "w"))
    feeds = [{"x": RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(12)]
    work = Reconstruction(analyze(io.load(net).model), feeds)
    before = work.judge()
    assert len(work.held_feeds) == 2 and work.widen(before)
    assert len(work.feeds) == 24 and len(work.held_feeds) == 4 and len(work.training) == 20
    held = {feed["x"].tobytes() for feed in work.held_feeds}
    assert held == {
        array.tobytes()
        for feed in work.held_feeds[:2]
        for array in (feed["x"], np.ascontiguousarray(feed["x"][..., ::-1]))
    }
    assert work.agreement(work.judge(), {}, []).loss == 0
