"""Few samples: recovery is taken only if it is better on samples that it did not see."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.calibration.grams import Statistics, Sums
from onnxprune.io import load
from onnxprune.recovery.apply import Reconstruction, Recovered, held_out
from onnxprune.recovery.cross_check import PARTS, better, cross_check, singly
from onnxprune.recovery.damping import CANDIDATES, STRONG, HeldOut, choose_damping
from onnxprune.recovery.least_squares import solve_on_mask
from onnxprune.recovery.problem import Quadratic
from onnxprune.rules.analysis import analyze

MODEL = "models/digits_resnet.onnx"


@pytest.fixture
def model(pytestconfig):
    return pytestconfig.rootpath / MODEL


def pictures(samples):
    return np.random.default_rng(0).random((samples, 1, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("samples", "held"), [(1, 0), (2, 1), (5, 1), (8, 1), (16, 2), (48, 8), (1024, 170)]
)
def test_one_in_six_is_held_out(samples, held):
    assert sum(held_out(i, samples) for i in range(samples)) == held


def test_a_gain_counts_where_chance_does_not_explain_it():
    before = [(1.0, 1.0)] * 8
    assert better(before, [(0.9, 0.9)] * 7 + [(1.1, 1.0)])
    assert not better(before, [(0.9, 0.9)] * 6 + [(1.1, 1.0)] * 2)  # luck: one in seven
    assert not better(before, [(0.9, 0.9)] * 7 + [(2.0, 1.0)])  # more lost than gained
    assert not better(before, [(0.9, 1.1)] * 8)  # further off in all that is compared
    assert not better(before, [(0.9, 0.9)] * 7 + [(np.inf, np.inf)])
    assert not better(before, before)
    assert better([(1.0, 1.0)] * 5, [(0.9, 1.0)] * 5)
    assert not better([(1.0, 1.0)] * 4, [(0.0, 0.0)] * 4)


def test_every_sample_is_judged_once_by_a_recovery_without_it(model):
    feeds = [{"image": x[None]} for x in pictures(10)]
    analyzer = analyze(load(model).model)
    layers = Reconstruction(analyzer, feeds).layers
    masks = {n: np.zeros(layer.tensor.shape.numpy(), np.bool_) for n, layer in layers.items()}
    seen = []

    def dense(rest, journal):
        seen.append([next(i for i, feed in enumerate(feeds) if feed is r) for r in rest])
        return Recovered()

    check = cross_check(analyzer, masks, feeds, dense)
    assert check is not None and check.kept and check.parts == PARTS == len(seen)
    assert check.recovered == 0 < check.zeros
    left = [set(range(10)) - set(rest) for rest in seen]
    assert sorted(i for part in left for i in part) == list(range(10))
    nothing = cross_check(analyzer, masks, feeds, lambda rest, journal: zeros(analyzer, masks))
    assert nothing is not None and not nothing.kept
    assert cross_check(analyzer, masks, feeds * 5, dense) is None  # enough samples
    few = cross_check(analyzer, masks, feeds[:3], dense)
    assert few is not None and few.parts == 0 and not few.kept


def test_batches_are_judged_sample_by_sample():
    arrays = [np.arange(6.0).reshape(3, 2), np.arange(3.0)]
    assert [[o.tolist() for o in one] for one in singly(arrays)] == [
        [[[0.0, 1.0]], [0.0]], [[[2.0, 3.0]], [1.0]], [[[4.0, 5.0]], [2.0]]
    ]  # fmt: skip
    odd = [np.zeros((3, 2)), np.zeros((4, 2))]
    assert [len(one) for one in singly(odd)] == [2]
    assert len(singly([np.float32(1.0)])) == 1


def zeros(analyzer, masks):
    return Recovered(weights={n: np.zeros(m.shape, np.float32) for n, m in masks.items()})


@pytest.mark.parametrize("pattern", ["element", "channel"])
@pytest.mark.parametrize("samples", [1, 4, 8])
def test_any_number_of_samples_works_and_few_are_told(samples, pattern, model):
    how = {"data": {"image": pictures(samples)}, "recover": "reconstruct"}
    result = onnxprune.prune(model, pattern, 0.5, **how)
    assert any(f"only {samples} sample" in note for note in result.report["notes"])
    told = result.report["recovery"]
    assert told["samples"] == samples and told["cross_check"]["parts"] == (0, PARTS)[samples > 4]
    assert told["cross_check"]["kept"] == any(step["kept"] for step in told["steps"][1:])
    if samples < 5:
        plain = onnxprune.prune(model, pattern, 0.5)
        assert onnxprune.io.to_bytes(result.loaded.model) == onnxprune.io.to_bytes(
            plain.loaded.model
        )


def test_moments_around_other_means_are_those_of_columns_moved_there():
    rng = np.random.default_rng(0)

    def moments(x, t, origin=None):
        sums = Sums()
        sums.add(x[None].astype(np.float32), t[None].astype(np.float32))
        return sums.result()

    x, t, other = rng.normal(size=(5, 7)), rng.normal(size=(3, 7)), rng.normal(size=(5, 4)) + 1
    train = moments(other, rng.normal(size=(3, 4)) - 2)
    found = moments(x, t).around(train)
    moved, aim = x - train.mean[0][:, None], t - train.target[0][:, None]
    assert isinstance(found, Statistics)
    np.testing.assert_allclose(found.gram[0], moved @ moved.T, atol=1e-4)
    np.testing.assert_allclose(found.cross[0], aim @ moved.T, atol=1e-4)


def test_few_samples_of_many_inputs_are_damped_strongly_and_alike():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(8, 200)), rng.normal(size=(200, 4))
    target = weight @ x + 20 * rng.normal(size=(8, 4))
    fresh = rng.normal(size=(200, 4))
    held = HeldOut(fresh @ fresh.T, weight @ fresh @ fresh.T, even=True)
    mask = np.ones(weight.shape, np.bool_)
    found = choose_damping(Quadratic.plain(weight, x @ x.T, target @ x.T), mask, held)
    assert found in STRONG and found not in CANDIDATES
    gram = np.diag([1.0, 3.0])
    problem = Quadratic.build(np.ones((1, 2)), gram, damping=0.5, even=True)
    np.testing.assert_allclose(problem.gram, gram + np.eye(2))
    np.testing.assert_allclose(solve_on_mask(problem, np.ones((1, 2), np.bool_)), 1.0)
