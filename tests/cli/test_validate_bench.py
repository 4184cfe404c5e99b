"""`onnxprune validate` and `onnxprune bench`."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_helpers import save_convs
from onnx import helper, numpy_helper

import onnxprune
from onnxprune.errors import DataError, UsageError
from onnxprune.proof.similarity import Similarity

UNEVEN = np.linspace(0.5, 1.5, 8, dtype=np.float32).reshape(8, 1, 1, 1)


def scaled(path, out, factor, name: str = "w0") -> None:
    """Write a model with one weight multiplied."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, name))
    onnx.save(model, out)


@pytest.fixture
def convs(tmp_path):
    return save_convs(tmp_path / "net.onnx", (3, 8, 8, 4))


def test_a_model_equals_itself(run, resnet):
    ran = run("validate", resnet, resnet, "--max-error", "0", "--min-agreement", "1", "--json")
    report = json.loads(ran.out)
    assert ran.code == 0 and report["passed"] and report["interface_same"]
    row = report["outputs"]["logits"]
    assert row["max_abs_error"] == row["max_rel_error"] == 0
    assert row["cosine"] == row["top1_agreement"] == 1 and row["snr_db"] is None
    # Both sizes along the open dimension ran.
    assert len({feed["image"][0] for feed in report["input_sizes"]}) == 2
    assert "exact" in run("validate", resnet, resnet).out


def test_figures_agree_with_a_second_computation(run, convs, tmp_path):
    other = tmp_path / "other.onnx"
    scaled(convs, other, UNEVEN)
    x = np.random.default_rng(0).standard_normal((6, 3, 5, 7)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    ran = run("validate", convs, other, "--data", tmp_path / "x.npz", "--json")
    row = json.loads(ran.out)["outputs"]["out"]
    a, b = (ort.InferenceSession(p).run(None, {"x": x})[0].astype(float) for p in (convs, other))
    assert row["max_abs_error"] == pytest.approx(np.abs(a - b).max(), rel=1e-4)
    assert row["max_rel_error"] == pytest.approx(np.abs(a - b).max() / a.std(), rel=1e-3)
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    assert row["cosine"] == pytest.approx(cosine, rel=1e-6)
    snr = 10 * math.log10((a * a).sum() / ((a - b) ** 2).sum())
    assert row["snr_db"] == pytest.approx(snr, rel=1e-4)
    assert row["top1_agreement"] == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (a, b))
    assert row["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-3)


METRIC = """
import numpy as np

def spread(session, feeds):
    outs = [session.run(None, dict(feed))[0] for feed in feeds]
    return {"std": np.std(np.concatenate(outs)), "samples": sum(len(o) for o in outs)}

def text(session, feeds):
    return "good"

def broken(session, feeds):
    raise RuntimeError("no labels")
"""


def test_a_metric_of_ones_own(run, convs, tmp_path):
    other = tmp_path / "other.onnx"
    scaled(convs, other, UNEVEN)
    file = tmp_path / "metric.py"
    file.write_text(METRIC, encoding="utf-8")
    x = np.random.default_rng(0).standard_normal((6, 3, 5, 7)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    common = ("validate", convs, other, "--data", tmp_path / "x.npz")
    found = json.loads(run(*common, "--metric", f"{file}:spread", "--json").out)["metric"]
    for key, path in (("dense", convs), ("pruned", other)):
        out = ort.InferenceSession(path).run(None, {"x": x})[0]
        assert found["std"][key] == pytest.approx(out.std(), rel=1e-4)
        assert found["samples"][key] == 6
    assert "change" in run(*common, "--metric", f"{file}:spread").out
    for name, complaint in (("text", "return a number"), ("broken", "no labels")):
        with pytest.raises(DataError, match=complaint):
            onnxprune.validate(convs, other, metric=f"{file}:{name}")
    for name, complaint in ((f"{file}:none", "no function"), ("x.txt:f", "file.py:function")):
        with pytest.raises(UsageError, match=complaint):
            onnxprune.validate(convs, other, metric=name)


def test_thresholds(run, convs, tmp_path):
    other = tmp_path / "other.onnx"
    scaled(convs, other, UNEVEN)
    found = json.loads(run("validate", convs, other, "--json").out)["outputs"]["out"]
    error, share = found["max_rel_error"], found["top1_agreement"]
    args = ("validate", convs, other)
    assert run(*args, "--max-error", error * 1.01, "--min-agreement", share - 0.001).code == 0
    ran = run(*args, "--max-error", error * 0.99, "--json")
    assert ran.code == 3 and not json.loads(ran.out)["passed"]
    assert "'out'" in ran.err and ran.err.startswith("error: ")
    assert run(*args, "--min-agreement", min(1, share + 0.001)).code == 3
    assert run(*args, "--max-error", "-1").code == 2
    assert run(*args, "--min-agreement", "1.5").code == 2


def test_other_interface_fails(run, resnet, convs, tmp_path):
    model = onnx.load(convs)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, tmp_path / "dim.onnx")
    ran = run("validate", convs, tmp_path / "dim.onnx", "--json")
    report = json.loads(ran.out)
    assert ran.code == 3 and not report["interface_same"] and "'out'" in report["failures"][0]
    assert report["outputs"]["out"]["max_rel_error"] == 0
    ran = run("validate", convs, resnet)
    assert ran.code == 3 and "'x' is missing" in ran.err


def test_a_model_that_takes_one_size_only(run, convs, tmp_path):
    """Other sizes along dynamic dims must still run; here a Reshape pins what came from data."""
    model = onnx.load(convs)
    fixed = numpy_helper.from_array(np.array([2, 4, 6, 6], np.int64), "fixed")
    model.graph.initializer.append(fixed)
    model.graph.node[-1].output[0] = "inner"
    model.graph.node.append(helper.make_node("Reshape", ["inner", "fixed"], ["out"], "pin"))
    onnx.save(model, tmp_path / "pinned.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3, 6, 6), np.float32))
    ran = run("validate", convs, tmp_path / "pinned.onnx", "--data", tmp_path / "x.npz", "--json")
    report = json.loads(ran.out)
    assert ran.code == 3 and report["outputs"]["out"]["max_rel_error"] == 0
    assert "does not run" in report["failures"][0]


def test_layers_tell_where_the_error_starts(run, convs, tmp_path):
    other = tmp_path / "other.onnx"
    scaled(convs, other, UNEVEN, "w1")
    layers = json.loads(run("validate", convs, other, "--layers", "--json").out)["layers"]
    assert list(layers) == ["c0", "c1"]
    assert layers["c0"]["max_rel_error"] == 0 and layers["c1"]["max_rel_error"] > 0.1


def test_pruned_layers_of_other_shapes_are_shown_as_such(run, convs, tmp_path):
    small = tmp_path / "small.onnx"
    assert run("prune", convs, "-o", small, "--sparsity", "0.5").code == 0
    report = json.loads(run("validate", convs, small, "--layers", "--json").out)
    assert report["layers"]["c0"]["shapes"][0][1] == 8
    assert report["layers"]["c0"]["shapes"][1][1] == 4
    assert report["outputs"]["out"]["shapes"] is None


def test_data_that_does_not_fit(run, resnet, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.zeros((2, 3, 16, 16), np.float32))
    ran = run("validate", resnet, resnet, "--data", tmp_path / "x.npz")
    assert ran.code == 1 and "x.npz" in ran.err and "Traceback" not in ran.err


def test_missing_models(run, resnet, tmp_path):
    gone = tmp_path / "gone.onnx"
    assert run("validate", resnet, gone).code == run("validate", gone, resnet).code == 1
    assert run("bench", gone).code == run("inspect", gone).code == 1


def test_similarity_of_awkward_arrays():
    nan, inf = math.nan, math.inf
    same = Similarity()
    same.add(np.array([[nan, inf, 1.0]]), np.array([[nan, inf, 1.0]]))
    assert same.max_abs_error == 0 and same.cosine == 1 and same.snr == inf
    new_nan = Similarity()
    new_nan.add(np.array([[0.0, 1.0]]), np.array([[nan, 1.0]]))
    assert new_nan.max_abs_error == inf and new_nan.max_rel_error == inf
    shapes = Similarity()
    shapes.add(np.zeros((1, 4)), np.zeros((1, 5)))
    assert shapes.differing == ([1, 4], [1, 5]) and shapes.max_rel_error == inf
    zeros = Similarity()
    zeros.add(np.zeros((2, 4)), np.zeros((2, 4)))
    assert zeros.cosine == 1 and zeros.max_rel_error == 0 and zeros.agreement == 1
    labels = Similarity()
    labels.add(np.array([[1, 2]]), np.array([[1, 3]]))
    assert labels.max_rel_error == 0.5 and labels.agreement is None
    words = Similarity()
    words.add(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert words.max_rel_error == 0.5 and words.cosine == 1


def test_agreement_looks_along_the_class_axis():
    rng = np.random.default_rng(1)
    for shape, axis in (((4, 7), 1), ((2, 5, 7), 2), ((2, 7, 3, 3), 1)):
        a, b = rng.standard_normal(shape), rng.standard_normal(shape)
        found = Similarity()
        found.add(a, b)
        assert found.agreement == pytest.approx((a.argmax(axis) == b.argmax(axis)).mean())


def test_bench_interleaves_and_compares_with_the_first(run, resnet, tmp_path):
    small = tmp_path / "small.onnx"
    assert run("prune", resnet, "-o", small, "--sparsity", "0.9").code == 0
    ran = run("bench", resnet, small, "--seconds", "0.2", "--threads", "1,2", "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    rows = report["results"]
    assert [(r["model"], r["threads"]) for r in rows] == [
        (str(m), t) for t in (1, 2) for m in (resnet, small)
    ]
    assert rows[0]["speedup"] == rows[2]["speedup"] == 1
    for row in rows:
        assert 0 < row["ms_p10"] <= row["ms"] <= row["ms_p90"]
    assert rows[1]["bytes"] == small.stat().st_size
    assert report["rounds"] >= 5 and report["input_sizes"] == {"image": [1, 1, 16, 16]}
    text = run("bench", small, "--seconds", "0").out
    assert "1.00x" in text and str(small) in text


def test_bench_of_what_cannot_be(run, resnet, convs):
    assert run("bench").code == 2
    for args in (("--threads", "one"), ("--threads", "-1"), ("--runtime", "gpu"),
                 ("--seconds", "nan"), ("--seconds", "-1")):  # fmt: skip
        ran = run("bench", resnet, *args)
        assert ran.code == 2 and args[1] in ran.err
    ran = run("bench", resnet, convs, "--seconds", "0")
    assert ran.code == 1 and str(convs) in ran.err and "Traceback" not in ran.err
    with pytest.raises(UsageError):
        onnxprune.bench([])
    with pytest.raises(DataError):
        onnxprune.bench([resnet, convs], seconds=0)


def test_python_takes_any_kind_of_model(resnet):
    proto = onnx.load(resnet)
    report = onnxprune.validate(proto, resnet.read_bytes(), max_error=0)
    assert report["passed"] and report["outputs"]["logits"]["max_abs_error"] == 0
    loaded = onnxprune.load(resnet)
    assert onnxprune.validate(loaded, loaded)["passed"]
    rows = onnxprune.bench([proto, loaded], seconds=0)["results"]
    assert [r["model"] for r in rows] == ["<proto model>", "<path model>"]


def test_sparse_runtime(run, resnet, tmp_path):
    from onnxprune import runtime

    usable, why = runtime.available()
    ran = run("validate", resnet, resnet, "--runtime", "sparse", "--max-error", "1e-3")
    if usable:
        assert ran.code == 0
    else:
        assert ran.code == 1 and why.split()[0] in ran.err and "Traceback" not in ran.err
