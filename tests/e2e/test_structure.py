"""Which kinds of units go: heads, ffn, channels, hidden; and what hidden means, in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import UsageError

MODELS = Path(__file__).resolve().parents[2] / "models"
EPSILON = 1e-5


def kinds(report: dict, *, pruned: bool = False) -> set[str]:
    return {g["kind"] for g in report["groups"] if not pruned or g["kept"] < g["units"]}


@pytest.mark.parametrize("wanted", ["heads", "ffn", "heads,ffn"])
def test_only_the_kinds_asked_for(wanted: str) -> None:
    result = onnxprune.prune(MODELS / "digits_transformer.onnx", sparsity=0.5, structure=wanted)
    assert kinds(result.report, pruned=True) == set(wanted.split(","))
    assert "approximation" not in result.report["proof"]


def test_auto_is_every_exact_kind() -> None:
    net = MODELS / "digits_transformer.onnx"
    found = kinds(onnxprune.prune(net, sparsity=0.5).report, pruned=True)
    assert found == {"heads", "head_dim", "ffn"}
    mobile = kinds(onnxprune.prune(MODELS / "digits_mobile.onnx", sparsity=0.5).report)
    assert mobile == {"channels"}


def test_heads_and_what_is_inside_them_replay() -> None:
    """A head's coordinate goes with the head or with the coordinate; the plan tells which."""
    net = MODELS / "digits_transformer.onnx"
    result = onnxprune.prune(net, sparsity=0.5, structure="heads,head_dim")
    assert kinds(result.report, pruned=True) == {"heads", "head_dim"}
    assert result.report["proof"]["passed"]
    again = onnxprune.prune(net, plan=onnxprune.PrunePlan.from_dict(result.plan.as_dict()))
    first, second = (
        {name: value.const_value.numpy() for name, value in r.model.graph.initializers.items()}
        for r in (result, again)
    )
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_hidden_says_that_it_is_approximate_and_replays(tmp_path: Path) -> None:
    net = MODELS / "digits_transformer.onnx"
    result = onnxprune.prune(net, sparsity=0.5, structure="hidden")
    assert kinds(result.report, pruned=True) == {"hidden"}
    assert result.report["proof"]["passed"]
    assert result.report["proof"]["approximation"]["max_rel_error"] > 1e-2
    assert any("approximate" in note for note in result.report["notes"])
    plan = onnxprune.PrunePlan.from_dict(json.loads(result.plan.dumps()))
    again = onnxprune.prune(net, plan=plan)
    onnxprune.save(result.loaded, tmp_path / "a.onnx")
    onnxprune.save(again.loaded, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    masked = onnxprune.prune(net, plan=plan, mask_only=True)
    onnxprune.save(masked.loaded, tmp_path / "m.onnx")
    check = onnxprune.validate(tmp_path / "m.onnx", tmp_path / "a.onnx", max_error=1e-3)
    assert check["passed"]


def test_nothing_of_that_kind() -> None:
    with pytest.raises(UsageError, match="kinds of units here: channels"):
        onnxprune.prune(MODELS / "digits_mobile.onnx", sparsity=0.5, structure="heads")
    with pytest.raises(UsageError, match="structure 'head'"):
        onnxprune.prune(MODELS / "digits_mobile.onnx", sparsity=0.5, structure="head")
    with pytest.raises(UsageError, match="structure is for"):
        onnxprune.prune(
            MODELS / "digits_mobile.onnx", "element", sparsity=0.5, structure="channels"
        )


def _net(norm: list[onnx.NodeProto], extra: dict[str, np.ndarray], opset: int) -> onnx.ModelProto:
    """Gemm -> h, ``norm`` from h to z, Gemm."""
    rng = np.random.default_rng(5)
    weights = {
        "w1": rng.standard_normal((6, 12)),
        "b1": rng.standard_normal(12),
        "w2": rng.standard_normal((12, 4)),
        **extra,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"]),
        helper.make_node("Add", ["p", "b1"], ["h"]),
        *norm,
        helper.make_node("MatMul", ["z", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


SCALE = np.linspace(0.5, 2.0, 12)
BIAS = np.linspace(-1.0, 1.0, 12)


def _layer(h: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = h - h.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * scale + bias


def _rms(h: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return h / np.sqrt((h**2).mean(-1, keepdims=True) + EPSILON) * scale + bias


_CHAIN_EXTRA = {
    "two": np.array(2.0),
    "eps": np.array(EPSILON),
    "scale": SCALE,
    "bias": BIAS,
}


def _chain(centre: bool) -> list[onnx.NodeProto]:
    nodes = []
    if centre:
        nodes += [
            helper.make_node("ReduceMean", ["h"], ["mean"], axes=[-1]),
            helper.make_node("Sub", ["h", "mean"], ["c"]),
        ]
    c = "c" if centre else "h"
    return [
        *nodes,
        helper.make_node("Pow", [c, "two"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["var"], axes=[-1]),
        helper.make_node("Add", ["var", "eps"], ["var_eps"]),
        helper.make_node("Sqrt", ["var_eps"], ["std"]),
        helper.make_node("Div", [c, "std"], ["unit"]),
        helper.make_node("Mul", ["unit", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["z"]),
    ]


_FUSED = [helper.make_node("LayerNormalization", ["h", "scale", "bias"], ["z"], epsilon=EPSILON)]
NORMS = {
    "LayerNormalization": (_FUSED, {"scale": SCALE, "bias": BIAS}, 17, _layer),
    "LayerNorm chain": (_chain(True), _CHAIN_EXTRA, 13, _layer),
    "RMSNorm chain": (_chain(False), _CHAIN_EXTRA, 13, _rms),
}


@pytest.mark.parametrize("name", NORMS)
def test_hidden_takes_the_statistics_of_what_stays(name: str) -> None:
    """The pruned file computes the closed form over the kept coordinates."""
    norm, extra, opset, formula = NORMS[name]
    model = _net(norm, extra, opset)
    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    held = onnxprune.inspect(model)
    assert any("mixes this axis" in row["why"] for row in held["frozen"])
    result = onnxprune.prune(model, sparsity=0.5, structure="hidden")
    kept = result.plan.kept["w1"][1]
    assert kept is not None and len(kept) == 6
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    h = x @ weights["w1"][:, kept] + weights["b1"][kept]
    want = formula(h, SCALE[kept], BIAS[kept]) @ weights["w2"][kept]
    np.testing.assert_allclose(_run(result.model, x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin"])
def test_a_plain_reduction_over_units_is_exact(op: str) -> None:
    """Its result does not come back to the axis: the file computes what zeros would give."""
    rng = np.random.default_rng(3)
    norm = [
        helper.make_node(op, ["h"], ["m"], axes=[-1]),
        helper.make_node("MatMul", ["m", "w3"], ["z"]),
    ]
    model = _net(norm, {"w3": rng.standard_normal((1, 12))}, 13)
    result = onnxprune.prune(model, sparsity=0.5)
    kept = result.plan.kept["w1"][1]
    assert kept is not None and len(kept) == 6
    x = rng.standard_normal((5, 6)).astype(np.float32)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    h = x @ weights["w1"] + weights["b1"]
    gone = np.setdiff1d(np.arange(12), kept)
    h[:, gone] = 0
    reduce = {"ReduceMean": np.mean, "ReduceMax": np.max, "ReduceMin": np.min}[op]
    inner = result.plan.kept["w3"][1]
    assert inner is not None
    want = reduce(h, axis=-1, keepdims=True) @ weights["w3"][:, inner] @ weights["w2"][inner]
    np.testing.assert_allclose(_run(result.model, x), want, rtol=1e-4, atol=1e-5)


def test_local_response_normalisation_keeps_its_neighbours() -> None:
    rng = np.random.default_rng(2)
    weights = {"w1": rng.standard_normal((10, 3, 3, 3)), "w2": rng.standard_normal((4, 10, 3, 3))}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"], "first"),
        helper.make_node("LRN", ["h"], ["z"], "lrn", size=5, alpha=0.7, beta=0.6, bias=1.5),
        helper.make_node("Conv", ["z", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "lrn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 5, 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    result = onnxprune.prune(model, sparsity=0.5)
    kept = result.plan.kept["w1"][0]
    assert kept is not None and len(kept) == 5
    dense = numpy_helper.to_array(model.graph.initializer[0]).copy()
    dense[np.setdiff1d(np.arange(10), kept)] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(dense, "w1"))
    x = rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    np.testing.assert_allclose(_run(result.model, x), _run(model, x), rtol=1e-4, atol=1e-4)
