"""Moment matching restores the dense mean and variance, and holds back where it should."""

from __future__ import annotations

import numpy as np
import pytest
from recovery_layers import relu_layer

from onnxprune.recovery.statistics import Moments, match_moments


def moments(outputs):
    return Moments(outputs.mean(axis=1), outputs.var(axis=1), outputs.shape[1])


def test_moments_match_exactly_without_shrinkage():
    layer = relu_layer((6, 12))
    bias = np.linspace(-1, 1, 6)
    mask = np.random.default_rng(0).random((6, 12)) < 0.6
    pruned = layer.weight * mask
    dense_out = layer.targets + bias[:, None]
    pruned_out = pruned @ layer.inputs + bias[:, None]
    repair = match_moments(moments(dense_out), moments(pruned_out), bias, noise=0.0, limit=1e9)
    repaired = (repair.scale[:, None] * pruned) @ layer.inputs + repair.bias[:, None]
    np.testing.assert_allclose(repaired.mean(axis=1), dense_out.mean(axis=1), rtol=1e-8)
    np.testing.assert_allclose(repaired.var(axis=1), dense_out.var(axis=1), rtol=1e-8)


def test_the_mean_is_exact_whatever_the_scale():
    rng = np.random.default_rng(1)
    dense = Moments(rng.standard_normal(5), rng.random(5), 20)
    pruned = Moments(rng.standard_normal(5), rng.random(5), 20)
    bias = rng.standard_normal(5)
    repair = match_moments(dense, pruned, bias)
    moved = repair.scale * (pruned.mean - bias) + repair.bias
    np.testing.assert_allclose(moved, dense.mean, rtol=1e-12)


def test_fewer_samples_shrink_the_scale_towards_one():
    dense, pruned = np.array([4.0, 1.0]), np.array([2.0, 1.0])
    scales = [
        match_moments(
            Moments(np.zeros(2), dense, n), Moments(np.zeros(2), pruned, n), np.zeros(2)
        ).scale[0]
        for n in (1, 10, 100, 10_000)
    ]
    assert 1.0 < scales[0] < scales[1] < scales[2] < scales[3] < np.sqrt(2.0)
    assert scales[3] == pytest.approx(np.sqrt(2.0), abs=1e-3)


def test_the_scale_is_clipped_and_silent_channels_are_left_alone():
    dense = Moments(np.zeros(4), np.array([100.0, 0.0001, 1.0, 1.0]), 1e9)
    pruned = Moments(np.array([0.0, 0.0, 0.3, 0.0]), np.array([1.0, 1.0, 0.0, 1e-12]), 1e9)
    repair = match_moments(dense, pruned, np.zeros(4))
    np.testing.assert_allclose(repair.scale, [2.0, 0.5, 1.0, 1.0])
    assert repair.bias[2] == pytest.approx(-0.3)
