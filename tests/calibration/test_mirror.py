"""Mirrored pictures are samples where the network says so."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.mirror import mirrored, same_classes

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
