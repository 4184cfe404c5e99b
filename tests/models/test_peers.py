"""The way the benchmarks judge other tools is itself judged."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("peers")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def save(path: Path, width: int = 4, outputs: int = 3, value: float = 1.0) -> Path:
    weight = np.full((width, outputs), value, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_validity(peers: ModuleType, tmp_path: Path) -> None:
    dense = save(tmp_path / "dense.onnx")
    assert peers.validity(dense, save(tmp_path / "same.onnx", value=0.5)) == "valid"
    assert peers.validity(dense, save(tmp_path / "cut.onnx", width=2)).startswith("checker:")
    assert peers.validity(dense, save(tmp_path / "less.onnx", outputs=2)) == "other output shapes"
    infinite = save(tmp_path / "infinite.onnx", value=np.inf)
    assert peers.validity(dense, infinite) == "outputs are not finite"
    # An input that the checker refuses cannot be held against the output; running it can.
    broken = save(tmp_path / "broken.onnx", width=2)
    assert peers.validity(broken, broken).startswith("the original does not run:")


def test_parameters_counts_floats_wherever_they_are(peers: ModuleType) -> None:
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.ones((5, 2), np.float32))
    )
    sizes = numpy_helper.from_array(np.arange(7), "sizes")
    weight = numpy_helper.from_array(np.ones(3, np.float16), "half")
    graph = helper.make_graph([constant], "g", [], [], [sizes, weight])
    assert peers.parameters(helper.make_model(graph)) == 13


def test_measure_reports_code_output_time_and_memory(peers: ModuleType) -> None:
    # A big parent must not show in the child's peak.
    ballast = np.ones(50_000_000)
    code = "import sys; block = bytearray(300_000_000); print('done'); sys.exit(3)"
    run = peers.measure([sys.executable, "-c", code])
    assert run.code == 3 and run.output == "done\n"
    assert 300 < run.peak_mb < 600
    after = peers.measure([sys.executable, "-c", "pass"])
    assert after.code == 0 and after.peak_mb < 200 < ballast.nbytes / 1e6
    assert peers.median([run, after])[1] == (run.peak_mb + after.peak_mb) / 2


def test_measure_stops_what_does_not_end(peers: ModuleType) -> None:
    run = peers.measure([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.5)
    assert run.code is None and run.seconds < 30


def test_json_is_found_after_other_output(peers: ModuleType) -> None:
    run = peers.Run(0, 1.0, 1.0, 'a warning\n{\n  "proof": {\n    "passed": true\n  }\n}\n')
    assert run.json() == {"proof": {"passed": True}}
    assert peers.Run(1, 1.0, 1.0, "Error: no such file\n").json() == {}
