"""`onnxprune inspect` and `onnxprune list`."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from cli_helpers import save_convs
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.allocation.base import ALLOCATIONS
from onnxprune.cli.list import KINDS
from onnxprune.criteria.base import CRITERIA
from onnxprune.passes.base import PASSES
from onnxprune.patterns.base import PATTERNS
from onnxprune.rules.base import RULES


def test_counts_agree_with_the_file(run, resnet):
    report = json.loads(run("inspect", resnet, "--json").out)
    model = onnx.load(resnet)
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    assert report["bytes"] == resnet.stat().st_size
    assert report["opsets"] == {"ai.onnx": model.opset_import[0].version}
    assert report["ir_version"] == model.ir_version and report["external_data"] == []
    assert report["dynamic_dims"] == ["batch"]
    assert report["inputs"] == [{"name": "image", "type": "FLOAT", "shape": ["batch", 1, 16, 16]}]
    assert report["outputs"] == [{"name": "logits", "type": "FLOAT", "shape": ["batch", 10]}]
    assert sum(report["operators"].values()) == len(model.graph.node)
    layers = report["layers"]
    assert len(layers) == report["operators"]["Conv"] + report["operators"]["Gemm"]
    for row in layers:
        assert row["weights"] == sizes[row["weight"]] == np.prod(row["weight_shape"])
        if row["op"] == "Conv":
            out = row["output_shape"]
            assert row["macs"] == row["weights"] * out[2] * out[3]
    assert report["macs"] == sum(row["macs"] for row in layers)
    assert report["units"]["total"] == report["units"]["frozen"] + report["units"]["prunable"]


def test_groups_are_what_prune_divides(run, resnet):
    inspected = onnxprune.inspect(resnet)
    pruned = json.loads(run("prune", resnet, "--sparsity", "0.5", "--dry-run", "--json").out)
    assert [(g["name"], g["units"], g["layers"]) for g in inspected["groups"]] == [
        (g["name"], g["units"], g["layers"]) for g in pruned["groups"]
    ]
    assert inspected["frozen"] == pruned["frozen"]
    stream = inspected["groups"][0]
    assert stream["layers"][0] == "/conv/Conv" and len(stream["layers"]) == 3
    assert "/stage2/stage2.0/shortcut/shortcut.0/Conv" in stream["consumers"]


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "block:4x1", "kernel"])
def test_patterns_that_zeros_follow(run, tmp_path, pattern):
    model = save_convs(tmp_path / "net.onnx", (8, 16, 16, 8))
    level = [] if ":4" in pattern and "block" not in pattern else ["--sparsity", "0.5"]
    out = tmp_path / "o.onnx"
    assert run("prune", model, "-o", out, "--pattern", pattern, *level).code == 0
    for row in onnxprune.inspect(model)["layers"]:
        assert pattern in row["fits"] and row["follows"] == [] and row["sparsity"] == 0
    for row in onnxprune.inspect(out)["layers"]:
        assert pattern in row["follows"]
        assert row["sparsity"] == pytest.approx(0.75 if pattern == "1:4" else 0.5, abs=0.02)
    assert f"[{pattern}" in run("inspect", out).out or pattern in run("inspect", out).out


def test_five_channels_do_not_fit_two_of_four(tmp_path):
    model = save_convs(tmp_path / "net.onnx", (5, 8, 6))
    rows = onnxprune.inspect(model)["layers"]
    assert "2:4" not in rows[0]["fits"] and "2:4" in rows[1]["fits"]
    assert "block:4x1" in rows[0]["fits"]


def test_what_is_not_understood_is_named(run, tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("Frobnicate", ["h"], ["g"], "odd", domain="com.example"),
        helper.make_node("MatMul", ["g", "v"], ["y"], "last"),
    ]
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
            for n, s in (("w", (4, 8)), ("v", (8, 3)))
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 2)]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    report = json.loads(run("inspect", path, "--json").out)
    assert report["unsupported"] == {"com.example::Frobnicate": 1}
    assert report["opsets"] == {"ai.onnx": 17, "com.example": 2}
    assert any("odd" in row["why"] for row in report["frozen_by"])
    text = run("inspect", path).out
    assert "com.example::Frobnicate (1)" in text and "odd" in text


def test_a_model_with_nan_is_described(run, tmp_path):
    model = save_convs(tmp_path / "net.onnx", bad=np.nan, external=True)
    report = json.loads(run("inspect", model, "--json").out)
    assert report["nonfinite"] == ["w0"] and report["external_data"] == ["net.onnx.weights"]
    text = run("inspect", model).out
    assert "NaN" in text and "net.onnx.weights" in text


def test_inspect_changes_nothing(resnet):
    before = resnet.read_bytes()
    loaded = onnxprune.load(resnet)
    a, b = onnxprune.inspect(loaded), onnxprune.inspect(loaded)
    assert a == b and resnet.read_bytes() == before


@pytest.mark.parametrize("kind", list(KINDS))
def test_lists_come_from_the_registries(run, kind):
    rows = json.loads(run("list", kind, "--json").out)[kind]
    counts = {
        "patterns": len(PATTERNS.names()),
        "criteria": len(CRITERIA.names()),
        "allocations": len(ALLOCATIONS.names()),
        "passes": len(PASSES.names()),
        "rules": len(RULES),
    }
    assert len(rows) == counts.get(kind, len(rows)) > 0
    assert all(next(iter(row.values())) for row in rows)
    text = run("list", kind).out.splitlines()
    assert len(text) == 1 + len(rows)


def test_passes_show_their_options(run):
    rows = {r["name"]: r for r in json.loads(run("list", "passes", "--json").out)["passes"]}
    assert rows["apply-plan"]["options"] == {"mask_only": False}
    assert all(r["summary"] for r in rows.values())


def test_help_needs_no_runtime(process, run, tmp_path):
    ran = run("--help")
    assert ran.code == 0
    for command in ("inspect", "prune", "validate", "bench", "list", "convert"):
        assert command in ran.out
    assert run("--version").out.startswith("onnxprune, version ")
    assert run("frobnicate").code == 2
    assert "'inspect'" in run("inspct", "x").err
