"""The layer problem and its exact re-solve, against numpy's lstsq on the samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recovery_layers import relu_layer, solve_rows

from onnxprune.errors import DataError
from onnxprune.recovery import least_squares, pcg
from onnxprune.recovery.bias import centre, corrected_bias
from onnxprune.recovery.damping import HeldOut, choose_damping
from onnxprune.recovery.least_squares import (
    FACTORISING,
    direct_flops,
    solve_on_mask,
    solving_flops,
    step_flops,
)
from onnxprune.recovery.pcg import masked_cg
from onnxprune.recovery.problem import Quadratic, validation_error


@given(
    rows=st.integers(1, 12),
    size=st.integers(1, 14),
    density=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    noise=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
)
def test_solution_is_least_squares_on_the_support(rows, size, density, noise, seed):
    layer = relu_layer((rows, size), samples=6 * size + 5, seed=seed, noise=noise)
    mask = np.random.default_rng(seed).random((rows, size)) < density
    solved = solve_on_mask(layer.problem(), mask)
    oracle = solve_rows(layer, mask)
    assert not solved[~mask].any()
    assert layer.error(solved) <= layer.error(oracle) * (1 + 1e-9) + 1e-12
    np.testing.assert_allclose(solved, oracle, rtol=1e-6, atol=1e-8)


def test_dense_supports_take_the_dual_route_to_the_same_answer():
    layer = relu_layer((64, 20), noise=0.3)
    mask = np.random.default_rng(0).random((64, 20)) < 0.9
    flops = direct_flops(mask)
    assert flops < (mask.sum(axis=1) ** 3).sum() / 3  # the plan found the cheaper form
    np.testing.assert_allclose(
        solve_on_mask(layer.problem(), mask), solve_rows(layer, mask), rtol=1e-7, atol=1e-9
    )


def test_rows_that_share_a_support_are_solved_together():
    layer = relu_layer((8, 12), noise=0.3)
    mask = np.tile(np.random.default_rng(1).random(12) < 0.5, (8, 1))
    assert direct_flops(mask) == pytest.approx(mask[0].sum() ** 3 / 3)
    np.testing.assert_allclose(
        solve_on_mask(layer.problem(), mask), solve_rows(layer, mask), rtol=1e-7
    )


def test_damping_pulls_towards_the_dense_weights():
    layer = relu_layer((5, 10), noise=0.4)
    damping = 0.07
    ridge = np.sqrt(damping * np.diagonal(layer.gram))
    mask = np.random.default_rng(2).random((5, 10)) < 0.6
    solved = solve_on_mask(layer.problem(damping), mask)
    for row, keep in enumerate(mask):
        design = np.concatenate([layer.inputs.T, ridge * np.eye(10)])[:, keep]
        goal = np.concatenate([layer.targets[row], ridge * layer.weight[row]])
        oracle = np.linalg.lstsq(design, goal, rcond=None)[0]
        np.testing.assert_allclose(solved[row, keep], oracle, rtol=1e-8)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_dead_inputs_keep_their_dense_value_or_go_for_free(damping):
    layer = relu_layer((4, 9))
    layer.inputs[[2, 5]] = 0.0
    problem = Quadratic.build(layer.weight, layer.gram, damping=damping)
    assert problem.dead.tolist() == [False, False, True, False, False, True, False, False, False]
    mask = np.ones((4, 9), dtype=bool)
    mask[:2, 2] = False
    solved = solve_on_mask(problem, mask)
    expected = np.where(mask, layer.weight, 0.0)
    np.testing.assert_allclose(solved, expected, rtol=1e-8)
    assert layer.error(solved) == pytest.approx(layer.error(layer.weight))


def test_constant_inputs_are_dead_after_centring_despite_rounding():
    layer = relu_layer((3, 6))
    layer.inputs[4] = 1.7
    samples = layer.inputs.shape[1]
    centred, _ = centre(layer.gram, samples, layer.inputs.mean(axis=1))
    assert Quadratic.build(layer.weight, centred).dead.tolist() == [*[False] * 4, True, False]


@given(seed=st.integers(0, 50), noise=st.sampled_from([0.0, 0.5]))
def test_asymmetric_targets_reduce_to_the_symmetric_form(seed, noise):
    layer = relu_layer((3, 7), seed=seed, noise=noise)
    problem = layer.problem()
    best = layer.error(np.linalg.lstsq(layer.inputs.T, layer.targets.T, rcond=None)[0].T)
    candidate = layer.weight * (np.random.default_rng(seed).random((3, 7)) < 0.5)
    assert problem.excess(candidate) == pytest.approx(layer.error(candidate) - best, rel=1e-6)


def test_symmetric_mode_is_the_dense_weights_own_output():
    layer = relu_layer((3, 7))
    symmetric, explicit = layer.problem(symmetric=True), layer.problem()
    np.testing.assert_allclose(explicit.target, symmetric.target, rtol=1e-8)
    assert symmetric.target is symmetric.weight


def test_conjugate_gradients_agree_with_the_factorisation():
    layer = relu_layer((16, 60), noise=0.3)
    problem = layer.problem(1e-4)
    mask = np.random.default_rng(3).random((16, 60)) < 0.4
    mask[5] = False
    exact = solve_on_mask(problem, mask)
    iterated = masked_cg(problem, mask)
    assert not iterated[~mask].any()
    np.testing.assert_allclose(iterated, exact, rtol=1e-4, atol=1e-6)
    errors = [
        problem.excess(masked_cg(problem, mask, max_iterations=steps)) for steps in (0, 2, 5, 20)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] >= problem.excess(exact) * (1 - 1e-9)


@pytest.mark.parametrize("damping", [1e-5, 1e-2])
def test_wide_layers_are_solved_by_conjugate_gradients_as_well_as_exactly(damping, monkeypatch):
    layer = relu_layer((300, 700), samples=2100, noise=0.3)
    problem = layer.problem(damping)
    mask = np.random.default_rng(3).random((300, 700)) < 0.5
    assert solving_flops(mask) < FACTORISING * direct_flops(mask)
    with monkeypatch.context() as patch:
        patch.setattr(least_squares, "_solve_kept", None)
        found = solve_on_mask(problem, mask)
    np.testing.assert_array_equal(found[~mask], 0.0)
    monkeypatch.setattr(least_squares, "USUAL_STEPS", 10_000)
    exact = solve_on_mask(problem, mask)
    assert np.abs(found - exact).max() > 0
    assert problem.excess(found) == pytest.approx(problem.excess(exact), rel=1e-6)


def test_what_may_be_spent_bounds_the_steps():
    layer = relu_layer((40, 64), noise=0.3)
    problem, mask = layer.problem(1e-4), np.random.default_rng(3).random((40, 64)) < 0.5
    start = np.where(mask, layer.weight, 0.0)
    few = solve_on_mask(problem, mask, start=start, limit=3 * step_flops(mask), least=0)
    np.testing.assert_array_equal(few, masked_cg(problem, mask, start=start, max_iterations=3))
    none = solve_on_mask(problem, mask, start=start, limit=0.0, least=0)
    np.testing.assert_array_equal(none, start)
    least = solve_on_mask(problem, mask, start=start, limit=0.0, least=5)
    np.testing.assert_array_equal(least, masked_cg(problem, mask, start=start, max_iterations=5))


def test_rows_are_iterated_in_parts_that_know_nothing_of_each_other(monkeypatch):
    layer = relu_layer((130, 64), noise=0.3)
    problem, mask = layer.problem(1e-4), np.random.default_rng(3).random((130, 64)) < 0.5
    whole = masked_cg(problem, mask)
    monkeypatch.setattr(pcg, "PART_FLOPS", 0.0)
    monkeypatch.setattr(pcg, "ROWS", 16)
    np.testing.assert_allclose(masked_cg(problem, mask), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_centring_equals_least_squares_with_an_intercept(noise):
    layer = relu_layer((4, 10), noise=noise)
    bias = np.array([0.3, -1.0, 0.0, 2.0])
    samples = layer.inputs.shape[1]
    mean_input, mean_target = layer.inputs.mean(axis=1), layer.targets.mean(axis=1)
    gram, cross = centre(layer.gram, samples, mean_input, layer.cross, mean_target)
    mask = np.random.default_rng(4).random((4, 10)) < 0.5
    solved = solve_on_mask(Quadratic.build(layer.weight, gram, cross, damping=0.0), mask)
    moved = corrected_bias(bias, layer.weight, solved, mean_input, mean_target)
    for row, keep in enumerate(mask):
        design = np.concatenate([layer.inputs[keep], np.ones((1, samples))]).T
        oracle = np.linalg.lstsq(design, layer.targets[row] + bias[row], rcond=None)[0]
        np.testing.assert_allclose([*solved[row, keep], moved[row]], oracle, rtol=1e-7, atol=1e-9)


def test_symmetric_bias_keeps_the_mean_output():
    layer = relu_layer((4, 10))
    mean = layer.inputs.mean(axis=1)
    pruned = layer.weight * (np.random.default_rng(5).random((4, 10)) < 0.5)
    bias = corrected_bias(None, layer.weight, pruned, mean)
    np.testing.assert_allclose(
        (pruned @ layer.inputs).mean(axis=1) + bias, layer.targets.mean(axis=1), rtol=1e-10
    )


def test_a_cross_gram_cannot_be_centred_without_its_mean():
    with pytest.raises(ValueError, match="mean of its target"):
        centre(np.eye(2), 4, np.zeros(2), np.zeros((1, 2)))


@pytest.mark.parametrize("explicit", [False, True])
def test_validation_error_ranks_like_the_samples(explicit):
    layer = relu_layer((3, 8), noise=0.5 if explicit else 0.0)
    rng = np.random.default_rng(6)
    candidates = [layer.weight + 0.1 * rng.standard_normal((3, 8)) for _ in range(5)]
    ours = [
        validation_error(c, layer.weight, layer.gram, layer.cross if explicit else None)
        for c in candidates
    ]
    truth = [layer.error(c) for c in candidates]
    offsets = np.subtract(truth, ours)
    np.testing.assert_allclose(offsets, offsets[0], rtol=1e-8, atol=1e-9)
    assert explicit or offsets[0] == pytest.approx(0.0, abs=1e-8)


def test_chosen_damping_is_the_best_candidate_on_held_out_samples():
    train = relu_layer((6, 40), samples=45, noise=1.0)
    rng = np.random.default_rng(7)
    fresh = train.inputs[:, rng.permutation(45)] * rng.uniform(0.7, 1.3, (40, 45))
    held_out = HeldOut(fresh @ fresh.T)
    mask = rng.random((6, 40)) < 0.5
    candidates = (1e-6, 1e-3, 1e-1, 1.0)
    plain = Quadratic.plain(train.weight, train.gram, train.cross)
    chosen = choose_damping(plain, mask, held_out, candidates=candidates)
    errors = {
        damping: held_out.error(solve_on_mask(train.problem(damping), mask), train.weight)
        for damping in candidates
    }
    assert chosen == min(errors, key=errors.__getitem__)
    assert chosen != candidates[0]  # 45 noisy samples for 40 inputs do need damping


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, h, g: (w, h[:3], g), "does not fit weights"),
        (lambda w, h, g: (w, h, g[:1]), "cross Gram"),
        (lambda w, h, g: (w * np.nan, h, g), "NaN"),
        (lambda w, h, g: (w, h * np.inf, g), "NaN or infinity"),
        (lambda w, h, g: (w, -h, g), "negative diagonal"),
    ],
)
def test_statistics_that_cannot_be_are_refused(change, words):
    layer = relu_layer((3, 5))
    with pytest.raises(DataError, match=words):
        Quadratic.build(*change(layer.weight, layer.gram, layer.cross))


def test_too_few_samples_without_damping_say_what_to_do():
    layer = relu_layer((3, 20), samples=8)
    mask = np.ones((3, 20), dtype=bool)
    mask[:, 0] = False
    with pytest.raises(DataError, match="larger damping"):
        solve_on_mask(layer.problem(), mask)
    solve_on_mask(layer.problem(1e-4), mask)
    with pytest.raises(DataError, match="does not fit"):
        solve_on_mask(layer.problem(1e-4), mask[:2])
