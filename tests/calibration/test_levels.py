"""The sensitivity table and what is divided by it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune import io
from onnxprune.calibration.samples import calibration_feeds
from onnxprune.errors import UsageError
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.passes.prepare import prepare
from onnxprune.patterns import parse_pattern
from onnxprune.recovery import apply_levels, effort
from onnxprune.recovery.apply import Reconstruction
from onnxprune.recovery.apply_levels import (
    CHOICES,
    STEPS,
    Sensitivity,
    chosen_feeds,
    divide,
    divided_masks,
    filled,
    measure,
)
from onnxprune.rules.analysis import analyze

MODELS = Path(__file__).resolve().parents[2] / "models"
CALIB = f"{MODELS / 'calib.py'}:samples"


def entry(name, weights, *loss):
    levels = (0.5, 0.8, 0.95)
    return Sensitivity(name, name, weights, levels, loss, (None,) * len(loss))


def test_interpolation_meets_the_measurements_and_rises():
    row = entry("a", 100, 0.01, 0.1, 2.0)
    density = 1 - np.array(row.levels)
    np.testing.assert_allclose(row.at(density), row.loss, rtol=1e-9)
    fine = row.at(np.linspace(0.01, 1, 200))
    assert (np.diff(fine) <= 0).all() and fine[-1] == 0


def test_division_is_the_best_of_all_choices():
    table = [entry("a", 1000, 0.01, 0.1, 2.0), entry("b", 3000, 0.001, 0.3, 0.9),
             entry("c", 500, 0.2, 0.9, 5.0)]  # fmt: skip
    kept = 1100.0
    found = divide(table, kept)
    sizes = np.array([s.weights for s in table])
    damage = [s.at(CHOICES.copy()) for s in table]

    def total(picks):
        return sum(d[i] for d, i in zip(damage, picks, strict=True))

    fits = (
        picks
        for picks in itertools.product(range(len(CHOICES)), repeat=3)
        if (np.ceil(sizes * CHOICES[list(picks)] / (kept / STEPS) - 1e-9)).sum() <= STEPS
    )
    best = min(total(p) for p in fits)
    mine = total([int(np.flatnonzero(found[s.tensor] == CHOICES)[0]) for s in table])
    assert mine == pytest.approx(best)
    assert sum(s.weights * found[s.tensor] for s in table) <= kept + 1e-6


def test_a_budget_for_everything_keeps_everything():
    assert divide([entry("a", 10, 0.1, 0.2, 0.3)], 10.0) == {"a": 1.0}
    assert divide([entry("a", 10, 0.1, 0.2, 0.3)], 0.1)["a"] == pytest.approx(0.01)


def test_measured_table_of_a_network():
    path = MODELS / "digits_mobile.onnx"
    report = onnxprune.sensitivity(path, CALIB, levels=(0.5, 0.95), samples=48, only="unit2|head")
    rows = report["rows"]
    assert {r["sparsity"] for r in rows} == {0.5, 0.95} and len(rows) % 2 == 0
    by_layer = {r["layer"] for r in rows}
    assert all("unit2" in name or "head" in name for name in by_layer)
    assert all(r["loss"] >= 0 for r in rows)
    low, high = (sum(r["loss"] for r in rows if r["sparsity"] == s) for s in (0.5, 0.95))
    assert low < high
    json.dumps(report)


@pytest.mark.parametrize("levels", [(), (0.5, 0.3), (0.0, 0.5), (0.5, 1.0)])
def test_levels_that_cannot_be_meant(levels):
    with pytest.raises(UsageError, match="levels"):
        onnxprune.sensitivity(MODELS / "digits_mobile.onnx", CALIB, levels=levels, samples=8)


def test_a_division_leaves_no_rest():
    sizes = {"a": 100, "b": 1000, "c": 50}
    found = filled({"a": 0.5, "b": 0.3, "c": 0.95}, sizes, 420)
    assert sum(found[n] * sizes[n] for n in sizes) == pytest.approx(420, abs=0.5)
    assert found["c"] == 1.0 and found["b"] / found["a"] == pytest.approx(0.6)


def test_levels_are_judged_on_samples_that_no_layer_was_solved_on():
    model = io.load(MODELS / "digits_mobile.onnx").model
    InferShapes().run(model, Context())
    name = model.graph.inputs[0].name
    feeds = [{name: a} for a in np.zeros((24, 4, 1, 8, 8), np.float32)]
    work = Reconstruction(analyze(model), feeds)
    chosen = chosen_feeds(work)
    assert chosen and all(work.held[i] for i in chosen)


@pytest.fixture(scope="module")
def digits():
    model = io.load(MODELS / "digits_mobile.onnx").model
    prepare(model, Context(), structural=False)
    return Reconstruction(analyze(model), calibration_feeds(CALIB, model, 240))


def test_one_measured_level_tells_nearly_what_all_do(digits):
    names = [n for n, layer in digits.layers.items() if not layer.depthwise]
    pattern, levels = parse_pattern("element"), (0.6, 0.8, 0.9)
    full = measure(digits, names, pattern, levels=levels)
    one = measure(digits, names, pattern, levels=levels, only=1)
    for a, b in zip(full, one, strict=True):
        assert a.tensor == b.tensor and b.top1 == (None,) * 3
        assert a.loss[1] == pytest.approx(b.loss[1], rel=1e-9)
        assert b.loss[0] <= b.loss[1] <= b.loss[2]
    kept = 0.2 * sum(row.weights for row in full)

    def damage(densities):
        return sum(float(row.at(np.array([densities[row.tensor]]))[0]) for row in full)

    even, best = damage({row.tensor: 0.2 for row in full}), damage(divide(full, kept))
    assert best < 0.9 * even
    assert even - damage(divide(one, kept)) > 0.5 * (even - best)


def test_where_all_levels_would_take_too_long_one_is_measured(digits, monkeypatch):
    pattern, asked = parse_pattern("element"), []
    names = [n for n, layer in digits.layers.items() if not layer.depthwise]
    masks = {n: np.arange(digits.layers[n].size) % 5 == 0 for n in names}
    masks = {n: m.reshape(digits.layers[n].tensor.shape.numpy()) for n, m in masks.items()}

    def seen(*args, only, samples, **how):
        asked.append((only, samples))
        return measure(*args, only=only, samples=samples, **how)

    monkeypatch.setattr(apply_levels, "measure", seen)
    trial = 0.5 * digits.macs * len(names)
    there = digits.measurable(1, apply_levels.FEW)
    for affordable, only in ((3 * there, None), (there, 1), (0.9 * there, 1)):
        monkeypatch.setattr(effort, "MEASURING", 1.0001 * trial * affordable)
        found = divided_masks(digits, masks, pattern)
        assert asked.pop() == (only, min(there, int(affordable)))
        assert found is None or sum(m.sum() for m in found.values()) == pytest.approx(
            sum(m.sum() for m in masks.values()), rel=1e-3
        )
    monkeypatch.setattr(effort, "MEASURING", trial)
    assert "too large" in divided_masks(digits, masks, pattern)
