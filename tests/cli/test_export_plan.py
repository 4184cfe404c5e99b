"""export-plan and --structure-report: what a plan says to a framework, what a picture shows."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import save_convs
from onnx import numpy_helper

from onnxprune.report.picture import lanes

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def _weights(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_kept_indices_rebuild_the_pruned_weights(run, tmp_path):
    net = ROOT / "models" / "digits_transformer.onnx"
    small, plan, kept = tmp_path / "s.onnx", tmp_path / "plan.json", tmp_path / "kept.json"
    assert run("prune", net, "-o", small, "--sparsity", "0.5", "--plan", plan).code == 0
    ran = run("export-plan", plan, "--framework", "torch", "--model", net, "-o", kept)
    assert ran.code == 0, ran.err
    data = json.loads(kept.read_text())
    assert (data["onnxprune_export"], data["framework"], data["kind"]) == (1, "torch", "structure")
    dense, pruned = _weights(net), _weights(small)
    cut = 0
    for name, entry in data["parameters"].items():
        if name not in dense:
            continue
        array = dense[name]
        assert entry["shape"] == list(array.shape)
        assert entry["digest"] == hashlib.sha256(array.tobytes()).hexdigest()
        if array.ndim == 2:
            turned = np.ascontiguousarray(array.T).tobytes()
            assert entry["digest_transposed"] == hashlib.sha256(turned).hexdigest()
        for axis, indices in enumerate(entry["kept"]):
            if indices is not None:
                array = np.take(array, indices, axis)
        assert entry["pruned_shape"] == list(array.shape)
        if name in pruned:
            np.testing.assert_array_equal(array, pruned[name])
            cut += array.shape != dense[name].shape
    assert cut >= 12


def test_masks_and_mistakes(run, tmp_path):
    net, plan = save_convs(tmp_path / "net.onnx", (4, 8, 8, 4)), tmp_path / "plan.json"
    assert (
        run("prune", net, "-o", tmp_path / "o.onnx", "--pattern", "2:4", "--plan", plan).code == 0
    )
    data = json.loads(run("export-plan", plan).out)
    assert data["kind"] == "mask"
    assert all("mask" in entry and "digest" not in entry for entry in data["parameters"].values())
    other = save_convs(tmp_path / "other.onnx")
    assert run("export-plan", net).code == 1
    assert run("export-plan", plan, "--framework", "jax").code == 2
    model = onnx.load(other)
    for tensor in model.graph.initializer:
        tensor.name += "_x"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name.startswith("w"):
                node.input[i] = name + "_x"
    onnx.save(model, other)
    ran = run("export-plan", plan, "--model", other)
    assert ran.code == 2 and "none of the tensors" in ran.err


def _torch() -> str | None:
    """Return a Python that has torch: this one, or the one in ONNXPRUNE_TORCH_PYTHON."""
    if importlib.util.find_spec("torch") is not None:
        return sys.executable
    return os.environ.get("ONNXPRUNE_TORCH_PYTHON")


@pytest.mark.skipif(_torch() is None, reason="torch is not installed; set ONNXPRUNE_TORCH_PYTHON")
def test_the_fine_tuning_example_runs(environment, tmp_path):
    tool = f"env PYTHONPATH={environment.get('PYTHONPATH', '')} {sys.executable} -m onnxprune"
    script = ROOT / "docs" / "examples" / "finetune_torch.py"
    done = subprocess.run(
        [str(_torch()), str(script), str(tmp_path)],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"ONNXPRUNE": tool},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fine-tuning: loss" in done.stdout


@pytest.mark.parametrize("ending", [".svg", ".html"])
def test_picture_shows_every_layer_and_group(run, tmp_path, ending):
    net = ROOT / "models" / "digits_mobile.onnx"
    drawn = tmp_path / f"p{ending}"
    assert run("inspect", net, "--structure-report", drawn).code == 0
    report = json.loads(run("inspect", net, "--json").out)
    text = drawn.read_text()
    if ending == ".html":
        text = text[text.index("<svg") : text.index("</svg>") + 6]
    root = ET.fromstring(text)
    words = ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]
    for i, group in enumerate(report["groups"], 1):
        makers = sum(w == f"makes #{i} ({group['units']})" for w in words)
        readers = sum(w == f"reads #{i} ({group['units']})" for w in words)
        assert (makers, readers) == (len(set(group["layers"])), len(set(group["consumers"])))
    found = lanes(report)
    rings = sum(len(lane.makers & lane.readers) for lane in found)
    dots = sum(len(lane.makers | lane.readers) for lane in found)
    legend = 4
    assert sum(1 for _ in root.iter(f"{SVG}circle")) == dots + rings + legend
    for a in found:  # lines in one column never overlap
        for b in found:
            if a is not b and a.column == b.column:
                assert a.rows[1] < b.rows[0] or b.rows[1] < a.rows[0]


def test_picture_of_a_prune_says_what_stays(run, tmp_path):
    net, drawn = ROOT / "models" / "digits_transformer.onnx", tmp_path / "p.svg"
    args = ["--sparsity", "0.5", "--structure", "hidden,heads", "--structure-report", drawn]
    assert run("prune", net, "-o", tmp_path / "o.onnx", *args).code == 0
    text = drawn.read_text()
    assert "(64\u219232)" in text and "(4\u21922)" in text and ">hidden<" in text
    ran = run("prune", net, "-o", tmp_path / "x.onnx", *args[:-1], tmp_path / "p.png")
    assert ran.code == 2 and "must end in" in ran.err


def test_inspect_lists_every_frozen_layer_with_the_operator(run):
    ran = run("inspect", ROOT / "models" / "digits_transformer.onnx", "--frozen")
    report = json.loads(run("inspect", ROOT / "models" / "digits_transformer.onnx", "--json").out)
    assert report["frozen"]
    for row in report["frozen"]:
        assert any(row["where"] in line and row["why"] in line for line in ran.out.splitlines())


def test_operators_page_is_current():
    spec = importlib.util.spec_from_file_location("operators", ROOT / "tools" / "operators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "operators.md").read_text()
    assert page == module.page(), "run: python tools/operators.py > docs/operators.md"
