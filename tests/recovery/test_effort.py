"""What a network of any size may take: budgets over layers, fewer samples, no table."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.calibration.samples import rows_of
from onnxprune.recovery import effort, problem
from onnxprune.recovery.effort import Effort, affordable_feeds, macs_of, measurable, share
from onnxprune.recovery.problem import validation_error
from onnxprune.rules.analysis import analyze


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 300))
def test_a_share_is_the_most_that_a_budget_allows(costs, budget):
    limit = share(costs, budget)
    if sum(costs) <= budget:
        assert limit == budget
        return
    assert sum(c for c in costs if c <= limit) <= budget
    above = min(c for c in costs if c > limit)
    assert sum(c for c in costs if c <= above) > budget


def test_few_large_layers_get_the_cheap_way(monkeypatch):
    small, large = np.zeros((4, 10), np.bool_), np.zeros((40, 100), np.bool_)
    monkeypatch.setattr(effort, "SEARCHING", 3 * effort.admm_flops(4, 10))
    found = Effort.of([[small], [large], [small, small]])
    assert effort.admm_flops(4, 10) <= found.searching < effort.admm_flops(40, 100)
    assert found.of_each(2).searching == found.searching / 2
    assert found.solving == effort.SOLVING
    assert found.hurried == effort.HURRIED / effort.HASTE
    monkeypatch.setattr(effort, "HURRIED", effort.admm_flops(40, 100) / 4)
    assert Effort.of([[small], [large]]).hurried == 0.0  # not even in a third of the steps
    whole = Effort.of([[~large]])
    assert whole.searching == effort.SEARCHING  # what stays whole is not searched


@pytest.fixture
def net():
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((12, 24)).astype(np.float32),
        "b": rng.standard_normal((24, 6)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 6])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(count, length):
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((count, length, 12)).astype(np.float32)}


def test_open_sizes_are_those_of_the_samples(net):
    analyzer = analyze(io.load(net).model)
    each = 12 * 24 + 24 * 6
    assert macs_of(analyzer, [samples(3, 7)]) == 7 * each
    assert macs_of(analyzer, [samples(3, 7), samples(2, 13)]) == 10 * each
    assert macs_of(analyzer, []) == 128 * each


def test_large_networks_are_calibrated_on_fewer_samples(net, monkeypatch):
    data = samples(300, 5)
    model = io.load(net).model
    feeds, note = affordable_feeds(data, model)
    assert note is None and sum(map(rows_of, feeds)) == 300
    monkeypatch.setattr(effort, "FORWARD", 200.0 * 5 * (12 * 24 + 24 * 6))
    feeds, note = affordable_feeds(data, model)
    assert sum(map(rows_of, feeds)) == 200 and "200 samples" in note
    monkeypatch.setattr(effort, "FORWARD", 1.0)
    found = onnxprune.prune(net, "element", 0.5, data=data)
    assert sum("128 samples" in line for line in found.report["notes"]) == 1
    assert found.report["recovery"]["samples"] == 128
    found = onnxprune.prune(net, "element", 0.5, data=data, samples=250)
    assert found.report["recovery"]["samples"] == 250
    assert not any("128 samples" in line for line in found.report["notes"])


def test_what_is_too_large_is_not_measured_and_the_report_says_so(net, monkeypatch):
    assert measurable(1e6, 10, 96) == 96
    assert measurable(1e9, 60, 250) == int(effort.MEASURING / 3e10)
    assert measurable(1e12, 60, 96) == 0
    monkeypatch.setattr(effort, "MEASURING", 1.0)
    found = onnxprune.prune(net, "element", 0.5, data=samples(96, 5))
    rows = {step["step"]: step for step in found.report["recovery"]["steps"]}
    assert "too large" in rows["allocate"]["why"] and not rows["allocate"]["kept"]
    assert rows["reconstruct"]["kept"]


def test_channels_that_are_too_large_to_be_measured_say_so(net, monkeypatch):
    target = {"macs": 0.6}
    found = onnxprune.prune(net, "channel", target=target, data=samples(96, 5))
    assert found.report["recovery"]["sensitivity"]
    monkeypatch.setattr(effort, "MEASURING", 1.0)
    found = onnxprune.prune(net, "channel", target=target, data=samples(96, 5))
    (row,) = [s for s in found.report["recovery"]["steps"] if s["step"] == "allocate"]
    assert "too large" in row["why"] and not row["kept"]


def test_a_sensitivity_of_fewer_samples_says_so(net, monkeypatch):
    assert not onnxprune.sensitivity(net, samples(300, 5), levels=[0.5])["notes"]
    monkeypatch.setattr(effort, "FORWARD", 1.0)
    (told,) = onnxprune.sensitivity(net, samples(300, 5), levels=[0.5])["notes"]
    assert "128 samples" in told


def test_errors_of_large_layers_are_told_on_some_rows(monkeypatch):
    rng = np.random.default_rng(2)
    weight, gram = np.tile(rng.standard_normal((1, 5)), (9, 1)), np.eye(5)
    candidate, cross = 0.5 * weight, 2.0 * weight
    every = (
        validation_error(candidate, weight, gram),
        validation_error(candidate, weight, gram, cross),
    )
    monkeypatch.setattr(problem, "ERROR_MACS", 75.0)
    assert problem.some_rows(9, 5) == slice(None, None, 3)
    some = (
        validation_error(candidate, weight, gram),
        validation_error(candidate, weight, gram, cross),
    )
    np.testing.assert_allclose(some, every)


def test_a_large_network_is_swept(net, monkeypatch):
    monkeypatch.setattr(effort, "SEARCHING", 1.0)
    monkeypatch.setattr(effort, "HURRIED", 1.0)
    monkeypatch.setattr(effort, "SOLVING", 1.0)
    found = onnxprune.prune(net, "element", 0.5, data=samples(96, 5))
    rows = found.report["recovery"]["layers"]
    assert {row["method"] for row in rows} == {"sparsegpt"}
    steps = {step["step"]: step for step in found.report["recovery"]["steps"]}
    assert steps["reconstruct"]["loss"] < 0.7 * steps["mask"]["loss"]
    assert onnx.checker.check_model(found.model) is None


def inside_a_function(model):
    """The same network as the call of one local function."""
    graph, weights = model.graph, [t.name for t in model.graph.initializer]
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_function("own", "net", ["x", *weights], ["y"], list(graph.node), opsets)
    call = helper.make_node("net", ["x", *weights], ["y"], domain="own")
    outer = helper.make_graph([call], "g", graph.input, graph.output, list(graph.initializer))
    opsets = [*opsets, helper.make_opsetid("own", 1)]
    return helper.make_model(outer, opset_imports=opsets, functions=[body], ir_version=9)


def test_layers_in_local_functions_count_and_are_measured(net, monkeypatch):
    called = inside_a_function(net)
    monkeypatch.setattr(effort, "FORWARD", 200.0 * 5 * (12 * 24 + 24 * 6))
    feeds, note = affordable_feeds(samples(300, 5), io.load(called).model)
    assert sum(map(rows_of, feeds)) == 200 and note is not None
    table = onnxprune.sensitivity(called, samples(96, 5), levels=[0.5])
    assert len({row["tensor"] for row in table["rows"]}) == 2
