"""N:M channel permutation: efficacy, optimality on small cases, and that it never loses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxprune.errors import UsageError
from onnxprune.recovery.permutation import search_permutation


def kept_score(scores, order, n, m):
    groups = np.sort(scores[:, order].reshape(scores.shape[0], -1, m), axis=2)
    return groups[:, :, m - n :].sum()


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_efficacy_on_random_matrices_beats_what_apex_publishes(draw):
    efficacies = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scores = (
            np.abs(rng.standard_normal((64, 128))) if draw == "normal" else rng.random((64, 128))
        )
        found = search_permutation(scores, 2, 4)
        assert sorted(found.order) == list(range(128))
        assert found.kept == pytest.approx(kept_score(scores, found.order, 2, 4))
        assert found.kept_before == pytest.approx(kept_score(scores, np.arange(128), 2, 4))
        assert found.upper == pytest.approx(np.sort(scores, axis=None)[-64 * 64 :].sum())
        efficacies.append(found.efficacy)
    assert min(efficacies) >= 0.35
    assert np.mean(efficacies) >= 0.42


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 4)])
def test_two_buckets_are_split_optimally(n, m):
    scores = np.random.default_rng(n * m).random((9, 2 * m))
    best = max(
        kept_score(scores, [*left, *sorted(set(range(2 * m)) - set(left))], n, m)
        for left in itertools.combinations(range(2 * m), m)
    )
    assert search_permutation(scores, n, m).kept == pytest.approx(best)


@pytest.mark.parametrize(("n", "m", "shape"), [(4, 8, (16, 64)), (1, 2, (16, 40)), (2, 4, (5, 12))])
def test_other_patterns_gain_too(n, m, shape):
    scores = np.random.default_rng(0).random(shape)
    found = search_permutation(scores, n, m)
    assert found.kept > found.kept_before
    assert found.kept == pytest.approx(kept_score(scores, found.order, n, m))
    assert 0.0 < found.efficacy <= 1.0


def test_planted_order_is_recovered_in_full():
    """Two strong channels in every bucket exist, but arrive four to a bucket."""
    rng = np.random.default_rng(1)
    strong = np.repeat([True, True, True, True, False, False, False, False], 4)
    scores = np.where(strong, 10.0, 1.0) * rng.uniform(0.9, 1.1, (8, 32))
    found = search_permutation(scores, 2, 4)
    assert found.efficacy > 0.99


def test_same_seed_same_order_and_any_scale():
    scores = np.random.default_rng(2).random((16, 32))
    first, second = (search_permutation(scores, 2, 4, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.order, second.order)
    tiny = search_permutation(scores * 1e-30, 2, 4, seed=5)
    assert tiny.efficacy == pytest.approx(first.efficacy, abs=1e-3)


def test_a_spent_budget_still_answers_and_never_loses():
    scores = np.random.default_rng(3).random((64, 64))
    for budget in (0.0, 1e5, 1e6):
        found = search_permutation(scores, 2, 4, budget=budget)
        assert sorted(found.order) == list(range(64))
        assert found.kept >= found.kept_before


@pytest.mark.parametrize("scores", [np.ones((4, 8)), np.zeros((4, 8)), np.ones((4, 4))])
def test_where_nothing_can_be_gained_the_order_stays(scores):
    found = search_permutation(scores, 2, 4)
    np.testing.assert_array_equal(found.order, np.arange(scores.shape[1]))
    assert found.efficacy == 0.0


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="buckets of 4"):
        search_permutation(np.ones((2, 6)), 2, 4)
