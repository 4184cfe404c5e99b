"""Moments in pieces against moments at once."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.grams import Sums


@pytest.mark.parametrize("step", [1, 3, 90, 400])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_sums_in_pieces_are_the_moments_of_all_columns(offset, step):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 7, 400)) + offset).astype(np.float32)
    t = (rng.standard_normal((2, 3, 400)) - offset).astype(np.float32)
    sums = Sums()
    for part in (slice(at, at + step) for at in range(0, 400, step)):
        sums.add(x[:, :, part], t[:, :, part])
    found = sums.result()
    a, b = x.astype(np.float64), t.astype(np.float64)
    ac = a - a.mean(2, keepdims=True)
    bc = b - b.mean(2, keepdims=True)
    np.testing.assert_allclose(found.gram, ac @ ac.transpose(0, 2, 1), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found.cross, bc @ ac.transpose(0, 2, 1), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found.mean, a.mean(2), rtol=1e-5)
    np.testing.assert_allclose(found.target, b.mean(2), rtol=1e-5)
    raw = found.raw()
    np.testing.assert_allclose(raw.gram, a @ a.transpose(0, 2, 1), rtol=1e-4)
    np.testing.assert_allclose(raw.cross, b @ a.transpose(0, 2, 1), rtol=1e-4, atol=1e-1)


def test_a_column_of_weight_three_is_three_columns():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 5, 60)).astype(np.float32)
    t = rng.standard_normal((2, 3, 60)).astype(np.float32)
    weights = rng.integers(0, 4, 60).astype(np.float32)
    some, many = Sums(), Sums()
    for part in (slice(0, 20), slice(20, 60)):
        some.add(x[:, :, part], t[:, :, part], weights[part])
    many.add(np.repeat(x, weights.astype(int), 2), np.repeat(t, weights.astype(int), 2))
    for name in ("columns", "gram", "cross", "mean", "target"):
        have, want = (getattr(s.result(), name) for s in (some, many))
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4, err_msg=name)


def test_nothing_added_is_an_error():
    with pytest.raises(ValueError, match="no columns"):
        Sums().result()


def test_divergence_of_logits_is_that_of_their_distributions():
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((50, 5)) for _ in range(2))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
    want = (p * np.log(p / q)).sum(-1).mean()
    assert Judge([[a]]).judge([[b]]).loss == pytest.approx(want)
    assert Judge([[p]]).judge([[q]]).loss == pytest.approx(want)
    assert Judge([[a]]).judge([[b]]).top1 == pytest.approx((a.argmax(1) == b.argmax(1)).mean())


def test_images_are_compared_by_squared_error_over_variance():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((2, 3, 8, 8))
    found = Judge([[a]]).judge([[a + 0.1]])
    assert found.loss == pytest.approx(0.01 / a.var()) and found.top1 is None
    assert Judge([[a]]).judge([[a * np.nan]]).loss == float("inf")
