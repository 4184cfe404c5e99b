"""ExactOBS, SparseGPT, ADMM and swaps against textbook versions and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_layers import relu_layer, solve_rows

from onnxprune.errors import DataError, UsageError
from onnxprune.patterns import parse_pattern
from onnxprune.recovery import elimination
from onnxprune.recovery.alps import alps
from onnxprune.recovery.least_squares import solve_on_mask
from onnxprune.recovery.obs import exact_obs
from onnxprune.recovery.problem import Quadratic
from onnxprune.recovery.sparsegpt import sparsegpt
from onnxprune.recovery.structure import structure_of
from onnxprune.recovery.swaps import polish

CASES = [
    ("element", (6, 5, 2, 2)),
    ("2:4", (6, 8, 2)),
    ("1:4", (5, 4, 3)),
    ("block:4x1", (8, 5, 2)),
    ("block:4x1", (6, 5, 2)),
    ("block:1x4", (4, 10, 2)),
    ("block:3x5", (7, 11)),
    ("kernel", (4, 5, 3, 2)),
    ("vector", (4, 5, 3, 2)),
]


def kept_units(pattern, shape, part=0.4):
    return None if pattern.fixed_density else round(part * pattern.n_units((1, *shape)))


def is_legal(pattern, shape, mask, keep):
    """Whether the mask is one the pattern itself would produce for scores that single it out."""
    own = pattern.mask(mask.reshape(1, *shape).astype(np.float64), keep)
    return np.array_equal(own.reshape(mask.shape), mask)


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_exact_obs_equals_least_squares_on_its_support(text, shape):
    layer = relu_layer(shape, noise=0.3)
    pattern = parse_pattern(text)
    structure = structure_of(pattern, shape)
    total = exact_obs(layer.problem(), structure).order.shape[1]
    for steps in {1, total // 2, total - 1}:
        trace = exact_obs(layer.problem(), structure, steps=steps)
        support = trace.weights != 0
        np.testing.assert_allclose(trace.weights, solve_rows(layer, support), rtol=1e-6, atol=1e-8)
        assert 2 * trace.loss.sum() == pytest.approx(layer.problem().excess(trace.weights))


@pytest.mark.parametrize("panel", [2, 5, 32])
def test_exact_obs_does_not_depend_on_panels_and_compaction(panel, monkeypatch):
    layer = relu_layer((3, 40), noise=0.3)
    structure = structure_of(parse_pattern("block:1x2"), (3, 40))
    monkeypatch.setattr(elimination, "PANEL", panel)
    monkeypatch.setattr(elimination, "DEAD_FRACTION", 0.05)
    trace = exact_obs(layer.problem(), structure, steps=17)
    support = trace.weights != 0
    assert (support.sum(axis=1) == 6).all()
    np.testing.assert_allclose(trace.weights, solve_rows(layer, support), rtol=1e-6, atol=1e-8)


def greedy_by_refitting(layer, row, cells, steps):
    """Textbook greedy elimination of one row: refit after every possible removal."""
    keep = np.ones(layer.weight.shape[1], dtype=bool)
    left, order = list(range(len(cells))), []
    for _ in range(steps):
        errors = []
        for cell in left:
            trial = keep.copy()
            trial[cells[cell]] = False
            mask = np.zeros(layer.weight.shape, dtype=bool)
            mask[row] = trial
            solved = solve_rows(layer, mask)[row]
            errors.append(((layer.targets[row] - solved @ layer.inputs) ** 2).sum())
        order.append(left.pop(int(np.argmin(errors))))
        keep[cells[order[-1]]] = False
    return order


@settings(max_examples=10)
@given(seed=st.integers(0, 999), width=st.sampled_from([1, 2, 3]))
def test_exact_obs_removes_what_refitting_would(seed, width):
    layer = relu_layer((2, 6 * width), seed=seed, noise=0.3)
    structure = structure_of(parse_pattern(f"block:1x{width}"), layer.shape)
    trace = exact_obs(layer.problem(), structure, steps=5)
    cells = np.arange(6 * width).reshape(6, width)
    for row in range(2):
        assert trace.order[row].tolist() == greedy_by_refitting(layer, row, cells, 5)


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_one_trace_serves_every_level(text, shape):
    layer = relu_layer(shape)
    pattern = parse_pattern(text)
    structure = structure_of(pattern, shape)
    trace = exact_obs(layer.problem(1e-4), structure)
    if pattern.fixed_density:
        assert is_legal(pattern, shape, trace.mask(), None)
        return
    previous = np.ones(layer.weight.shape, dtype=bool)
    for keep in range(structure.cells, -1, -1):
        mask = trace.mask(keep)
        assert pattern.unit_scores(mask.reshape(1, *shape).astype(float)).astype(bool).sum() == keep
        assert is_legal(pattern, shape, mask, keep)
        assert not (mask & ~previous).any()
        previous = mask


def test_trace_merges_rows_by_the_next_cheapest_removal():
    layer = relu_layer((4, 8))
    structure = structure_of(parse_pattern("element"), layer.shape)
    trace = exact_obs(layer.problem(1e-4), structure)
    taken = [0] * 4
    for _ in range(15):  # a heap over the rows' next losses, as in the paper
        row = min(range(4), key=lambda r: trace.loss[r, taken[r]] if taken[r] < 8 else np.inf)
        taken[row] += 1
    assert trace.removed_per_group(32 - 15).tolist() == taken


def textbook_sparsegpt(problem, mask, order):
    """Column by column, with the inverse of what is left taken afresh at every step."""
    weights = problem.target.copy()
    for position, j in enumerate(order):
        rest = order[position:]
        inverse = np.linalg.inv(problem.gram[np.ix_(rest, rest)])
        lost = np.where(mask[:, j], 0.0, weights[:, j]) / inverse[0, 0]
        weights[:, rest] -= np.outer(lost, inverse[0])
        weights[:, j] *= mask[:, j]
    return weights


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("text", "shape"), [*CASES, ("element", (5, 300)), ("2:4", (3, 20, 9))])
def test_sparsegpt_compensates_like_the_textbook(text, shape, act_order):
    layer = relu_layer(shape, samples=2 * int(np.prod(shape[1:])) + 40, noise=0.2)
    pattern = parse_pattern(text)
    structure = structure_of(pattern, shape)
    keep = kept_units(pattern, shape)
    problem = layer.problem(1e-2)
    mask, weights = sparsegpt(problem.target, problem.gram, structure, keep, act_order=act_order)
    assert is_legal(pattern, shape, mask, keep)
    assert not weights[~mask].any()
    runs = structure.order.reshape(-1, structure.width * max(structure.m, 1))
    if act_order:
        sums = np.where(runs >= 0, np.diagonal(problem.gram)[runs], 0.0).sum(axis=1)
        runs = runs[np.argsort(-sums, kind="stable")]
    order = runs[runs >= 0]
    np.testing.assert_allclose(
        weights, textbook_sparsegpt(problem, mask, order), rtol=1e-5, atol=1e-8
    )


def test_sparsegpt_in_single_precision_is_close():
    layer = relu_layer((16, 96))
    structure = structure_of(parse_pattern("element"), layer.shape)
    problem = layer.problem(1e-2)
    double = sparsegpt(problem.target, problem.gram, structure, 700)[1]
    single = sparsegpt(
        problem.target.astype(np.float32), problem.gram.astype(np.float32), structure, 700
    )[1]
    assert single.dtype == np.float32
    assert problem.excess(single.astype(float)) == pytest.approx(problem.excess(double), rel=1e-2)


def test_sparsegpt_says_when_the_gram_is_singular():
    layer = relu_layer((4, 30), samples=10)
    structure = structure_of(parse_pattern("element"), layer.shape)
    gram = layer.gram - 1e-6 * np.eye(30)
    with pytest.raises(DataError, match="larger damping"):
        sparsegpt(layer.weight, gram, structure, 60)


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_admm_keeps_exactly_what_was_asked(text, shape):
    layer = relu_layer(shape)
    pattern = parse_pattern(text)
    structure = structure_of(pattern, shape)
    keep = kept_units(pattern, shape)
    mask = alps(layer.problem(1e-4), lambda scores: structure.project(scores, keep))
    assert is_legal(pattern, shape, mask, keep)


def test_admm_finds_the_best_support_of_a_planted_sparse_layer():
    rng = np.random.default_rng(0)
    layer = relu_layer((6, 30), samples=900)
    planted = rng.random((6, 30)) < 0.3
    truth = layer.weight * planted
    cross = truth @ layer.gram
    problem = Quadratic.build(layer.weight, layer.gram, cross, damping=1e-9)
    structure = structure_of(parse_pattern("element"), layer.shape)
    mask = alps(problem, lambda scores: structure.project(scores, int(planted.sum())))
    np.testing.assert_array_equal(mask, planted)
    np.testing.assert_allclose(solve_on_mask(problem, mask), truth, atol=1e-6)


@settings(max_examples=15)
@given(
    case=st.sampled_from([("element", (3, 9)), ("2:4", (3, 8)), ("block:2x1", (4, 7))]),
    seed=st.integers(0, 99),
)
def test_polish_ends_where_no_single_swap_helps(case, seed):
    text, shape = case
    layer = relu_layer(shape, seed=seed, noise=0.3)
    pattern = parse_pattern(text)
    structure = structure_of(pattern, shape)
    keep = kept_units(pattern, shape, 0.5)
    problem = layer.problem()
    rng = np.random.default_rng(seed)
    start = structure.project(rng.random(layer.weight.shape), keep)
    found = polish(problem, start, structure, max_swaps=1000)
    assert is_legal(pattern, shape, found, keep)
    np.testing.assert_array_equal(found.sum(axis=1), start.sum(axis=1))
    best = layer.error(solve_rows(layer, found))
    assert best <= layer.error(solve_rows(layer, start)) * (1 + 1e-9)
    for first in range(0, shape[0], structure.height):
        rows = slice(first, first + structure.height)
        for leave in np.flatnonzero(found[first]):
            for enter in np.flatnonzero(~found[first]):
                if text == "2:4" and leave // 4 != enter // 4:
                    continue
                trial = found.copy()
                trial[rows, leave], trial[rows, enter] = False, True
                assert layer.error(solve_rows(layer, trial)) >= best * (1 - 1e-7)


def test_polish_refuses_cells_of_several_columns():
    layer = relu_layer((2, 8))
    structure = structure_of(parse_pattern("block:1x4"), layer.shape)
    with pytest.raises(ValueError, match="single columns"):
        polish(layer.problem(1e-4), np.ones((2, 8), dtype=bool), structure)


def test_searches_refuse_densities_that_cannot_be():
    layer = relu_layer((2, 8))
    structure = structure_of(parse_pattern("element"), layer.shape)
    with pytest.raises(UsageError, match="0 to 16"):
        exact_obs(layer.problem(1e-4), structure).mask(17)
    with pytest.raises(UsageError, match="0 to 16"):
        sparsegpt(layer.weight, layer.gram, structure, None)
