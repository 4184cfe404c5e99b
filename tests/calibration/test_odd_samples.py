"""Few samples, fixed batches, old files, things read once: recovered, or said clearly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 12)).astype(np.float32)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order_of_tests():
    # Some draws are refused by the check across few samples, as they may be.
    global RNG
    RNG = np.random.default_rng(3)


def save(path, batch="n", old=False):
    """gemm - relu - gemm; ``old`` lists the weights among the inputs, as files did before 2019."""
    weights = {
        "a": RNG.standard_normal((12, 24)).astype(np.float32),
        "b": RNG.standard_normal((24, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"], "second"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 12])]
    if old:
        inputs += [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in weights.items()
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def gained(path, data, pattern="element"):
    """Prune with samples, and return the account after having seen that nothing got worse."""
    report = onnxprune.prune(path, pattern, 0.5, data=data, recover="reconstruct").report
    steps = report["recovery"]["steps"]
    kept = [s["loss"] for s in steps if s["kept"]]
    assert kept[-1] <= kept[0]
    return report["recovery"]


@pytest.mark.parametrize("pattern", ["element", "channel"])
@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_a_few_samples_are_enough_to_run(tmp_path, count, pattern):
    found = gained(save(tmp_path / "m.onnx"), {"x": X[:count]}, pattern)
    assert found["samples"] == count


@pytest.mark.parametrize(("batch", "count"), [(1, 40), (8, 40), (8, 12)])
def test_a_fixed_batch_is_filled_as_often_as_samples_allow(tmp_path, batch, count):
    found = gained(save(tmp_path / "m.onnx", batch), {"x": X[:count]})
    assert found["samples"] == count // batch * batch


def test_weights_among_the_inputs_are_no_samples(tmp_path):
    path = save(tmp_path / "m.onnx", old=True)
    assert gained(path, {"x": X})["samples"] == 40


def test_a_generator_gives_all_of_its_samples(tmp_path):
    path = save(tmp_path / "m.onnx")
    assert gained(path, ({"x": X[i : i + 1]} for i in range(40)))["samples"] == 40
    assert gained(path, iter([{"x": X[:1]}]))["samples"] == 1


def test_what_does_not_fit_is_named(tmp_path):
    path = save(tmp_path / "m.onnx", 8)
    with pytest.raises(DataError, match="lacks input 'x'"):
        onnxprune.prune(path, "element", 0.5, data={"pixels": X})
    with pytest.raises(DataError, match=r"shape \[40, 11\]|axis 1 must be 12"):
        onnxprune.prune(path, "element", 0.5, data={"x": X[:, 1:]})
    with pytest.raises(DataError, match="fixed batch of 8"):
        onnxprune.prune(path, "element", 0.5, data={"x": X[:5]})


@pytest.mark.parametrize("pattern", ["element", "2:4", "channel"])
def test_weights_behind_reshapes_in_the_oldest_files(tmp_path, pattern):
    """Opset 8, IR version 3: weights are inputs, and one is folded before it is multiplied."""
    weights = {
        "w": RNG.standard_normal((8, 1, 3, 3)).astype(np.float32),
        "v": RNG.standard_normal((8, 2, 2, 10)).astype(np.float32),
        "flat": np.array([32, 10], np.int64),
        "rows": np.array([1, 32], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["v", "flat"], ["vf"]),
        helper.make_node("Conv", ["x", "w"], ["c"], "first", auto_pad="VALID"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "rows"], ["f"]),
        helper.make_node("MatMul", ["f", "vf"], ["y"], "second"),
    ]
    kinds = {k: TensorProto.INT64 if v.dtype.kind == "i" else TensorProto.FLOAT
             for k, v in weights.items()}  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])]
        + [helper.make_tensor_value_info(k, kinds[k], v.shape) for k, v in weights.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)
    path = tmp_path / "old.onnx"
    onnx.save(model, path)
    data = {"x": RNG.standard_normal((60, 1, 4, 4)).astype(np.float32)}
    found = onnxprune.prune(path, pattern, 0.5 if ":" not in pattern else None, data=data)
    account = found.report["recovery"]
    assert not [row for row in account["layers"] if row.get("why")]
    train = account["training"] if pattern == "channel" else account["steps"][-1]
    assert train["weights"] >= 2
    first, best = account["steps"][0]["loss"], min(s["loss"] for s in account["steps"] if s["kept"])
    assert best < 0.6 * first
