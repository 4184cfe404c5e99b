"""Mirrored pictures are samples where the network says so."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from onnxprune import io
from onnxprune.calibration import mirror
from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.mirror import mirrored, same_answers
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
    assert same_answers(judge, [[scores + 0.1 * RNG.standard_normal(scores.shape)]])
    assert not same_answers(judge, [[scores[::-1].copy()]])


def _maps(samples, *shape):
    """Maps whose features differ from sample to sample, each in its own way."""
    level = RNG.standard_normal((samples, shape[0], *[1] * (len(shape) - 1)))
    return (level + RNG.standard_normal((samples, *shape))).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 12, 16), 3), ((12, 16, 3), 2), ((3, 192), 2), ((192, 3), 1)]
)
def test_of_maps_only_the_places_may_change(shape, axis):
    maps = np.moveaxis(_maps(8, *sorted(shape)), 1, 1 + int(np.argmin(shape)))
    turned = np.flip(maps, axis)
    assert not np.allclose(maps, turned)
    feeds = [[maps[:5]], [maps[5:]]]
    judge = Judge(feeds)
    assert judge.kinds == ["value"]
    assert same_answers(judge, [[turned[:5]], [turned[5:]]])
    other = turned[::-1]
    assert not same_answers(judge, [[other[:5]], [other[5:]]]), "those of other samples"


def test_maps_of_different_sizes_are_compared_and_single_ones_tell_nothing():
    feeds = [[_maps(1, 3, 8, edge)] for edge in (8, 12, 16, 20)]
    turned = [[np.flip(f[0], 3)] for f in feeds]
    assert same_answers(Judge(feeds), turned)
    assert not same_answers(Judge(feeds[:1]), turned[:1])
    assert not same_answers(Judge(feeds), turned[1:] + turned[:1])


def test_maps_of_many_places_are_looked_at_in_some_and_empty_ones_tell_nothing(monkeypatch):
    monkeypatch.setattr(mirror, "PLACES", 100)
    maps = _maps(8, 3, 40, 50)
    assert same_answers(Judge([[maps]]), [[np.flip(maps, 3)]])
    assert not same_answers(Judge([[maps]]), [[np.flip(maps, 3)[::-1]]])
    none = np.zeros((1, 0, 6), np.float32)  # a picture without boxes
    assert not same_answers(Judge([[_maps(2, 5, 6)], [none]]), [[_maps(2, 5, 6)], [none]])


def test_a_number_that_tells_left_from_right_is_not_the_same():
    """The angle of a steering wheel changes its sign with the picture."""
    angle = RNG.standard_normal((64, 1)).astype(np.float32)
    judge = Judge([[angle]])
    assert judge.kinds == ["value"]
    assert same_answers(judge, [[angle + 0.01]])
    assert not same_answers(judge, [[-angle]])


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
