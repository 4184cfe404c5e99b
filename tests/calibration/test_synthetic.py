"""Random inputs for want of samples: they run, they are reproducible, and the report says so."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.calibration.samples import SYNTHETIC_FEEDS, synthetic_feeds


def net(path):
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((16, 12)).astype(np.float32),
        "b": rng.standard_normal((16, 4)).astype(np.float32),
        "table": rng.standard_normal((50, 12)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["m", "a"], ["h"], "fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"], "fc2"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)


def test_feeds_are_of_one_size_and_repeat(tmp_path):
    net(tmp_path / "net.onnx")
    model = io.load(tmp_path / "net.onnx").model
    feeds = synthetic_feeds(model, 7)
    assert len(feeds) == 7 and len({f["ids"].shape for f in feeds}) == 1
    assert len({f["ids"].tobytes() for f in feeds}) == 7
    assert all((f["ids"] >= 0).all() and (f["ids"] < 50).all() for f in feeds)
    again = synthetic_feeds(model, 7)
    assert all(np.array_equal(a["ids"], b["ids"]) for a, b in zip(feeds, again, strict=True))
    assert len(synthetic_feeds(model)) == SYNTHETIC_FEEDS


def test_the_report_says_what_was_done_and_what_would_be_better(tmp_path):
    net(tmp_path / "net.onnx")
    path = tmp_path / "net.onnx"
    found = onnxprune.prune(path, "element", 0.5, data="synthetic")
    assert any("random inputs" in note for note in found.report["notes"])
    steps = {s["step"]: s for s in found.report["recovery"]["steps"]}
    solved = steps.get("allocate") or steps["reconstruct"]  # the one stands in for the other
    assert solved["loss"] < steps["mask"]["loss"]
    without = onnxprune.prune(path, "element", 0.5)
    assert any("--data" in note for note in without.report["notes"])
