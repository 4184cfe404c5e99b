"""Channel permutation: efficacy, optimality on small cases, and that it never loses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxprune.errors import UsageError
from onnxprune.recovery.bucket_rules import KeepN, Together
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
        found = search_permutation(scores, KeepN(2, 4))
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
    assert search_permutation(scores, KeepN(n, m)).kept == pytest.approx(best)


@pytest.mark.parametrize(("n", "m", "shape"), [(4, 8, (16, 64)), (1, 2, (16, 40)), (2, 4, (5, 12))])
def test_other_patterns_gain_too(n, m, shape):
    scores = np.random.default_rng(0).random(shape)
    found = search_permutation(scores, KeepN(n, m))
    assert found.kept > found.kept_before
    assert found.kept == pytest.approx(kept_score(scores, found.order, n, m))
    assert 0.0 < found.efficacy <= 1.0


def test_planted_order_is_recovered_in_full():
    """Two strong channels in every bucket exist, but arrive four to a bucket."""
    rng = np.random.default_rng(1)
    strong = np.repeat([True, True, True, True, False, False, False, False], 4)
    scores = np.where(strong, 10.0, 1.0) * rng.uniform(0.9, 1.1, (8, 32))
    found = search_permutation(scores, KeepN(2, 4))
    assert found.efficacy > 0.99


def test_same_seed_same_order_and_any_scale():
    scores = np.random.default_rng(2).random((16, 32))
    first, second = (search_permutation(scores, KeepN(2, 4), seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.order, second.order)
    tiny = search_permutation(scores * 1e-30, KeepN(2, 4), seed=5)
    assert tiny.efficacy == pytest.approx(first.efficacy, abs=1e-3)


def test_a_spent_budget_still_answers_and_never_loses():
    scores = np.random.default_rng(3).random((64, 64))
    for budget in (0.0, 1e5, 1e6):
        found = search_permutation(scores, KeepN(2, 4), budget=budget)
        assert sorted(found.order) == list(range(64))
        assert found.kept >= found.kept_before


@pytest.mark.parametrize("scores", [np.ones((4, 8)), np.zeros((4, 8)), np.ones((4, 4))])
def test_where_nothing_can_be_gained_the_order_stays(scores):
    found = search_permutation(scores, KeepN(2, 4))
    np.testing.assert_array_equal(found.order, np.arange(scores.shape[1]))
    assert found.efficacy == 0.0


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="buckets of 4"):
        search_permutation(np.ones((2, 6)), KeepN(2, 4))


def kept_blocks(scores, order, m, keep):
    sums = scores[:, order].reshape(len(scores), -1, m).sum(axis=2)
    return np.sort(sums, axis=None)[sums.size - keep :].sum()


def families(seed, channels=64, rows=128, count=8, spread=1.0):
    """Scores of channels of ``count`` kinds, shuffled; a kind is large at the same rows."""
    rng = np.random.default_rng(seed)
    kinds = np.exp(rng.standard_normal((rows, count)) * spread)
    kind_of = rng.permutation(np.repeat(np.arange(count), channels // count))
    return (rng.standard_normal((rows, channels)) * kinds[:, kind_of]) ** 2


@pytest.mark.parametrize(
    ("scores", "m", "least"),
    [
        (np.random.default_rng(0).standard_normal((128, 64)) ** 2, 4, 0.18),
        (np.random.default_rng(1).standard_normal((128, 64)) ** 2, 8, 0.14),
        (families(2), 4, 0.6),
        (families(3), 8, 0.5),
    ],
)
def test_blocks_keep_more_of_random_and_far_more_of_related_channels(scores, m, least):
    keep = round(0.3 * scores.size / m)
    found = search_permutation(scores, Together(m, ((len(scores), keep),)))
    assert sorted(found.order) == list(range(64))
    assert found.kept == pytest.approx(kept_blocks(scores, found.order, m, keep))
    assert found.kept_before == pytest.approx(kept_blocks(scores, np.arange(64), m, keep))
    assert found.upper == pytest.approx(np.sort(scores, axis=None)[-keep * m :].sum())
    assert least <= found.efficacy <= 1.0


def test_two_blocks_are_split_optimally():
    scores = np.random.default_rng(4).random((9, 8)) ** 4
    best = max(
        kept_blocks(scores, [*left, *sorted(set(range(8)) - set(left))], 4, 6)
        for left in itertools.combinations(range(8), 4)
    )
    assert search_permutation(scores, Together(4, ((9, 6),))).kept == pytest.approx(best)


def test_planted_blocks_are_found_in_full():
    """Four channels of a kind for every block exist, but arrive dealt over all blocks."""
    rng = np.random.default_rng(5)
    kind = np.arange(32) % 8
    scores = np.where(kind[None, :] == np.arange(64)[:, None] % 8, 10.0, 0.1)
    scores *= rng.uniform(0.9, 1.1, scores.shape)
    found = search_permutation(scores, Together(4, ((64, 64),)))
    assert found.efficacy > 0.99


def test_layers_of_a_group_are_weighed_together():
    """Each layer keeps what its own share says, and no layer's choice is made at another's cost."""
    scores = np.concatenate([families(6), families(7, spread=0.5) * 1e-3])
    rule = Together(4, ((128, 400), (128, 1000)))
    found = search_permutation(scores, rule)
    parts = [(scores[:128], 400), (scores[128:], 1000)]
    assert found.kept == pytest.approx(
        sum(kept_blocks(part, found.order, 4, keep) for part, keep in parts)
    )
    assert found.kept > found.kept_before


@pytest.mark.parametrize("channels", [64, 768])
def test_the_search_for_blocks_is_repeatable_and_never_loses(channels):
    scores = families(8, channels=channels, rows=40)
    rule = Together(4, ((40, 10 * channels // 4),))
    for budget in (0.0, 1e5, 1e7):
        first, second = (search_permutation(scores, rule, budget=budget) for _ in range(2))
        np.testing.assert_array_equal(first.order, second.order)
        assert sorted(first.order) == list(range(channels))
        assert first.kept >= first.kept_before


@pytest.mark.parametrize("keep", [0, 1, 16])
def test_all_blocks_or_none_leave_nothing_to_choose(keep):
    found = search_permutation(np.ones((4, 16)), Together(4, ((4, keep),)))
    assert found.kept == pytest.approx(found.kept_before) == pytest.approx(4.0 * keep)
