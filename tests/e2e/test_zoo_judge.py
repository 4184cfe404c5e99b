"""The zoo's judge finds what is wrong with a pruned file: each fault is made on purpose."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import all_graphs
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    if not (ROOT / "benchmarks" / "zoo").exists():
        pytest.skip("benchmarks/ is not part of this installation")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import zoo.check
        import zoo.feeds
        import zoo.judge
        import zoo.table
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return zoo


@pytest.fixture
def dense() -> onnx.ModelProto:
    return all_graphs()["plain_chain"]()


KEEP = [0, 2, 5, 7]
PLAN: dict[str, Any] = {
    "tensors": {
        "stem.w": {"kept": [KEEP, None, None, None]},
        "stem.b": {"kept": [KEEP]},
        "c2.w": {"kept": [None, KEEP, None, None]},
    }
}


def _edit(model: onnx.ModelProto, name: str, array: np.ndarray[Any, Any]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _get(model: onnx.ModelProto, name: str) -> np.ndarray[Any, Any]:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    return np.array(numpy_helper.to_array(tensor))


def _masked(dense: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    weight = _get(model, "c2.w")
    weight[:, [1, 3, 4, 6]] = 0
    _edit(model, "c2.w", weight)
    return model


def _shrunk(dense: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    del model.graph.value_info[:]
    _edit(model, "stem.w", _get(model, "stem.w")[KEEP])
    _edit(model, "stem.b", _get(model, "stem.b")[KEEP])
    _edit(model, "c2.w", _get(model, "c2.w")[:, KEEP])
    return model


def test_a_right_prune_is_content(zoo: ModuleType, dense: onnx.ModelProto, tmp_path: Path) -> None:
    judge, feeds = zoo.judge, {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8))}
    masked, shrunk = _masked(dense), _shrunk(dense)
    assert judge.mask_violations(dense, masked, PLAN) == []
    assert judge.shrink_violations(dense, shrunk, PLAN) == []
    assert judge.interface_differences(dense, shrunk) == []
    outputs = []
    for name, model in (("m", masked), ("s", shrunk)):
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        assert judge.full_check(path) == ""
        outputs.append(judge.run(path, {"x": feeds["x"].astype(np.float32)})[0])
    assert zoo.feeds.deviation(outputs[1], outputs[0]) < 1e-5


def test_a_changed_kept_weight_is_found(zoo: ModuleType, dense: onnx.ModelProto) -> None:
    masked, shrunk = _masked(dense), _shrunk(dense)
    for model in (masked, shrunk):
        weight = _get(model, "c2.w")
        weight[0, 0, 0, 0] += 1
        _edit(model, "c2.w", weight)
    assert any(
        "kept weight changed" in text for text in zoo.judge.mask_violations(dense, masked, PLAN)
    )
    assert any(
        "not the kept part" in text for text in zoo.judge.shrink_violations(dense, shrunk, PLAN)
    )


def test_a_removed_weight_that_is_not_zero_is_found(
    zoo: ModuleType, dense: onnx.ModelProto
) -> None:
    masked = _masked(dense)
    weight = _get(masked, "c2.w")
    weight[:, 1] = 0.5
    _edit(masked, "c2.w", weight)
    found = zoo.judge.mask_violations(dense, masked, PLAN)
    assert any("neither zero nor as it was" in text for text in found)


def test_interface_changes_are_found(zoo: ModuleType, dense: onnx.ModelProto) -> None:
    for change in ("name", "dim", "type", "symbol"):
        model = onnx.ModelProto()
        model.CopyFrom(dense)
        value = model.graph.output[0]
        if change == "name":
            value.name = "y"
        elif change == "dim":
            value.type.tensor_type.shape.dim[1].dim_value = 3
        elif change == "type":
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        else:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        assert zoo.judge.interface_differences(dense, model), change


def test_deviation(zoo: ModuleType) -> None:
    deviation = zoo.feeds.deviation
    base = np.array([0.0, 2.0])
    assert deviation(base + 0.1, base) == pytest.approx(0.1)
    assert deviation(np.array([2.2]), np.array([2.0])) == pytest.approx(0.1)
    assert deviation(np.zeros(3), base) == float("inf")
    assert deviation(np.array([0.0, np.nan]), base) == float("inf")


def test_embeddings_are_counted_apart(zoo: ModuleType) -> None:
    counts = zoo.judge.parameters(all_graphs()["tied_embedding_transposed"]())
    table = 20 * 16
    assert counts == {
        "all": table + 16 * 24 + 24 * 16,
        "embedding": table,
        "looked_up": table,
    }


def test_copies_of_embeddings_and_positions_are_embeddings(zoo: ModuleType) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "table": rng.standard_normal((20, 6)),
        "places": rng.standard_normal((1, 5, 6)),
        "bias": rng.standard_normal(6),
        "w": rng.standard_normal((6, 6)),
    }
    arrays["head"] = np.ascontiguousarray(arrays["table"].T)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Add", ["e", "places"], ["p"]),
        helper.make_node("MatMul", ["p", "w"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["b"]),
        helper.make_node("MatMul", ["b", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 20])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )
    counts = zoo.judge.parameters(helper.make_model(graph))
    assert counts == {"all": 2 * 120 + 30 + 36 + 6, "embedding": 2 * 120 + 30, "looked_up": 120}


def _row(name: str, kind: str, kept: float, status: str = "right") -> dict[str, Any]:
    row = {"name": name, "arch": name, "family": "f", "kind": kind, "status": status, "why": []}
    return {**row, "kept_body": kept, "error": 1e-6, "seconds": 1.0, "frozen": [], "notes": []}


def test_table_medians_and_unexplained(zoo: ModuleType) -> None:
    rows = [_row("a", "cnn", 0.2), _row("b", "detector", 0.3), _row("c", "cnn", 0.95)]
    rows.append(_row("d", "mixer", 0.5, "wrong"))
    found = zoo.table.summary(rows)
    assert found["classes"]["convolutional"]["median_kept"] == 0.3
    assert found["classes"]["transformers and mixers"]["models"] == 1
    assert found["unexplained"] == ["c"]
    assert found["status"] == {"right": 3, "wrong": 1}
    assert "| d | wrong |" in zoo.table.markdown(rows, found)


def _tool(tmp_path: Path, body: str) -> list[str]:
    script = tmp_path / "tool.py"
    script.write_text("import json, shutil, sys\nargs = sys.argv[2:]\n" + body)
    return [sys.executable, str(script)]


IDENTITY = """
plan = {"tensors": {}}
if "--plan" in args:
    open(args[args.index("--plan") + 1], "w").write(json.dumps(plan))
shutil.copy(args[0], args[args.index("-o") + 1])
keys = ["params", "macs", "bytes", "units", "seconds", "plan"]
answer = dict.fromkeys(keys, 0) | {"frozen": [], "proof": {"max_rel_error": 0.0}}
print(json.dumps(answer))
"""


def _check(zoo: ModuleType, tmp_path: Path, dense: onnx.ModelProto, body: str) -> dict[str, Any]:
    (tmp_path / "out").mkdir()
    onnx.save(dense, tmp_path / "net.onnx")
    inputs = [{"name": "x", "dtype": "float32", "dims": [1, 3, 8, 8], "fill": "normal"}]
    entry: dict[str, Any] = {
        "name": "net",
        "arch": "net",
        "family": "f",
        "kind": "cnn",
        "file": "net.onnx",
    }
    entry |= {"inputs": inputs, "sizes": {}, "other_sizes": {}}
    row: dict[str, Any] = zoo.check.check_one(
        entry, tmp_path, tmp_path / "out", _tool(tmp_path, body)
    )
    json.dumps(row)
    return row


def test_a_tool_that_does_nothing_keeps_everything(
    zoo: ModuleType, dense: onnx.ModelProto, tmp_path: Path
) -> None:
    row = _check(zoo, tmp_path, dense, IDENTITY)
    assert row["status"] == "right"
    assert row["kept"] == 1.0
    assert zoo.table.summary([row])["unexplained"] == ["net"]


def test_a_tool_that_fails_is_quoted(
    zoo: ModuleType, dense: onnx.ModelProto, tmp_path: Path
) -> None:
    row = _check(zoo, tmp_path, dense, "print('error: no rule', file=sys.stderr); sys.exit(1)")
    assert row["status"] == "refused"
    assert "exit 1: error: no rule" in row["why"][0]


def test_a_tool_that_corrupts_the_model_is_wrong(
    zoo: ModuleType, dense: onnx.ModelProto, tmp_path: Path
) -> None:
    damage = """
import onnx
if "--mask-only" not in args:
    path = args[args.index("-o") + 1]
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    array = onnx.numpy_helper.to_array(tensor) * 1.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
"""
    row = _check(zoo, tmp_path, dense, IDENTITY + damage)
    assert row["status"] == "wrong"
    assert "differs from the masked model" in row["why"][0]
