"""What a prune costs: peak memory of the whole process, in terms of the model's file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune

ROOT = Path(__file__).resolve().parents[2]
LIGHT = ROOT / ".cache" / "light" / "light_resnet50_seed0.onnx"

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak memory is measured in KiB on Linux only"
)

# argv: model, output, then options of `onnxprune prune`. The last line of stdout is
# [KiB after the imports, KiB at the peak].
SCRIPT = """
import json, resource, sys
import onnxprune.api, onnxprune.cli.prune
from onnxprune.cli import main
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    main(["prune", sys.argv[1], "-o", *sys.argv[2:]])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([before, peak()]))
"""
# A child's peak starts at what its parent had when it was made; this one has next to nothing.
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a fresh process that can import onnxprune, installed or checked out."""
    if (Path(onnxprune.__file__).parent / "passes").is_dir():
        return dict(os.environ)
    package = tmp_path_factory.mktemp("checkout") / "onnxprune"
    package.mkdir()
    for source in [*(ROOT / "onnxprune").iterdir(), ROOT / "passes"]:
        (package / source.name).symlink_to(source, target_is_directory=source.is_dir())
    return os.environ | {"PYTHONPATH": str(package.parent)}


def measure(
    environment: dict[str, str], source: Path, out: Path, *options: str
) -> tuple[float, float]:
    """Return megabytes (10^6) after the imports, and at the peak of the whole process."""
    command = [sys.executable, "-S", "-c", LAUNCHER, sys.executable, "-c", SCRIPT]
    ran = subprocess.run(
        [*command, str(source), str(out), *options],
        capture_output=True,
        text=True,
        env=environment,
        cwd=out.parent,  # not the repository: its `onnxprune` lacks the passes
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    before, peak = json.loads(ran.stdout.splitlines()[-1])
    return before * 1024 / 1e6, peak * 1024 / 1e6


def chain(path: Path, width: int = 640, depth: int = 8) -> Path:
    """Write a residual chain of convolutions: 26 MB of weights on a few pixels."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "stem"], ["h0"], name="stem")]
    weights = [numpy_helper.from_array(rng.standard_normal((width, 4, 1, 1), np.float32), "stem")]
    for i in range(depth // 2):
        for k, (source, target) in enumerate([(f"h{i}", f"a{i}"), (f"r{i}", f"b{i}")]):
            values = rng.standard_normal((width, width, 1, 1), np.float32) / width**0.5
            values = np.repeat(np.repeat(values, 2, 2), 1, 3)
            weights.append(numpy_helper.from_array(values, f"w{i}{k}"))
            pads = [0, 0, 1, 0]
            nodes.append(
                helper.make_node("Conv", [source, f"w{i}{k}"], [target], f"c{i}{k}", pads=pads)
            )
            if not k:
                nodes.append(helper.make_node("Relu", [target], [f"r{i}"]))
        nodes.append(helper.make_node("Add", [f"h{i}", f"b{i}"], [f"h{i + 1}"]))
    last = f"h{depth // 2}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
        helper.make_node("MatMul", ["y", "head"], ["z"], name="head"),
    ]
    weights.append(numpy_helper.from_array(rng.standard_normal((width, 10), np.float32), "head"))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("options", [("--sparsity", "0.5"), ("--pattern", "2:4")], ids="-".join)
def test_weights_are_not_held_in_memory(
    tmp_path: Path, environment: dict[str, str], options: tuple[str, ...]
) -> None:
    """With the proof: the model mapped by onnxruntime, the result, and what one layer needs."""
    source = chain(tmp_path / "chain.onnx")
    size = source.stat().st_size / 1e6
    assert 25 < size < 35
    before, peak = measure(environment, source, tmp_path / "out.onnx", *options)
    assert peak - before < 4 * size
    assert (tmp_path / "out.onnx").exists()


@pytest.mark.slow
@pytest.mark.skipif(not LIGHT.exists(), reason="run `python benchmarks/light.py` to make it")
@pytest.mark.parametrize("options", [("--sparsity", "0.5"), ("--pattern", "2:4")], ids="-".join)
def test_resnet50_peaks_below_three_times_its_file(
    tmp_path: Path, environment: dict[str, str], options: tuple[str, ...]
) -> None:
    size = LIGHT.stat().st_size / 1e6
    _, peak = measure(environment, LIGHT, tmp_path / "out.onnx", *options)
    assert peak < 3 * size
