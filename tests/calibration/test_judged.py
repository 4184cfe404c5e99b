"""What is compared where outputs are decisions, holes, constants, or as many as the samples say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.judged import judged_values
from onnxprune.calibration.stages import Stages, Stream

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 12)).astype(np.float32)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order_of_tests():
    global RNG
    RNG = np.random.default_rng(1)


def save(path, tail, outputs, constants=()):
    """gemm - relu - gemm, and what is made of the ten logits."""
    weights = {
        "a": RNG.standard_normal((12, 24)).astype(np.float32),
        "b": RNG.standard_normal((24, 10)).astype(np.float32),
        **dict(constants),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["logits"], "second"),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def judged(path):
    return judged_values(Stages(io.load(path).model), {"x": X[:8]})


ARGMAX = [helper.make_node("ArgMax", ["logits"], ["y"], axis=-1, keepdims=0)]
# The logits above zero, as many as there are.
CHOSEN = [
    helper.make_node("Greater", ["logits", "zero"], ["on"]),
    helper.make_node("NonZero", ["on"], ["places"]),
    helper.make_node("Transpose", ["places"], ["rows"]),
    helper.make_node("GatherND", ["logits", "rows"], ["y"]),
]
ZERO = {"zero": np.zeros((), np.float32)}


def test_outputs_are_compared_where_they_will_do(tmp_path):
    path = save(tmp_path / "m.onnx", ARGMAX, {"logits": TensorProto.FLOAT, "y": TensorProto.INT64})
    assert judged(path) == ["logits", "y"]


def test_numbers_before_a_decision_or_a_choice_are_compared(tmp_path):
    assert judged(save(tmp_path / "a.onnx", ARGMAX, {"y": TensorProto.INT64})) == ["logits"]
    path = save(tmp_path / "c.onnx", CHOSEN, {"y": TensorProto.FLOAT}, ZERO)
    assert judged(path) == ["logits"]


@pytest.mark.parametrize("pattern", ["element", "channel"])
@pytest.mark.parametrize("kind", ["argmax", "chosen"])
def test_networks_that_end_in_decisions_are_recovered(tmp_path, pattern, kind):
    tail, dtype = (ARGMAX, TensorProto.INT64) if kind == "argmax" else (CHOSEN, TensorProto.FLOAT)
    path = save(tmp_path / "m.onnx", tail, {"y": dtype}, ZERO)
    result = onnxprune.prune(path, pattern, 0.5, data={"x": X})
    steps = result.report["recovery"]["steps"]
    assert np.isfinite(steps[0]["loss"]) and steps[0]["loss"] > 0
    assert min(s["loss"] for s in steps if s["kept"]) < 0.7 * steps[0]["loss"]
    assert [v.name for v in result.model.graph.outputs] == ["y"]


def test_holes_are_not_compared(tmp_path):
    masked = np.where(np.arange(10) < 3, -np.inf, 0).astype(np.float32)
    tail = [helper.make_node("Add", ["logits", "m"], ["y"])]
    path = save(tmp_path / "m.onnx", tail, {"y": TensorProto.FLOAT}, {"m": masked})
    result = onnxprune.prune(path, "element", 0.5, data={"x": X})
    steps = result.report["recovery"]["steps"]
    assert all(s["loss"] is not None and np.isfinite(s["loss"]) for s in steps)
    assert min(s["loss"] for s in steps if s["kept"]) < 0.7 * steps[0]["loss"]


def test_the_judge_looks_at_what_is_finite():
    dense = np.array([[1.0, np.nan, 3.0], [0.5, 0.1, np.inf]], np.float32)
    other = np.where(np.isfinite(dense), dense, 7.0).astype(np.float32)
    for shape in ((2, 3), (2, 3, 1, 1)):
        judge = Judge([[dense.reshape(shape)]])
        assert judge.judge([[other.reshape(shape)]]).loss == pytest.approx(0, abs=1e-9)
        assert judge.judge([[(other + np.eye(3)[2]).reshape(shape)]]).loss > 1e-3
        worse = other.copy()
        worse[0, 0] = np.nan
        assert judge.judge([[worse.reshape(shape)]]).loss == np.inf


def test_constant_outputs_are_compared_by_their_rounding():
    dense = np.full((4, 3, 2, 2), 5.0, np.float32)
    close = Judge([[dense]]).judge([[dense * np.float32(1 + 2e-7)]]).loss
    assert close < 1e-3 < Judge([[dense]]).judge([[dense * 1.01]]).loss


def test_sequences_between_two_stretches():
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1, keepdims=1),
        helper.make_node("Identity", ["x"], ["z"]),
        helper.make_node("SequenceAt", ["parts", "i"], ["first"]),
        helper.make_node("Add", ["first", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])],
        [numpy_helper.from_array(np.array(1, np.int64), "i")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    stream = Stream(Stages(io.load(model).model), [{"x": X}])
    for place in range(1, 4):
        stream.advance(place)
    np.testing.assert_allclose(stream.finish()[0][0], X + X[:, 1:2])


def test_what_classes_have_in_common_is_seen():
    """Ten logits, or ten coordinates: a common shift leaves the classes as they are."""
    dense = RNG.standard_normal((20, 10))
    judge = Judge([[dense]])
    plain = judge.judge([[dense + 0.1 * RNG.standard_normal(dense.shape)]])
    shifted = judge.judge([[dense + 3.0]])
    assert shifted.loss == pytest.approx(0, abs=1e-9) and shifted.loss < plain.loss
    assert not shifted.no_worse(plain) and judge.judge([[dense]]).no_worse(plain)
    assert plain.error == pytest.approx(0.01, rel=0.3)
