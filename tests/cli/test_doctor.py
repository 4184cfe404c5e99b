"""`onnxprune doctor`, with the library and without; `--runtime sparse` of other commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import runtime
from onnxprune.errors import RuntimeUnavailableError

needs_library = pytest.mark.skipif(not runtime.available()[0], reason=runtime.available()[1])


@needs_library
def test_a_working_runtime(run: Any) -> None:
    ran = run("doctor", "--json")
    report = json.loads(ran.out)
    assert ran.code == 0 and report["available"] and report["reason"] == ""
    assert report["versions"]["onnxruntime"] == ort.__version__
    assert Path(report["library"]).is_file()
    test = report["self_test"]
    assert test["passed"] and test["claimed"] >= 4 and 0 <= test["max_rel_error"] <= 1e-5
    info = report["info"]
    assert info["isa"] in info["isa_supported"] and "scalar" in info["isa_supported"]
    usable = {k["name"] for k in info["kernels"] if k["usable"]}
    assert any(name in usable for name in test["kernels"])
    text = run("doctor").out
    assert "self-test: passed" in text and all(k["name"] in text for k in info["kernels"])


def test_without_a_library(process: Any, environment: dict[str, str], tmp_path: Path) -> None:
    """The Python part works and says why the sparse runtime does not."""
    gone = tmp_path / "gone.so"
    held = environment | {"ONNXPRUNE_LIBRARY": str(gone)}
    ran = process("doctor", "--json", env=held)
    report = json.loads(ran.out)
    assert ran.code == 1 and not report["available"] and report["self_test"] is None
    assert str(gone) in report["reason"] and str(gone) in ran.err
    assert process("list", "patterns", env=held).code == 0
    bad = tmp_path / "bad.so"
    bad.write_bytes(b"\x7fELF, but no more")
    ran = process("doctor", env=held | {"ONNXPRUNE_LIBRARY": str(bad)})
    assert ran.code == 1 and "cannot be loaded" in ran.err and "Traceback" not in ran.err


@needs_library
def test_an_instruction_set_that_is_not_there_is_told(
    process: Any, environment: dict[str, str]
) -> None:
    told = process("doctor", env=environment | {"ONNXPRUNE_ISA": "sse9"})
    assert told.code == 0 and "ONNXPRUNE_ISA=sse9 is none of them" in told.out
    told = process("doctor", env=environment | {"ONNXPRUNE_ISA": "scalar"})
    assert told.code == 0 and "scalar in use\n" in told.out.replace(" \n", "\n")


def test_too_old_an_onnxruntime(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.22.1")
    ran = run("doctor")
    assert ran.code == 1 and "1.22.1" in ran.err and "1.23" in ran.err


def test_a_failing_self_test_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeUnavailableError("no such luck")

    monkeypatch.setattr(runtime.library, "register", lambda: [])
    monkeypatch.setattr(sys.modules["onnxprune.runtime.doctor"], "session", broken)
    ran = run("doctor")
    assert ran.code == 1 and "FAILED" in ran.out and "no such luck" in ran.err


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A network of two convolutions and a matrix, dense and with nine of ten weights zero."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "second", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["e"], "flat"),
        helper.make_node("Gemm", ["e", "w2"], ["y"], "head", transB=1),
    ]
    shapes = {"w0": (32, 16, 3, 3), "w1": (32, 32, 3, 3), "w2": (10, 32)}
    paths = []
    for name in ("dense", "sparse"):
        weights = []
        for key, shape in shapes.items():
            value = rng.standard_normal(shape).astype(np.float32)
            if name == "sparse":
                value[rng.random(shape) < 0.9] = 0
            weights.append(numpy_helper.from_array(value, key))
        ends = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 28, 28]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10]),
        ]
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(model, paths[-1])
    return paths[0], paths[1]


@needs_library
@pytest.mark.parametrize("packed", [False, True])
def test_validate_compares_the_providers(
    run: Any, pair: tuple[Path, Path], tmp_path: Path, packed: bool
) -> None:
    """Far from the dense model, but the providers agree on the sparse one, in every layer."""
    dense, sparse = pair
    if packed:
        out = tmp_path / "packed.onnx"
        assert run("convert", sparse, "-o", out, "--format", "csr").code == 0
        sparse = out
    args = ("validate", dense, sparse, "--runtime", "sparse", "--threads", "1", "--layers")
    report = json.loads(run(*args, "--json").out)
    across = report["provider"]
    assert report["outputs"]["y"]["max_rel_error"] > 0.1
    assert across["claimed"] > 0 and across["nodes"] >= across["claimed"]
    assert across["outputs"]["y"]["max_rel_error"] < 1e-5
    assert across["outputs"]["y"]["top1_agreement"] == 1
    assert set(across["layers"]) == {"a", "c"}
    assert all(row["max_rel_error"] < 1e-5 for row in across["layers"].values())
    assert "sparse provider against cpu provider: layer" in run(*args).out
    assert json.loads(run("validate", dense, dense, "--json").out)["provider"] is None


@needs_library
def test_bench_on_both_runtimes(run: Any, pair: tuple[Path, Path]) -> None:
    args = ("bench", *pair, "--runtime", "cpu,sparse", "--threads", "1,2", "--seconds", "0.05")
    rows = json.loads(run(*args, "--json").out)["results"]
    assert [(r["runtime"], r["threads"], Path(r["model"]).stem) for r in rows] == [
        (r, t, m) for r in ("cpu", "sparse") for t in (1, 2) for m in ("dense", "sparse")
    ]
    for row in rows:
        first = next(r for r in rows if r["threads"] == row["threads"])
        assert row["speedup"] > 0 and (row is not first or row["speedup"] == 1)
