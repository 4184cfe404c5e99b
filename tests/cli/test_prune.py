"""`onnxprune prune`: what it writes and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_helpers import contents, digest, save_convs

import onnxprune
from onnxprune.errors import UsageError


def interface(path: Path) -> list[Any]:
    graph = onnx.load(path).graph
    return [[v.SerializeToString() for v in side] for side in (graph.input, graph.output)]


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    graph = onnx.load(path).graph
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}


def test_json_is_one_object_with_the_promised_keys(run, resnet, tmp_path):
    before = digest(resnet)
    out = tmp_path / "small.onnx"
    ran = run("prune", resnet, "-o", out, "--pattern", "channel", "--sparsity", "0.5",
              "--criterion", "l1", "--json")  # fmt: skip
    assert ran.code == 0 and ran.err == ""
    report = json.loads(ran.out)
    for key in ("params", "macs", "bytes"):
        assert 0 < report[key]["after"] < 0.35 * report[key]["before"]
    assert report["bytes"]["before"] == resnet.stat().st_size
    assert report["bytes"]["after"] == out.stat().st_size
    assert report["params"]["after"] == sum(
        w.size for w in weights(out).values() if w.dtype == np.float32
    )
    assert report["sparsity"] == 0
    units = report["units"]
    assert units["removed"] == 168 and units["total"] == 346 and units["frozen"] == 10
    assert report["frozen"] == [
        {"where": "/classifier/Gemm", "why": "graph output logits: is an output", "units": 10}
    ]
    assert report["proof"]["passed"] is True and 0 < report["proof"]["max_rel_error"] < 1e-3
    assert report["seconds"] > 0
    assert interface(out) == interface(resnet)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert digest(resnet) == before
    # The plan is the way from the original weights to the pruned ones.
    dense, pruned = weights(resnet), weights(out)
    planned = report["plan"]["tensors"]
    for name in dense.keys() & planned.keys():
        cut, entry = dense[name], planned[name]
        assert list(cut.shape) == entry["shape"]
        for axis, kept in enumerate(entry["kept"]):
            cut = cut if kept is None else cut.take(kept, axis)
        np.testing.assert_array_equal(cut, pruned[name])
    changed = {n for n in dense.keys() & pruned.keys() if dense[n].shape != pruned[n].shape}
    assert changed == dense.keys() & planned.keys() and len(changed) > 60


def test_masks_zero_what_the_plan_says_and_nothing_else(run, resnet, tmp_path):
    out = tmp_path / "sparse.onnx"
    ran = run("prune", resnet, "-o", out, "--pattern", "2:4", "--json")
    report = json.loads(ran.out)
    assert ran.code == 0 and report["kind"] == "mask"
    dense, pruned = weights(resnet), weights(out)
    zeros = total = 0
    for name in report["plan"]["tensors"]:
        w = pruned[name]
        rows = np.moveaxis(w, 1, -1).reshape(-1, 4)
        assert ((rows != 0).sum(1) <= 2).all()
        same = w != 0
        np.testing.assert_array_equal(w[same], dense[name][same])
        zeros += w.size - same.sum()
    for name, w in dense.items():
        if name not in report["plan"]["tensors"]:
            np.testing.assert_array_equal(pruned[name], w)
        if w.ndim >= 2:
            total += w.size
    assert report["sparsity"] == pytest.approx(zeros / total)
    assert [s["layer"] for s in report["skipped"]] == ["/conv/Conv"]


def test_same_command_gives_the_same_bytes(process, run, resnet, tmp_path):
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    args = ("--sparsity", "0.4", "--criterion", "random", "--seed", "3")
    assert process("prune", resnet, "-o", a, *args).code == 0
    assert run("prune", resnet, "-o", b, *args).code == 0
    assert a.read_bytes() == b.read_bytes()
    assert run("prune", resnet, "-o", b, *args[:-1], "4").code == 0
    assert a.read_bytes() != b.read_bytes()


@pytest.mark.parametrize("pattern", ["channel", "2:4"])
def test_a_plan_replays_to_the_same_bytes(run, resnet, tmp_path, pattern):
    a, b, plan = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "plan.json"
    level = ["--sparsity", "0.5"]
    assert run("prune", resnet, "-o", a, "--pattern", pattern, *level, "--plan", plan).code == 0
    again = run("prune", resnet, "-o", b, "--from-plan", plan, "--json")
    assert again.code == 0 and a.read_bytes() == b.read_bytes()
    report = json.loads(again.out)
    assert report["pattern"] == pattern
    assert report["plan"] == json.loads(plan.read_text())


def test_dry_run_writes_nothing_and_reports_the_same(run, resnet, tmp_path):
    out = tmp_path / "small.onnx"
    args = ("prune", resnet, "-o", out, "--sparsity", "0.5", "--json",
            "--plan", tmp_path / "plan.json", "--report", tmp_path / "r.json")  # fmt: skip
    ran = run(*args, "--dry-run")
    assert ran.code == 0 and "nothing is written" in ran.err
    assert contents(tmp_path) == {}
    dry, wet = json.loads(ran.out), json.loads(run(*args).out)
    for report in (dry, wet):
        del report["seconds"]
    assert dry == wet
    without_output = run("prune", resnet, "--sparsity", "0.5", "--dry-run")
    assert without_output.code == 0 and "parameters" in without_output.out


def test_mask_only_computes_what_the_small_model_computes(run, resnet, tmp_path):
    small, masked = tmp_path / "small.onnx", tmp_path / "masked.onnx"
    assert run("prune", resnet, "-o", small, "--sparsity", "0.5").code == 0
    assert run("prune", resnet, "-o", masked, "--sparsity", "0.5", "--mask-only").code == 0
    assert masked.stat().st_size > 3 * small.stat().st_size
    x = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)
    a, b = (ort.InferenceSession(p).run(None, {"image": x})[0] for p in (small, masked))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_external_data_is_counted_and_written_beside(run, tmp_path):
    model = save_convs(tmp_path / "net.onnx", (16, 64, 64, 8), external=True)
    before = contents(tmp_path)
    out = tmp_path / "out" / "small.onnx"
    out.parent.mkdir()
    ran = run("prune", model, "-o", out, "--sparsity", "0.5", "--json")
    assert ran.code == 0
    sizes = {p.name: p.stat().st_size for p in out.parent.iterdir()}
    assert set(sizes) == {"small.onnx", "small.onnx.data"}
    report = json.loads(ran.out)
    assert report["bytes"]["after"] == sum(sizes.values())
    assert report["bytes"]["before"] == sum((tmp_path / n).stat().st_size for n in before)
    assert {n: h for n, h in contents(tmp_path).items() if n in before} == before
    onnx.checker.check_model(str(out), full_check=True)


def test_reports(run, resnet, tmp_path):
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    out = tmp_path / "o.onnx"
    args = ("prune", resnet, "-o", out, "--sparsity", "0.5")
    printed = json.loads(run(*args, "--json", "--report", data).out)
    assert json.loads(data.read_text()) == printed
    assert run(*args, "--report", page).code == 0
    text = page.read_text()
    assert "http" not in text and "<script" not in text
    for told in ("/stage1/stage1.0/conv1/Conv", "graph output logits", "25.4%", "sparsity: 0.5"):
        assert told in text


def test_text_names_sums_groups_frozen_and_proof(run, resnet, tmp_path):
    ran = run("prune", resnet, "-o", tmp_path / "o.onnx", "--sparsity", "0.5")
    assert ran.err == ""
    for told in ("175,994", "25.4%", "/stage3/stage3.0/conv2/Conv", "is an output", "proved"):
        assert told in ran.out
    assert "\x1b" not in ran.out


def test_options_reach_the_selection(run, tmp_path):
    model = save_convs(tmp_path / "net.onnx", (3, 16, 16, 16, 4))

    def kept(*args: object) -> dict[str, int]:
        ran = run("prune", model, "--dry-run", "--json", *args)
        assert ran.code == 0, ran.err
        return {g["name"]: g["kept"] for g in json.loads(ran.out)["groups"]}

    assert kept("--sparsity", "0.5") == {"conv0": 8, "conv1": 8, "conv2": 8}
    assert kept("--sparsity", "0.6", "--align", "8") == {"conv0": 8, "conv1": 8, "conv2": 8}
    assert kept("--sparsity", "0.5", "--only", "conv1") == {"conv0": 16, "conv1": 8, "conv2": 16}
    assert kept("--sparsity", "0.5", "--keep", "conv[12]") == {"conv0": 8, "conv1": 16, "conv2": 16}
    assert kept("--layer", "conv0=0.75", "--layer", "conv2=0.25") == {
        "conv0": 4, "conv1": 16, "conv2": 12}  # fmt: skip
    assert kept("--sparsity", "0.5", "--first-layer", "keep")["conv0"] == 16
    target = run("prune", model, "--dry-run", "--json", "--target", "macs=0.4")
    macs = json.loads(target.out)["macs"]
    assert 0.3 < macs["after"] / macs["before"] <= 0.4


def test_data_is_used_for_the_proof(run, resnet, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.zeros((5, 1, 16, 16), np.float32))
    out = tmp_path / "o.onnx"
    args = ("prune", resnet, "-o", out, "--sparsity", "0.5", "--json", "--data")
    report = json.loads(run(*args, tmp_path / "x.npz", "--samples", "3").out)
    assert report["proof"]["passed"] is True
    assert report["recipe"]["data"] == {"path": str(tmp_path / "x.npz"), "samples": 3}
    np.savez(tmp_path / "bad.npz", image=np.zeros((5, 2, 16, 16), np.float32))
    ran = run(*args, tmp_path / "bad.npz")
    assert ran.code == 1 and "bad.npz" in ran.err
    assert run("prune", resnet, "-o", out, "--sparsity", "0.5", "--samples", "3").code == 2


def test_an_older_output_is_replaced(run, resnet, tmp_path):
    out = tmp_path / "o.onnx"
    out.write_text("old")
    assert run("prune", resnet, "-o", out, "--sparsity", "0.5").code == 0
    onnx.checker.check_model(onnx.load(out))
    assert set(contents(tmp_path)) == {"o.onnx"}


def test_python_speaks_the_same_words(run, resnet, tmp_path):
    result = onnxprune.prune(resnet, pattern="channel", sparsity=0.5, criterion="l1")
    onnxprune.save(result.loaded, tmp_path / "api.onnx")
    assert run("prune", resnet, "-o", tmp_path / "cli.onnx", "--sparsity", "0.5").code == 0
    assert (tmp_path / "api.onnx").read_bytes() == (tmp_path / "cli.onnx").read_bytes()


def test_nothing_to_remove_is_said(run, tmp_path):
    model = save_convs(tmp_path / "net.onnx", (3, 4))
    ran = run("prune", model, "-o", tmp_path / "o.onnx", "--sparsity", "0.5")
    assert ran.code == 0 and "nothing was removed" in ran.out


def test_operators_of_another_library_need_no_proof(run, tmp_path):
    """Their neighbours stay as they are, the rest goes; onnxruntime cannot run such a file."""
    path = save_convs(tmp_path / "net.onnx", (3, 8, 8, 4))
    model = onnx.load(path)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Swirl", "some.library"
    model.opset_import.add(domain="some.library", version=1)
    onnx.save(model, path)
    args = ("prune", path, "-o", tmp_path / "o.onnx", "--sparsity", "0.5")
    ran = run(*args)
    assert ran.code == 3 and "--no-proof" in ran.err
    assert not (tmp_path / "o.onnx").exists()
    ran = run(*args, "--no-proof")
    assert ran.code == 0 and "some.library::Swirl has no rule" in ran.out
    assert {t.name: t.dims[0] for t in onnx.load(tmp_path / "o.onnx").graph.initializer} == {
        "w0": 8,
        "w1": 4,
        "w2": 4,
    }


def test_format_packs_what_was_pruned(run, resnet, tmp_path):
    """One command for what prune and convert do."""
    half, packed, both = (tmp_path / n for n in ("half.onnx", "packed.onnx", "both.onnx"))
    args = ("--pattern", "element", "--sparsity", "0.8")
    assert run("prune", resnet, "-o", half, *args).code == 0
    assert run("convert", half, "-o", packed, "--format", "bitmap").code == 0
    ran = run("prune", resnet, "-o", both, *args, "--format", "bitmap", "--json")
    assert ran.code == 0
    stored = [{t.name: t.raw_data for t in onnx.load(p).graph.initializer} for p in (packed, both)]
    assert stored[0] == stored[1]
    assert "--format dense' restores" in run("inspect", packed).out
    assert "--format dense" not in run("inspect", half).out
    report = json.loads(ran.out)
    assert report["bytes"]["after"] == both.stat().st_size < 0.4 * report["bytes"]["before"]
    assert report["sparsity"] == pytest.approx(0.8, abs=0.01)
    with pytest.raises(UsageError, match="bitmap"):
        onnxprune.prune(resnet, "element", 0.5, format="bitmaps")
