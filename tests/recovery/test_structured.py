"""Unit selection for whole groups of consumers, against refits on the samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_layers import relu_layer, solve_rows

from onnxprune.errors import DataError, UsageError
from onnxprune.recovery.channel_gram import channel_gram
from onnxprune.recovery.lasso import coordinate_descent, lasso_units
from onnxprune.recovery.structured import Consumer, structured_obs, total_error
from onnxprune.recovery.structured_swaps import swap_units
from onnxprune.recovery.thinet import thinet


def consumer_of(layer, units_of, **kwargs):
    return Consumer(layer.problem(), np.asarray(units_of, dtype=np.int64), **kwargs)


def two_consumers(seed=0, units=5):
    """A 3-wide-kernel consumer and a pointwise one that also reads two columns of its own."""
    first = relu_layer((6, units, 3), seed=seed, noise=0.3)
    second = relu_layer((4, units + 2), seed=seed + 1, noise=0.1)
    consumers = [
        consumer_of(first, np.repeat(np.arange(units), 3)),
        consumer_of(second, [-1, *range(units), -1]),
    ]
    return [first, second], consumers


def sample_error(layer, consumer, kept):
    """Weighted error above the unconstrained optimum, from the samples."""
    columns = np.array([u < 0 or kept[u] for u in consumer.unit_of])
    mask = np.tile(columns, (layer.weight.shape[0], 1))
    best = layer.error(solve_rows(layer, np.ones_like(mask)))
    return consumer.price * (layer.error(solve_rows(layer, mask)) - best)


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_structured_obs_equals_refit_on_its_support(seed):
    layers, consumers = two_consumers(seed)
    trace = structured_obs(consumers, 5)
    for keep in range(6):
        kept = trace.kept(keep)
        assert kept.sum() == keep
        refit = sum(sample_error(la, c, kept) for la, c in zip(layers, consumers, strict=True))
        assert trace.loss[: 5 - keep].sum() == pytest.approx(refit, rel=1e-6, abs=1e-10)
        assert total_error(consumers, kept) == pytest.approx(refit, rel=1e-6, abs=1e-10)


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_every_step_removes_the_cheapest_unit_for_all_consumers_together(seed):
    layers, consumers = two_consumers(seed)
    trace = structured_obs(consumers, 5, least=1)
    kept = np.ones(5, dtype=bool)
    for unit in trace.order:
        errors = {}
        for candidate in np.flatnonzero(kept):
            trial = kept.copy()
            trial[candidate] = False
            errors[candidate] = sum(
                sample_error(la, c, trial) for la, c in zip(layers, consumers, strict=True)
            )
        assert unit == min(errors, key=errors.__getitem__)
        kept[unit] = False


def test_refit_is_least_squares_on_the_kept_columns():
    layers, consumers = two_consumers()
    kept = np.array([True, False, True, True, False])
    for layer, consumer in zip(layers, consumers, strict=True):
        columns = np.array([u < 0 or kept[u] for u in consumer.unit_of])
        mask = np.tile(columns, (layer.weight.shape[0], 1))
        np.testing.assert_allclose(consumer.refit(kept), solve_rows(layer, mask), rtol=1e-6)


def test_frozen_units_stay_and_units_nobody_reads_go_first():
    layer = relu_layer((4, 6))
    consumer = consumer_of(layer, [0, 0, 1, 3, 3, 3])  # unit 2 has no column here
    frozen = np.array([False, True, False, False])
    trace = structured_obs([consumer], 4, frozen=frozen)
    assert trace.order[0] == 2
    assert trace.loss[0] == 0.0
    assert sorted(trace.order.tolist()) == [0, 2, 3]
    assert trace.kept(1).tolist() == [False, True, False, False]
    with pytest.raises(UsageError, match="only 3 were removed"):
        trace.kept(0)


def test_importance_outweighs_the_default():
    first, second = relu_layer((4, 4), seed=1), relu_layer((4, 4), seed=2)
    alone = structured_obs([consumer_of(second, range(4))], 4)
    loud = structured_obs(
        [consumer_of(first, range(4)), consumer_of(second, range(4), importance=1e9)], 4
    )
    np.testing.assert_array_equal(alone.order, loud.order)


def test_bad_unit_numbers_are_refused():
    layer = relu_layer((4, 4))
    with pytest.raises(DataError, match="do not fit"):
        structured_obs([consumer_of(layer, [0, 1, 2, 4])], 4)
    with pytest.raises(DataError, match="at least one consumer"):
        structured_obs([], 4)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), keep=st.integers(1, 5))
def test_swaps_end_where_no_exchange_helps(seed, keep):
    _, consumers = two_consumers(seed, units=6)
    rng = np.random.default_rng(seed)
    start = np.zeros(6, dtype=bool)
    start[rng.permutation(6)[:keep]] = True
    found = swap_units(consumers, start)
    assert found.sum() == keep
    best = total_error(consumers, found)
    assert best <= total_error(consumers, start) * (1 + 1e-9)
    for leave, enter in itertools.product(np.flatnonzero(found), np.flatnonzero(~found)):
        trial = found.copy()
        trial[leave], trial[enter] = False, True
        assert total_error(consumers, trial) >= best * (1 - 1e-7)


def test_swaps_leave_frozen_units_alone():
    _, consumers = two_consumers(3, units=6)
    frozen = np.array([True, True, False, False, False, False])
    start = np.array([True, False, True, True, False, False])
    found = swap_units(consumers, start, frozen=frozen)
    assert found[0]
    assert not found[1]


def test_refit_after_obs_at_least_halves_l1():
    """methods.md 6.2: the refit of structured OBS has at most half the error of L1 and zeroing."""
    layer = relu_layer((32, 16, 3, 3))
    consumer = consumer_of(layer, np.repeat(np.arange(16), 9))
    norms = np.abs(layer.weight).reshape(32, 16, 9).sum(axis=(0, 2))
    for keep in (12, 8):
        chosen = structured_obs([consumer], 16).kept(keep)
        by_norm = np.zeros(16, dtype=bool)
        by_norm[np.argsort(-norms)[:keep]] = True
        zeroed = consumer.price * layer.error(layer.weight * consumer.column_mask(by_norm))
        assert total_error([consumer], chosen) * 2 <= zeroed
        assert total_error([consumer], chosen) < total_error([consumer], by_norm)


def shares(layer, unit_of, units):
    """What every unit adds to the output [U, R * N]."""
    return np.stack(
        [(layer.weight[:, unit_of == u] @ layer.inputs[unit_of == u]).ravel() for u in range(units)]
    )


def test_channel_gram_is_the_inner_products_of_the_shares():
    layers, consumers = two_consumers()
    gram, right = channel_gram(consumers, 5)
    expected, wanted = np.zeros((5, 5)), np.zeros(5)
    for layer, consumer in zip(layers, consumers, strict=True):
        z = shares(layer, consumer.unit_of, 5)
        fixed = consumer.unit_of < 0
        rest = layer.targets - layer.weight[:, fixed] @ layer.inputs[fixed]
        expected += consumer.price * z @ z.T
        wanted += consumer.price * z @ rest.ravel()
    np.testing.assert_allclose(gram, expected, rtol=1e-8)
    np.testing.assert_allclose(right, wanted, rtol=1e-8)


def test_thinet_removes_what_disturbs_the_output_least():
    layer = relu_layer((4, 6, 2), noise=0.2)
    consumer = consumer_of(layer, np.repeat(np.arange(6), 2))
    trace = thinet([consumer], 6)
    kept = np.ones(6, dtype=bool)
    for unit, loss in zip(trace.order, trace.loss, strict=True):
        before = layer.error(layer.weight * consumer.column_mask(kept))
        errors = {}
        for candidate in np.flatnonzero(kept):
            trial = kept.copy()
            trial[candidate] = False
            errors[candidate] = layer.error(layer.weight * consumer.column_mask(trial))
        assert unit == min(errors, key=errors.__getitem__)
        assert loss == pytest.approx(consumer.price * (errors[unit] - before), rel=1e-6)
        kept[unit] = False


def test_lasso_agrees_with_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is a test extra")
    layer = relu_layer((4, 6, 2), noise=0.2)
    unit_of = np.repeat(np.arange(6), 2)
    consumer = consumer_of(layer, unit_of, importance=1.0)
    gram, right = channel_gram([consumer], 6)
    design = shares(layer, unit_of, 6).T
    for penalty in (0.05, 0.3, 0.7):
        level = penalty * np.abs(right).max()
        oracle = linear.Lasso(
            alpha=level / design.shape[0], fit_intercept=False, tol=1e-10, max_iter=100_000
        ).fit(design, layer.targets.ravel())
        np.testing.assert_allclose(
            coordinate_descent(gram, right, level, tolerance=1e-10), oracle.coef_, atol=1e-6
        )


def test_lasso_keeps_exactly_what_was_asked():
    _, consumers = two_consumers(units=5)
    for keep in range(6):
        assert lasso_units(consumers, 5, keep).sum() == keep
