"""Recovery end to end: accuracy comes back, masks hold, the same bytes come out twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune import io, pruning
from onnxprune.errors import UsageError
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.patterns import parse_pattern
from onnxprune.planning import SelectOptions
from onnxprune.planning.masks import select_masks
from onnxprune.recovery.apply import Reconstruction, held_out
from onnxprune.recovery.recover_masks import recover_masks
from onnxprune.recovery.solve_layers import solve_layers
from onnxprune.rules.analysis import analyze

MODELS = Path(__file__).resolve().parents[2] / "models"
CALIB = f"{MODELS / 'calib.py'}:samples"


def accuracy(loaded) -> float:
    spec = importlib.util.spec_from_file_location("digits_evaluate", MODELS / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, _, images, labels = module.split()
    return float((module.logits(io.to_bytes(loaded.model), images).argmax(-1) == labels).mean())


def prune(name, pattern, sparsity, recover, samples=96):
    return onnxprune.prune(
        MODELS / f"{name}.onnx", pattern, sparsity, data=CALIB, samples=samples, recover=recover
    )


@pytest.mark.parametrize(
    ("name", "pattern", "sparsity", "least"),
    [
        ("digits_resnet", "element", 0.8, 0.95),
        pytest.param("digits_resnet", "block:4x1", 0.6, 0.95, marks=pytest.mark.slow),
        pytest.param("digits_mobile", "element", 0.6, 0.95, marks=pytest.mark.slow),
        ("digits_transformer", "element", 0.5, 0.9),
    ],
)
def test_accuracy_comes_back(name, pattern, sparsity, least):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    plain = prune(name, pattern, sparsity, "none")
    found = prune(name, pattern, sparsity, "auto")
    assert accuracy(found.loaded) >= max(least, accuracy(plain.loaded))
    steps = found.report["recovery"]["steps"]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert plain.report["recovery"] is None
    assert found.report["sparsity"] == pytest.approx(plain.report["sparsity"], abs=1e-3)


def test_the_same_bytes_come_out_twice():
    a, b = (prune("digits_mobile", "element", 0.7, "auto", 64) for _ in range(2))
    assert io.to_bytes(a.loaded.model) == io.to_bytes(b.loaded.model)
    assert a.report["recovery"]["steps"] == b.report["recovery"]["steps"]


def test_masks_keep_their_pattern():
    result = prune("digits_resnet", "2:4", None, "auto", 64)
    weights = {v.name: v for v in result.loaded.model.graph.initializers.values()}
    assert result.plan.masks
    for name, mask in result.plan.masks.items():
        array = weights[name].const_value.numpy()
        assert not array[~mask].any()
        rows = mask if mask.ndim == 2 else np.moveaxis(mask, 1, -1)
        assert (rows.reshape(-1, 4).sum(1) == 2).all()


def test_a_replayed_plan_gives_the_same_values():
    first = prune("digits_mobile", "element", 0.7, "auto", 64)
    again = onnxprune.prune(MODELS / "digits_mobile.onnx", plan=first.plan, data=CALIB, samples=64)
    for name, mask in first.plan.masks.items():
        assert np.array_equal(mask, again.plan.masks[name])


def test_every_sixth_feed_is_held_out():
    assert [i for i in range(13) if held_out(i, 60)] == [5, 11]
    assert [i for i in range(2) if held_out(i, 2)] == [1]
    assert not held_out(0, 1)


def test_unknown_ways_to_recover_are_named():
    with pytest.raises(UsageError, match="auto, none"):
        prune("digits_resnet", "element", 0.5, "all")


def test_what_does_not_help_is_not_kept():
    """A dense mask cannot be improved upon, so reconstruction must not be worse than it."""
    model = io.load(MODELS / "digits_mobile.onnx").model
    InferShapes().run(model, Context())
    analyzer = analyze(model)
    plan, _ = select_masks(analyzer, SelectOptions(pattern="element", sparsity=0.0))
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.random((8, 1, 16, 16), np.float32)} for _ in range(6)]
    found = recover_masks(analyzer, plan, feeds, pattern="element")
    assert found.report["steps"][1]["kept"] == (
        found.report["steps"][1]["loss"] <= found.report["steps"][0]["loss"]
    )
    work = Reconstruction(analyzer, feeds)
    agreement = work.agreement(work.judge(), found.weights, found.biases)
    assert agreement.loss <= found.report["steps"][0]["loss"]


def test_a_recovered_layer_is_the_least_squares_solution_with_intercept():
    """The first layer sees dense inputs: its weights must be numpy's own least squares."""
    model = io.load(MODELS / "digits_resnet.onnx").model
    InferShapes().run(model, Context())
    analyzer = analyze(model)
    plan, _ = select_masks(analyzer, SelectOptions(pattern="element", sparsity=0.5))
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.random((16, 1, 16, 16), np.float32)} for _ in range(1)]
    work = Reconstruction(analyzer, feeds)
    name = next(iter(plan.masks))
    masks = {name: plan.masks[name]}
    found = solve_layers(work, masks, parse_pattern("element"), method="given")
    row = found.report["layers"][0]
    image = feeds[0]["image"]
    layer = work.layers[name]
    dense = np.asarray(layer.tensor.numpy()).astype(np.float64).reshape(layer.view_shape[1], -1)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    x = windows[:, 0].reshape(-1, 9).astype(np.float64)
    for r, mask in enumerate(plan.masks[name].reshape(len(dense), -1)):
        if not mask.any():
            continue
        inputs = np.column_stack([x[:, mask], np.ones(len(x))])
        want = np.linalg.lstsq(inputs, x @ dense[r], rcond=None)[0]
        got = found.weights[name].reshape(len(dense), -1)[r]
        np.testing.assert_allclose(got[mask], want[:-1], rtol=2e-2, atol=2e-3)
    assert row["method"] == "given"


def test_channels_come_back_by_refitting_their_consumers():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    plain = prune("digits_resnet", "channel", 0.4, "none")
    found = prune("digits_resnet", "channel", 0.4, "auto")
    counts = [[g["kept"] for g in r.plan.groups] for r in (plain, found)]
    assert counts[0] == counts[1]  # as many units of every group
    assert found.report["proof"]["passed"]
    assert accuracy(found.loaded) >= max(0.9, accuracy(plain.loaded))
    steps = found.report["recovery"]["steps"]
    assert steps[1]["kept"] and steps[1]["loss"] < steps[0]["loss"]


def test_a_note_names_layers_that_stay_dense_and_counts_the_others(monkeypatch):
    monkeypatch.setattr(pruning, "SPARED_NAMES", 1)
    found = onnxprune.prune(MODELS / "digits_mobile.onnx", "element", 0.5, data=CALIB, samples=96)
    spared = found.report["recovery"]["spared"]
    (note,) = [line for line in found.report["notes"] if "layers stay dense" in line]
    assert len(spared) > 1 and f" {spared[0]} and {len(spared) - 1} more; give" in note
