"""Every registered criterion: its formula, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from onnxprune.criteria import CRITERIA, Member, parse_criterion
from onnxprune.criteria.normalise import VOTES
from onnxprune.errors import UsageError

# Those that look at activations have tests of their own: test_measured.py.
EXAMPLES = [
    text
    for _, member in CRITERIA.items()
    for text in member.examples
    if "activations" not in member.needs
]
MAGNITUDES = [text for text in EXAMPLES if text not in ("random", "gm")]


def weight(seed, shape=(2, 4, 3, 3, 3)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def members(seed, units=7, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [
        Member("out", "w", rng.standard_normal((units, 27)).astype(dtype)),
        Member("in", "v", 9 * rng.standard_normal((units, 40)).astype(dtype)),
        Member("bn_scale", "gamma", rng.standard_normal((units, 1)).astype(dtype)),
        Member("bias", "beta", rng.standard_normal((units, 1)).astype(dtype)),
        Member("other", "mean", rng.standard_normal((units, 1)).astype(dtype)),
    ]


def test_the_registry_lists_every_criterion():
    alone = [name for name, c in CRITERIA.items() if "activations" not in c.needs]
    assert alone == ["auto", "bn", "gm", "l1", "l2", "lp", "random"]
    for _, member in CRITERIA.items():
        assert member.summary and member.syntax and member.examples
    assert {name for name, c in CRITERIA.items() if c.needs == {"bn"}} == {"bn"}


@pytest.mark.parametrize("text", EXAMPLES)
def test_spelling_round_trips(text):
    criterion = parse_criterion(text)
    assert criterion.name == text
    assert parse_criterion(f" {text.upper()}") == criterion


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("l3", "unknown criterion"),
        ("rndom", "Did you mean 'random'"),
        ("lp", "lacks its exponent"),
        ("lp:x", "lacks its exponent"),
        ("lp:0", "above 0"),
        ("lp:-1", "above 0"),
        ("lp:nan", "above 0"),
        ("lp:inf", "above 0"),
        ("", "Choices"),
    ],
)
def test_nonsense_is_a_usage_error(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_criterion(text)


@pytest.mark.parametrize("text", EXAMPLES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_elementwise_is_float32_of_the_same_shape(text, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    given_weight = weight(0).astype(dtype)
    before = given_weight.copy()
    scores = parse_criterion(text).elementwise(given_weight, np.random.default_rng(3))
    assert scores.dtype == np.float32 and scores.shape == given_weight.shape
    assert (scores >= 0).all() and np.isfinite(scores).all()
    np.testing.assert_array_equal(given_weight, before)
    again = parse_criterion(text).elementwise(given_weight, np.random.default_rng(3))
    np.testing.assert_array_equal(scores, again)


@pytest.mark.parametrize("text", EXAMPLES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_elementwise_scores_what_is_not_finite_highest(text, bad):
    broken = weight(1)
    broken[1, 2, 0, 1, 1] = bad
    scores = parse_criterion(text).elementwise(broken, np.random.default_rng(0))
    assert not np.isnan(scores).any()
    if text != "random":
        assert scores[1, 2, 0, 1, 1] == np.inf
        assert np.isfinite(scores).sum() == scores.size - 1


@pytest.mark.parametrize("text", EXAMPLES)
def test_empty_weights_are_fine(text):
    assert parse_criterion(text).elementwise(np.zeros((1, 0, 3), np.float32)).shape == (1, 0, 3)


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_elementwise_formulas(seed):
    w = weight(seed)
    size = np.abs(w.astype(np.float64))
    np.testing.assert_array_equal(parse_criterion("l1").elementwise(w), np.abs(w))
    np.testing.assert_array_equal(parse_criterion("bn").elementwise(w), np.abs(w))
    np.testing.assert_allclose(parse_criterion("l2").elementwise(w), size**2, rtol=1e-6)
    np.testing.assert_allclose(parse_criterion("lp:1.5").elementwise(w), size**1.5, rtol=1e-5)
    flat = w.ravel().astype(np.float64)
    distances = np.abs(flat[:, None] - flat[None]).sum(1) / (flat.size - 1)
    np.testing.assert_allclose(parse_criterion("gm").elementwise(w).ravel(), distances, rtol=1e-5)


@pytest.mark.parametrize("text", [t for t in EXAMPLES if t != "random"])
def test_degree_is_how_the_saliency_grows(text):
    criterion, w = parse_criterion(text), weight(4)
    grown = criterion.elementwise(3 * w)
    np.testing.assert_allclose(grown, 3**criterion.degree * criterion.elementwise(w), rtol=1e-5)


@pytest.mark.parametrize("text", EXAMPLES)
@pytest.mark.parametrize("units", [1, 2, 7])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_unit_scores_have_mean_one(text, units, dtype):
    group = members(2, units, dtype)
    scores = parse_criterion(text).unit(group, np.random.default_rng(1))
    assert scores.shape == (units,) and scores.dtype == np.float64
    assert (scores >= 0).all()
    assert scores.mean() == pytest.approx(1.0)
    again = parse_criterion(text).unit(group, np.random.default_rng(1))
    np.testing.assert_array_equal(scores, again)


@pytest.mark.parametrize("text", EXAMPLES)
def test_unit_scores_do_not_depend_on_a_members_scale_or_order(text):
    group = members(3)
    scaled = [Member(m.role, m.name, m.values * 64) if m.role == "out" else m for m in group]
    criterion = parse_criterion(text)
    scores = criterion.unit(group, np.random.default_rng(1))
    rescored = criterion.unit(scaled[::-1], np.random.default_rng(1))
    np.testing.assert_allclose(scores, rescored, rtol=1e-9)


@pytest.mark.parametrize("text", [t for t in EXAMPLES if t != "random"])
def test_units_with_nothing_in_them_score_lowest_and_equal_units_equal(text):
    group = members(4)
    for member in group:
        member.values[2] = 0.0
        member.values[5] = member.values[1]
    scores = parse_criterion(text).unit(group)
    if text != "gm":
        assert scores.argmin() == 2 and scores[2] == 0.0
    assert scores[5] == scores[1]


@pytest.mark.parametrize("text", EXAMPLES)
def test_units_that_nothing_tells_apart_all_score_one(text):
    zero = [Member("out", "w", np.zeros((4, 3))), Member("bias", "b", np.arange(4.0)[:, None])]
    scores = parse_criterion(text).unit(zero, np.random.default_rng(0))
    if text == "random":
        assert len(set(scores)) == 4
    else:
        np.testing.assert_array_equal(scores, np.ones(4))


@pytest.mark.parametrize("text", [t for t in EXAMPLES if t != "random"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_unit_is_kept_and_does_not_spoil_the_others(text, bad):
    group = members(5)
    for member in group:
        member.values[3, 0] = bad
    scores = parse_criterion(text).unit(group)
    assert scores[3] == np.inf
    assert np.isfinite(np.delete(scores, 3)).all()


@pytest.mark.parametrize("text", EXAMPLES)
def test_members_must_agree(text):
    criterion = parse_criterion(text)
    with pytest.raises(ValueError, match="none"):
        criterion.unit([])
    bent = [Member("out", "w", np.ones((3, 2))), Member("bn_scale", "g", np.ones((4, 1)))]
    if text != "gm":  # looks at one member only
        with pytest.raises(ValueError, match=r"w \(3, 2\), g \(4, 1\)"):
            parse_criterion("l1").unit(bent)


@pytest.mark.parametrize(("text", "p"), [("l1", 1), ("l2", 2), ("lp:0.5", 0.5), ("lp:4", 4)])
def test_unit_is_the_weighted_mean_of_relative_norms(text, p):
    group = members(6)
    total, votes = np.zeros(7), 0.0
    for member in group:
        if member.role in VOTES:
            norm = (np.abs(member.values.astype(np.float64)) ** p).sum(1) ** (1 / p)
            total += VOTES[member.role] * norm / norm.mean()
            votes += VOTES[member.role]
    np.testing.assert_allclose(parse_criterion(text).unit(group), total / votes, rtol=1e-9)


def test_what_the_consumers_do_with_a_unit_decides():
    filters = Member("out", "w", np.array([[3.0], [2.0], [1.0]]))
    consumer = Member("in", "v", np.array([[1.0], [2.0], [3.0]]))
    scores = parse_criterion("l1").unit([filters, consumer])
    np.testing.assert_allclose(scores, [0.7, 1.0, 1.3])


def test_bias_and_bookkeeping_do_not_vote():
    group = members(7)
    voters = [m for m in group if m.role in ("out", "in", "bn_scale")]
    for text in MAGNITUDES:
        criterion = parse_criterion(text)
        np.testing.assert_array_equal(criterion.unit(group), criterion.unit(voters))


def test_huge_weights_do_not_overflow_a_unit():
    big = [Member("out", "w", np.full((3, 4), 1e30, np.float32) * [[1], [2], [3]])]
    for text in ("l1", "l2", "lp:4", "gm"):
        scores = parse_criterion(text).unit(big)
        assert np.isfinite(scores).all()
    np.testing.assert_allclose(parse_criterion("lp:4").unit(big), [0.5, 1.0, 1.5])


def test_bn_reads_gamma_and_says_when_it_cannot():
    criterion, group = parse_criterion("bn"), members(8)
    gamma = np.abs(group[2].values[:, 0].astype(np.float64))
    np.testing.assert_allclose(criterion.unit(group), gamma / gamma.mean())
    assert criterion.caveat(group) is None

    folded = [m for m in group if m.role != "bn_scale"]
    assert "no batch-norm scale" in criterion.caveat(folded)
    np.testing.assert_array_equal(criterion.unit(folded), parse_criterion("l1").unit(folded))

    dead = [*folded, Member("bn_scale", "gamma", np.zeros((7, 1)))]
    assert "zero" in criterion.caveat(dead)
    np.testing.assert_array_equal(criterion.unit(dead), parse_criterion("l1").unit(dead))
    assert "single weights" in criterion.caveat(None)


@given(seed=st.integers(0, 999), units=st.integers(2, 12), width=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_gm_sums_distances_to_the_other_filters(seed, units, width):
    filters = np.random.default_rng(seed).standard_normal((units, width)) + 5.0
    group = [Member("out", "w", filters), Member("in", "v", np.ones((units, 2)))]
    expected = cdist(filters, filters).sum(1)
    scores = parse_criterion("gm").unit(group)
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)
    assert parse_criterion("gm").caveat(group) is None


def test_gm_sees_small_differences_of_large_filters():
    filters = np.random.default_rng(0).standard_normal((8, 5)) + 1e8
    expected = cdist(filters, filters).sum(1)
    scores = parse_criterion("gm").unit([Member("out", "w", filters)])
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)


def test_gm_scores_equal_filters_equal_in_large_layers():
    filters = np.random.default_rng(0).standard_normal((150, 301))
    filters = np.concatenate((filters, filters[::-1], filters))
    scores = parse_criterion("gm").unit([Member("out", "w", filters)])
    np.testing.assert_array_equal(scores[:150], scores[299:149:-1])
    np.testing.assert_array_equal(scores[:150], scores[300:])


def test_gm_without_a_producer_falls_back_and_says_so():
    group = [Member("in", "v", weight(9, (5, 3)))]
    assert "l1" in parse_criterion("gm").caveat(group)
    np.testing.assert_array_equal(
        parse_criterion("gm").unit(group), parse_criterion("l1").unit(group)
    )


def test_gm_drops_the_replaceable_filter_not_the_small_one():
    filters = np.array([[1.0, 0], [-9, 0], [0, 9], [5, 5], [5, 5.1], [5, 4.9]])
    scores = parse_criterion("gm").unit([Member("out", "w", filters)])
    assert scores.argmin() in (3, 4, 5)


def test_random_follows_its_generator():
    criterion, rng = parse_criterion("random"), np.random.default_rng(11)
    group = members(1)
    first, second = criterion.unit(group, rng), criterion.unit(group, rng)
    assert (first != second).any()
    np.testing.assert_array_equal(criterion.unit(group), criterion.unit(group))
