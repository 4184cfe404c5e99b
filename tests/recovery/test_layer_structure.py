"""The geometry found for a pattern keeps exactly what the pattern itself would keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import UsageError
from onnxprune.patterns import PATTERNS, parse_pattern
from onnxprune.recovery.structure import structure_of, top_of_buckets

EXAMPLES = [text for _, member in PATTERNS.items() for text in member.examples]

shapes = st.tuples(
    st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(1, 3), max_size=2).map(tuple)
).map(lambda s: (s[0], s[1], *s[2]))


@given(text=st.sampled_from(EXAMPLES), shape=shapes, seed=st.integers(0, 99), part=st.floats(0, 1))
def test_projection_is_the_patterns_own_mask(text, shape, seed, part):
    pattern = parse_pattern(text)
    view = (1, *shape)
    if pattern.misfit(view):
        with pytest.raises(UsageError, match="does not fit"):
            structure_of(pattern, shape)
        return
    structure = structure_of(pattern, shape)
    assert structure is not None
    assert structure.cells == pattern.n_units(view)
    # Whole numbers sum exactly, so that both ways of adding a block agree to the bit.
    scores = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.float64)
    keep = None if pattern.fixed_density else round(part * structure.cells)
    ours = structure.project(scores.reshape(shape[0], -1), keep)
    theirs = pattern.mask(scores[None], keep).reshape(ours.shape)
    if np.unique(scores).size == scores.size and structure.width * structure.height == 1:
        np.testing.assert_array_equal(ours, theirs)
    assert scores.reshape(ours.shape)[ours].sum() == scores.reshape(ours.shape)[theirs].sum()
    touched = pattern.unit_scores(ours.reshape(view).astype(np.float64)) > 0
    assert (
        touched.sum()
        == pattern.unit_scores(theirs.reshape(view).astype(np.float64)).astype(bool).sum()
    )
    whole = pattern.mask_from_units(touched, view).reshape(ours.shape)
    np.testing.assert_array_equal(ours, whole)  # no unit is kept in part


@given(text=st.sampled_from(EXAMPLES), shape=shapes)
def test_gathering_reorders_and_pads_only(text, shape):
    pattern = parse_pattern(text)
    if pattern.misfit((1, *shape)):
        return
    structure = structure_of(pattern, shape)
    matrix = 1.0 + np.arange(np.prod(shape), dtype=np.float64).reshape(shape[0], -1)
    gathered = structure.gather(matrix)
    assert sorted(gathered[gathered != 0]) == sorted(matrix.ravel())
    square = matrix.T @ matrix
    wide = structure.gather_square(square)
    real = structure.order >= 0
    np.testing.assert_array_equal(
        wide[np.ix_(real, real)], square[np.ix_(structure.order[real], structure.order[real])]
    )
    assert (wide[~real][:, ~real] == np.eye((~real).sum())).all()
    assert not wide[~real][:, real].any()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_bucket_choice_is_a_stable_sort(n, m, seed):
    n = min(n, m)
    scores = np.random.default_rng(seed).integers(0, 4, (7, m)).astype(float)
    kept = top_of_buckets(scores, n)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    expected = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(expected, ranked, True, axis=1)
    np.testing.assert_array_equal(kept, expected)


def test_counts_out_of_range_are_refused():
    structure = structure_of(parse_pattern("element"), (2, 3))
    for keep in (None, -1, 7):
        with pytest.raises(UsageError, match="0 to 6"):
            structure.project(np.ones((2, 3)), keep)
