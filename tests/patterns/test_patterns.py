"""Every registered pattern against brute force on small weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import UsageError
from onnxprune.patterns import PATTERNS, keep_largest, parse_pattern
from onnxprune.patterns.select import sum_runs

EXAMPLES = [text for _, member in PATTERNS.items() for text in member.examples]
FREE = [text for text in EXAMPLES if parse_pattern(text).fixed_density is None]
FIXED = [text for text in EXAMPLES if parse_pattern(text).fixed_density is not None]

shapes = st.tuples(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
).map(lambda s: (*s[:3], *s[3]))


def weights(shape, seed, levels=None):
    rng = np.random.default_rng(seed)
    if levels:  # few different values: many ties
        return rng.integers(0, levels, shape).astype(np.float32)
    return np.abs(rng.standard_normal(shape)).astype(np.float32)


def unit_labels(pattern, shape):
    """Which unit each weight belongs to, found through masks of one unit each."""
    units = pattern.n_units(shape)
    labels = np.full(shape, -1)
    for unit in range(units):
        one = pattern.mask_from_units(np.arange(units) == unit, shape)
        assert one.shape == tuple(shape) and one.dtype == np.bool_
        assert (labels[one] == -1).all(), "units overlap"
        labels[one] = unit
    assert (labels >= 0).all(), "a weight belongs to no unit"
    return labels


def test_the_registry_lists_every_pattern():
    assert PATTERNS.names() == ["N:M", "block", "channel", "element", "kernel", "vector"]
    for _, member in PATTERNS.items():
        assert member.summary and member.syntax and member.examples


@pytest.mark.parametrize("text", EXAMPLES)
def test_spelling_round_trips(text):
    pattern = parse_pattern(text)
    assert parse_pattern(pattern.text) == pattern
    assert parse_pattern(f"  {text.upper()} ") == pattern
    assert hash(pattern) == hash(parse_pattern(text))
    assert pattern.structural == (text == "channel")


@pytest.mark.parametrize("text", FREE)
@given(shape=shapes, seed=st.integers(0, 99), ties=st.booleans(), part=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_mask_keeps_the_best_units(text, shape, seed, ties, part):
    pattern = parse_pattern(text)
    if pattern.misfit(shape) is not None:
        assert text == "kernel" and len(shape) == 3
        return
    saliency = weights(shape, seed, 3 if ties else None)
    labels = unit_labels(pattern, shape)
    units = pattern.n_units(shape)
    sizes = np.bincount(labels.ravel(), minlength=units)
    np.testing.assert_array_equal(pattern.unit_sizes(shape), sizes)
    expected = np.bincount(labels.ravel(), saliency.ravel(), units)
    scores = pattern.unit_scores(saliency)
    assert scores.shape == (units,)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)

    keep = round(part * units)
    mask = pattern.mask(saliency, keep)
    best = sorted(range(units), key=lambda u: (-scores[u], u))[:keep]
    np.testing.assert_array_equal(mask, np.isin(labels, best))


@pytest.mark.parametrize("text", FIXED)
@given(
    groups=st.integers(1, 3),
    outputs=st.integers(1, 5),
    repeats=st.integers(1, 4),
    kernel=st.lists(st.integers(1, 3), max_size=2),
    seed=st.integers(0, 99),
    ties=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_nm_keeps_the_n_best_of_every_m(text, groups, outputs, repeats, kernel, seed, ties):
    pattern = parse_pattern(text)
    n, m = map(int, text.split(":"))
    shape = (groups, outputs, m * repeats, *kernel)
    saliency = weights(shape, seed, 3 if ties else None)
    mask = pattern.mask(saliency)
    assert mask.shape == shape and mask.dtype == np.bool_
    for g, o, r in itertools.product(range(groups), range(outputs), range(repeats)):
        for position in np.ndindex(*kernel):
            at = [(g, o, r * m + i, *position) for i in range(m)]
            best = sorted(range(m), key=lambda i: (-saliency[at[i]], i))[:n]
            assert [i for i in range(m) if mask[at[i]]] == sorted(best)
    assert mask.mean() == pytest.approx(pattern.fixed_density)
    np.testing.assert_array_equal(pattern.mask(saliency, mask.size * n // m), mask)
    np.testing.assert_array_equal(pattern.mask_from_units(mask.ravel(), shape), mask)


@given(st.integers(1, 20).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m + 1))))
@settings(max_examples=60, deadline=None)
def test_nm_both_ways_of_choosing_agree(pair):
    n, m = pair
    pattern = parse_pattern(f"{n}:{m}")
    scores = weights((6, 5, m, 3), n, 4)
    by_pairs, by_partition = np.empty((2, *scores.shape), dtype=bool)
    pattern._tournament(scores, by_pairs)
    pattern._partition(scores, by_partition)
    np.testing.assert_array_equal(by_pairs, by_partition)


def test_nm_in_chunks_equals_at_once(monkeypatch):
    pattern = parse_pattern("2:4")
    saliency = weights((2, 33, 16, 3, 3), 0)
    whole = pattern.mask(saliency)
    monkeypatch.setattr("onnxprune.patterns.nm._CHUNK", 300)
    np.testing.assert_array_equal(pattern.mask(saliency), whole)


def test_nm_misfit_names_the_reason():
    pattern = parse_pattern("2:4")
    assert pattern.misfit((1, 8, 8, 3, 3)) is None
    assert pattern.misfit((1, 8, 5)) == "5 input channels are not a multiple of 4"
    assert pattern.misfit((4, 2, 1, 3, 3)) == "1 input channels per group are not a multiple of 4"
    with pytest.raises(UsageError, match="5 input channels are not a multiple of 4"):
        pattern.mask(np.ones((1, 8, 5)))
    with pytest.raises(UsageError, match="keeps 4 of 8"):
        pattern.mask(np.ones((1, 1, 8)), 3)
    with pytest.raises(ValueError, match="does not keep 2"):
        pattern.mask_from_units(np.array([1, 1, 1, 0], dtype=bool), (1, 1, 4))


def test_kernel_does_not_fit_a_matrix():
    assert "no kernel axes" in parse_pattern("kernel").misfit((1, 8, 8))
    assert parse_pattern("kernel").misfit((1, 8, 8, 1, 1)) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("4:2", "Did you mean 2:4"),
        ("0:4", "0 < N < M"),
        ("4:4", "0 < N < M"),
        ("0:0", "0 < N < M"),
        ("block:0x1", "at least 1"),
        ("block:4x0", "at least 1"),
        ("block", "lacks its size"),
        ("block:4", "lacks its size"),
        ("block:-1x4", "lacks its size"),
        ("vector:0", "at least one"),
        ("vector:x", "not a number"),
        ("elemnt", "Did you mean 'element'"),
        ("blok:4x1", "Did you mean 'block:4x1'"),
        ("chanel", "Did you mean 'channel'"),
        ("2:4:1", "unknown pattern"),
        ("-2:4", "unknown pattern"),
        ("", "Choices"),
    ],
)
def test_nonsense_is_a_usage_error(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_pattern(text)


@pytest.mark.parametrize("keep", [None, -1, 10])
def test_a_count_outside_the_weight_is_a_usage_error(keep):
    with pytest.raises(UsageError, match="from 0 to 9"):
        parse_pattern("element").mask(np.ones((1, 3, 3)), keep)


def test_4x1_blocks_share_one_mask_over_four_outputs():
    mask = parse_pattern("block:4x1").mask(weights((1, 8, 6, 3), 1), 18)
    tied = mask.reshape(1, 2, 4, 6, 3)
    assert (tied == tied[:, :, :1]).all()
    assert mask.sum() == 72


def test_vectors_are_kernel_rows_or_runs_of_inputs():
    assert parse_pattern("vector").grid((1, 2, 3, 5, 4)) == (1, 2, 3, 5, 1)
    assert parse_pattern("vector").grid((1, 2, 3, 5, 1)) == (1, 2, 3, 1, 1)
    assert parse_pattern("vector").grid((1, 2, 10)) == (1, 2, 3)
    assert parse_pattern("vector:5").grid((1, 2, 10, 1, 1)) == (1, 2, 2, 1, 1)


@pytest.mark.parametrize("text", EXAMPLES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_is_kept_and_the_count_stays_exact(text, dtype):
    pattern = parse_pattern(text)
    shape = (1, 16, 240, 3, 3)
    saliency = weights(shape, 5).astype(dtype)
    saliency[0, 3, 7, 1, 1] = np.nan
    if pattern.fixed_density is None:
        keep = pattern.n_units(shape) // 3
        mask = pattern.mask(saliency, keep)
        sizes = set(pattern.unit_sizes(shape).tolist())
        assert sizes == {saliency.size // pattern.n_units(shape)}  # no ragged edge here
        assert mask.sum() == keep * sizes.pop()
    else:
        mask = pattern.mask(saliency)
        assert mask.mean() == pytest.approx(pattern.fixed_density)
    assert mask[0, 3, 7, 1, 1]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.inf, np.nan]), max_size=30), st.floats(0, 1))
def test_keep_largest_breaks_ties_by_index(values, part):
    scores = np.array(values, dtype=np.float64)
    keep = round(part * len(scores))
    rank = np.where(np.isnan(scores), np.inf, scores)
    expected = sorted(range(len(scores)), key=lambda i: (-rank[i], i))[:keep]
    assert np.flatnonzero(keep_largest(scores, keep)).tolist() == sorted(expected)


def test_keep_largest_refuses_impossible_counts():
    with pytest.raises(ValueError, match="cannot keep 4 of 3"):
        keep_largest(np.zeros(3), 4)


@given(shape=shapes, axis=st.integers(0, 2), length=st.integers(1, 6))
def test_sum_runs_equals_reduceat(shape, axis, length):
    values = weights(shape, 3)
    expected = np.add.reduceat(values.astype(np.float64), range(0, shape[axis], length), axis=axis)
    np.testing.assert_allclose(sum_runs(values, axis, length), expected, rtol=1e-12)


def test_large_weights_are_not_copied_needlessly():
    saliency = weights((1, 8, 8, 3, 3), 0)
    assert np.shares_memory(parse_pattern("element").unit_scores(saliency), saliency)
    assert np.shares_memory(parse_pattern("2:4").unit_scores(saliency), saliency)
    for text in EXAMPLES:
        sizes = parse_pattern(text).unit_sizes((1, 16, 240, 3, 3))
        assert sizes.strides == (0,) or math.prod(sizes.shape) < 16 * 240 * 9
