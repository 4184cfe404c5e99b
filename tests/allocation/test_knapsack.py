"""The knapsack against brute force over all choices."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.allocation.knapsack import choose_levels


def brute(costs, damages, budget):
    best = None
    for pick in itertools.product(*(range(len(c)) for c in costs)):
        if sum(c[i] for c, i in zip(costs, pick, strict=True)) <= budget:
            harm = sum(d[i] for d, i in zip(damages, pick, strict=True))
            best = harm if best is None else min(best, harm)
    return best


@given(data=st.data())
def test_equals_brute_force_on_whole_costs(data):
    items = data.draw(st.integers(1, 4))
    table = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=4)
    rows = [data.draw(table) for _ in range(items)]
    costs = [[c for c, _ in row] for row in rows]
    damages = [[float(d) for _, d in row] for row in rows]
    budget = data.draw(st.integers(1, 20))
    picks = choose_levels(costs, damages, budget, steps=budget)
    want = brute(costs, damages, budget)
    if want is None:
        assert picks is None
        return
    assert sum(c[i] for c, i in zip(costs, picks, strict=True)) <= budget
    assert sum(d[i] for d, i in zip(damages, picks, strict=True)) == want


@given(seed=st.integers(0, 99))
def test_budget_holds_and_the_grid_costs_little(seed):
    rng = np.random.default_rng(seed)
    costs = [np.sort(rng.uniform(0, 1, 5))[::-1] for _ in range(4)]
    damages = [np.sort(rng.uniform(0, 1, 5)) for _ in range(4)]
    budget = 0.6 * sum(c[0] for c in costs)
    picks = choose_levels(costs, damages, budget)
    assert sum(c[i] for c, i in zip(costs, picks, strict=True)) <= budget
    harm = sum(d[i] for d, i in zip(damages, picks, strict=True))
    assert brute(costs, damages, budget) <= harm <= brute(costs, damages, budget * 0.998) + 1e-12


def test_a_level_that_is_not_allowed_is_not_chosen():
    assert choose_levels([[3, 0], [3, 0]], [[0.0, np.inf], [0.0, 1.0]], 3) == [0, 1]
    assert choose_levels([[3, 0]], [[0.0, np.inf]], 2) is None
    assert choose_levels([[3, 0]], [[0.0, 1.0]], 0) == [1]
    assert choose_levels([], [], 1.0) == []
