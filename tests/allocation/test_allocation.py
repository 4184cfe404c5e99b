"""Every registered strategy: its formula, and what all of them promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxprune.allocation import ALLOCATIONS, Item, allocate
from onnxprune.allocation.base import admissible, ascending, lowest_keep, round_keep
from onnxprune.allocation.erk import erk_densities
from onnxprune.allocation.ladder import build, descend
from onnxprune.allocation.lamp import lamp_scores
from onnxprune.errors import UsageError

STRATEGIES = ALLOCATIONS.names()
BY_SCORE = ["global", "lamp"]


def make_items(seed, sizes, *, ties=False, ragged=False, dtype=np.float64):
    rng = np.random.default_rng(seed)
    items = []
    for index, units in enumerate(sizes):
        scores = rng.integers(0, 3, units) if ties else rng.gamma(1.0 + index, 1.0, units)
        each = rng.integers(1, 9, units) if ragged else float(rng.integers(1, 9))
        dims = (units, int(rng.integers(1, 50)), 3, 3)
        items.append(Item(f"layer{index}", scores.astype(dtype), each, dims))
    return items


def weights_of(item):
    return np.broadcast_to(np.asarray(item.weights_per_unit, np.float64), item.scores.shape)


def removed_by(item, keep):
    """The weights that go when the best ``keep`` units stay, by a plain sort."""
    order = sorted(range(item.n_units), key=lambda u: (-item.scores[u], u))
    return sum(weights_of(item)[u] for u in order[keep:])


item_lists = st.builds(
    make_items,
    st.integers(0, 999),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    ties=st.booleans(),
    ragged=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)


def test_the_registry_lists_every_strategy():
    assert STRATEGIES == ["auto", "erk", "global", "lamp", "measured", "uniform"]
    assert all(strategy.summary for _, strategy in ALLOCATIONS.items())


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(
    items=item_lists,
    sparsity=st.floats(0, 1),
    align=st.sampled_from([1, 2, 4, 8]),
    min_keep=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_counts_are_admissible_and_near_the_target(strategy, items, sparsity, align, min_keep):
    result = allocate(strategy, items, sparsity, {}, align, min_keep)
    assert list(result.keep) == [item.name for item in items]
    total = removed = most = 0.0
    steps, halves = [0.0], 0.0
    for item in items:
        keep = result.keep[item.name]
        allowed = admissible(item.n_units, align, min_keep)
        assert keep in allowed
        total += weights_of(item).sum()
        removed += removed_by(item, keep)
        most += removed_by(item, min(allowed))
        downs = [removed_by(item, k) for k in allowed]
        steps += np.diff(downs).tolist()
        halves += max(np.diff(downs), default=0.0) / 2
    assert result.sparsity == pytest.approx(removed / total)
    reachable = min(sparsity * total, most)
    if strategy in BY_SCORE:  # shared out to within half of the step at the threshold
        assert abs(removed - reachable) <= max(steps) / 2 + 1e-6 * total
    elif align == 1 and min_keep == 0 and not any(map(_ragged, items)):
        assert abs(removed - reachable) <= halves + 1e-6 * total
    assert bool(result.notes) == (sparsity * total > most * (1 + 1e-9))


def _ragged(item):
    return isinstance(item.weights_per_unit, np.ndarray)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(items=item_lists, low=st.floats(0, 1), high=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_more_sparsity_never_removes_less(strategy, items, low, high):
    low, high = sorted((low, high))
    assert (
        allocate(strategy, items, low).sparsity <= allocate(strategy, items, high).sparsity + 1e-12
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(items=item_lists, sparsity=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_the_same_request_has_the_same_answer(strategy, items, sparsity):
    copies = [
        Item(i.name, i.scores.copy(), np.copy(weights_of(i)), i.dims, i.fixed_keep, i.degree)
        for i in items
    ]
    assert allocate(strategy, items, sparsity).keep == allocate(strategy, copies, sparsity).keep


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s not in BY_SCORE])
@given(items=item_lists, sparsity=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_strategies_without_need_of_scores_ignore_them(strategy, items, sparsity):
    assert not ALLOCATIONS.get(strategy).needs_scores
    blank = [
        Item(i.name, np.broadcast_to(np.float32(0), i.scores.shape), i.weights_per_unit, i.dims)
        for i in items
    ]
    assert allocate(strategy, items, sparsity).keep == allocate(strategy, blank, sparsity).keep


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_ends_and_nothing_at_all(strategy):
    items = make_items(0, [7, 30])
    assert allocate(strategy, items, 0.0).keep == {"layer0": 7, "layer1": 30}
    assert allocate(strategy, items, 1.0).keep == {"layer0": 1, "layer1": 1}
    assert allocate(strategy, items, 1.0, min_keep=0).keep == {"layer0": 0, "layer1": 0}
    assert allocate(strategy, items, None).keep == {"layer0": 7, "layer1": 30}
    assert allocate(strategy, items, 1.0, align=8).keep == {"layer0": 7, "layer1": 8}
    assert allocate(strategy, [], 0.5).keep == {}
    empty = [Item("none", np.zeros(0)), *items]
    assert allocate(strategy, empty, 0.5).keep["none"] == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_leave_last(strategy, bad):
    items = make_items(1, [20, 20, 20])
    items[1].scores[:] = bad
    items[2].scores[4] = bad
    result = allocate(strategy, items, 0.5)
    assert result.sparsity == pytest.approx(0.5, abs=0.05)
    if strategy in BY_SCORE:
        assert allocate(strategy, items, 0.3).keep["layer1"] == 20
    # Where nothing else is left to go they do go.
    assert allocate(strategy, items, 0.95).sparsity == pytest.approx(0.95, abs=0.02)


def test_equal_scores_are_shared_in_proportion():
    items = [Item("a", np.ones(100)), Item("b", np.ones(300)), Item("c", np.zeros(10))]
    assert allocate("global", items, 0.5).keep == {"a": 51, "b": 153, "c": 1}


# ---- formulas


def test_uniform_rounds_each_layer_to_its_nearest_count():
    items = [Item(str(n), np.arange(float(n))) for n in (1, 2, 3, 10, 15, 101)]
    keep = allocate("uniform", items, 0.5).keep
    assert keep == {"1": 1, "2": 1, "3": 2, "10": 5, "15": 8, "101": 51}
    assert allocate("uniform", items[3:], 0.7).keep == {"10": 3, "15": 5, "101": 30}
    assert allocate("uniform", items[3:], 0.7, align=4).keep == {"10": 4, "15": 4, "101": 32}


@given(items=item_lists, sparsity=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_global_removes_the_lowest_relative_scores(items, sparsity):
    assume(all(len(set(i.scores)) == i.n_units for i in items))  # ties have their own test
    ranked = sorted(
        (item.scores[u] / item.scores.mean(dtype=np.float64), index, u)
        for index, item in enumerate(items)
        for u in range(item.n_units)
        if item.scores[u] < item.scores.max()  # one of each stays
    )
    budget = sparsity * sum(weights_of(item).sum() for item in items)
    keep = [item.n_units for item in items]
    gone = 0.0
    for _, index, u in ranked:
        cost = weights_of(items[index])[u]
        if abs(budget - gone - cost) >= abs(budget - gone):
            break
        gone += cost
        keep[index] -= 1
    assert list(allocate("global", items, sparsity).keep.values()) == keep


def test_global_does_not_see_a_layers_scale():
    items = make_items(3, [50, 60, 70])
    scaled = [Item(i.name, i.scores * 1000**k, i.weights_per_unit) for k, i in enumerate(items)]
    assert allocate("global", items, 0.6).keep == allocate("global", scaled, 0.6).keep


@given(st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=30), st.sampled_from([0.5, 1, 2]))
def test_lamp_formula(values, degree):
    scores = np.sort(np.array(values))
    assume(scores.max() > 1e-3)
    squared = scores ** (2 / degree)
    expected = [squared[i] / squared[i:].sum() for i in range(len(squared))]
    result = lamp_scores(scores, Item("a", scores, degree=degree))
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-300)
    assert (np.diff(result) >= 0).all()


def test_lamp_of_huge_scores_does_not_overflow():
    scores = np.array([1e200, 2e200, 3e200])
    np.testing.assert_allclose(lamp_scores(scores, Item("a", scores)), [1 / 14, 4 / 13, 1])


def test_lamp_means_the_same_weights_whatever_the_power_of_the_score():
    items = make_items(5, [40, 50, 60])
    squared = [Item(i.name, i.scores**2, i.weights_per_unit, degree=2.0) for i in items]
    assert allocate("lamp", items, 0.7).keep == allocate("lamp", squared, 0.7).keep


def test_lamp_removes_by_hand():
    # LAMP scores: a -> 1/50 4/49 9/45 36/36, b -> 1/4 1/3 1/2 1
    items = [Item("a", np.array([3.0, 1, 6, 2])), Item("b", np.ones(4))]
    assert allocate("lamp", items, 3 / 8).keep == {"a": 1, "b": 4}
    assert allocate("lamp", items, 5 / 8).keep == {"a": 1, "b": 2}


@given(seed=st.integers(0, 999), layers=st.integers(1, 6), part=st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_erk_densities_meet_the_budget_in_proportion(seed, layers, part):
    rng = np.random.default_rng(seed)
    shares, sizes = rng.random(layers) + 1e-3, rng.integers(1, 1000, layers).astype(float)
    floors = rng.random(layers) * 0.2
    low, high = floors @ sizes, sizes.sum()
    kept = low + part * (high - low)
    density = erk_densities(shares, sizes, floors, kept)
    assert density @ sizes == pytest.approx(kept)
    assert (density <= 1).all() and (density >= floors).all()
    inside = (density < 1 - 1e-12) & (density > floors + 1e-12)
    factors = density[inside] / shares[inside]
    np.testing.assert_allclose(factors, factors.mean() if len(factors) else 0, rtol=1e-6)


def test_erk_by_hand():
    dims = [(16, 3, 3, 3), (64, 64, 3, 3), (10, 64)]
    items = [Item(f"l{i}", np.arange(float(math.prod(d))), 1.0, d) for i, d in enumerate(dims)]
    keep = allocate("erk", items, 0.9).keep
    sizes = [math.prod(d) for d in dims]
    assert keep["l0"] == 432 and keep["l2"] == 640  # would be above 1: dense
    assert sum(keep.values()) == pytest.approx(0.1 * sum(sizes), abs=1)
    sparser = allocate("erk", items, 0.99).keep
    density = [sparser[f"l{i}"] / sizes[i] for i in range(3)]
    share = [sum(d) / math.prod(d) for d in dims]
    np.testing.assert_allclose(np.divide(density, share), density[1] / share[1], rtol=0.02)


# ---- the ladder below global and LAMP


def test_one_infinite_unit_does_not_change_its_layers_scale():
    (plain,) = make_items(9, [200])
    broken = Item("broken", np.append(plain.scores, np.inf), plain.weights_per_unit)
    keep = allocate("global", [plain, broken], 0.5).keep
    assert keep["broken"] == pytest.approx(keep["layer0"] + 1, abs=1)


def test_a_chunk_is_judged_by_its_mean_not_its_size():
    # Aligned to 8, "a" can only fall by 2 units and then by 8, "b" by 8: the cheap pair goes last.
    items = [Item("a", np.full(10, 1.5)), Item("b", np.ones(16))]
    ladders = [build(item, 8, 1, lambda scores, _: scores) for item in items]
    assert [ladder.scores.tolist() for ladder in ladders] == [[1.5], [1.0]]
    assert [
        ladder.kept(steps) for ladder, steps in zip(ladders, descend(ladders, 8), strict=True)
    ] == [10, 8]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_may_be_negative(dtype):
    values = np.random.default_rng(0).standard_normal(300).astype(dtype)
    items = [Item("a", values[:100]), Item("b", values[100:])]
    ladders = [build(item, 1, 0, lambda scores, _: scores) for item in items]
    for count in (0, 1, 40, 150, 299, 300):
        gone = np.argsort(values)[:count]
        assert descend(ladders, count) == [(gone < 100).sum(), (gone >= 100).sum()]


# ---- overrides and fixed items


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_overrides_keep_their_level_and_the_others_take_the_rest(strategy):
    items = make_items(7, [400, 400, 400])
    items = [Item(i.name, i.scores, 1.0, (400, 9)) for i in items]
    result = allocate(strategy, items, 0.5, {"layer1": 0.2})
    assert result.keep["layer1"] == 320
    assert result.sparsity == pytest.approx(0.5, abs=0.002)
    assert result.reasons == {"layer1": "override 0.2"}
    only = allocate(strategy, items, None, {"layer1": 0.2})
    assert only.keep == {"layer0": 400, "layer1": 320, "layer2": 400}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fixed_items_count_but_do_not_move(strategy):
    items = [Item("f", np.ones(100), fixed_keep=37), *make_items(2, [100])]
    result = allocate(strategy, items, 0.5, {"f": 0.1}, align=8)
    assert result.keep["f"] == 37
    assert "fixed at 37 of 100" in result.reasons["f"]
    assert "override is not used" in result.reasons["f"]


def test_an_impossible_rest_says_what_is_possible():
    items = [Item("big", np.arange(900.0)), Item("small", np.arange(100.0))]
    with pytest.raises(UsageError, match=r"0\.5 cannot be met.*0 to 0\.1 is possible"):
        allocate("uniform", items, 0.5, {"big": 0.0})
    with pytest.raises(UsageError, match=r"0\.1 cannot be met.*0\.72 to 0\.82 is possible"):
        allocate("uniform", items, 0.1, {"big": 0.8})
    everything = {"big": 0.5, "small": 0.5}
    assert allocate("lamp", items, 0.5, everything).keep == {"big": 450, "small": 50}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sparsity": 1.5}, "1.5 is not a fraction"),
        ({"sparsity": -0.1}, "not a fraction"),
        ({"sparsity": math.nan}, "not a fraction"),
        ({"strategy": "unifrom"}, "Did you mean 'uniform'"),
        ({"overrides": {"nobody": 0.5}}, "names no layer"),
        ({"overrides": {"layer0": 1.1}}, "not a fraction"),
        ({"align": 0}, "at least 1"),
        ({"min_keep": -1}, "at least 0"),
    ],
)
def test_nonsense_is_a_usage_error(change, complaint):
    request = {"strategy": "uniform", "items": make_items(0, [4]), "sparsity": 0.5} | change
    with pytest.raises(UsageError, match=complaint):
        allocate(**request)


# ---- counts


@given(
    wanted=st.floats(0, 60),
    units=st.integers(0, 50),
    align=st.sampled_from([1, 2, 3, 8]),
    min_keep=st.integers(0, 10),
)
def test_round_keep_is_the_nearest_admissible_count(wanted, units, align, min_keep):
    allowed = admissible(units, align, min_keep).tolist()
    assert all(k % align == 0 or k == units for k in allowed)
    assert allowed[0] == units and allowed == sorted(set(allowed), reverse=True)
    assert min(allowed) == lowest_keep(units, align, min_keep)
    wanted = min(wanted, units)
    keep = round_keep(wanted, units, align, min_keep)
    assert keep in allowed
    assert abs(keep - wanted) == pytest.approx(min(abs(k - wanted) for k in allowed), abs=1e-6)


def test_round_keep_at_the_corners():
    assert [round_keep(w, 10) for w in (0, 0.4, 2.5, 10 * (1 - 0.7), 10)] == [1, 1, 3, 3, 10]
    assert round_keep(15 * (1 - 0.9), 15) == 2  # a hair below 1.5
    assert round_keep(3, 5, align=8) == 5
    assert [round_keep(w, 20, align=8) for w in (1, 12, 17, 18, 20)] == [8, 16, 16, 20, 20]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), max_size=20))
def test_units_leave_in_the_reverse_of_the_order_masks_keep(values):
    scores = np.array(values)
    expected = sorted(range(len(values)), key=lambda u: (values[u], -u))
    assert ascending(scores).tolist() == expected
