"""Masks laid in slabs equal those laid in memory; models with external data stay in their files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxprune.api as onnxprune
from onnxprune.criteria import parse_criterion
from onnxprune.io import DerivedTensor, load
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.patterns import parse_pattern
from onnxprune.planning import streamed
from onnxprune.planning.layers import find_layers
from onnxprune.rules.analysis import analyze

ROOT = Path(__file__).resolve().parents[2]


def model(dtype: type = np.float32, ties: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        array = rng.standard_normal(shape)
        return (np.round(array) if ties else array).astype(dtype)

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    held = {
        "conv": weight(24, 16, 3, 3),
        "grouped": weight(24, 4, 3, 3),
        "matrix": weight(24, 40),
        "turned": weight(32, 40),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], name="conv"),
        helper.make_node("Conv", ["a", "grouped"], ["b"], name="grouped", group=6),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "matrix"], ["e"], name="matrix"),
        helper.make_node("Gemm", ["e", "turned"], ["y"], name="turned", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [1, 16, 8, 8])],
        [helper.make_tensor_value_info("y", kind, [1, 32])],
        [numpy_helper.from_array(a, n) for n, a in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("criterion", ["l1", "l2", "lp:1.5"])
@pytest.mark.parametrize("text", ["element", "2:4", "1:2", "3:8"])
def test_slabs_give_the_same_masks(
    text: str, criterion: str, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "LARGE", 1)
    monkeypatch.setattr(streamed, "_SLAB", 64)
    held = load(model(ties=ties)).model
    InferShapes().run(held, Context())
    pattern, score = parse_pattern(text), parse_criterion(criterion)
    tried = 0
    for layer in find_layers(analyze(held)):
        if pattern.misfit(layer.view_shape):
            continue
        assert streamed.streams(layer, pattern, score)
        for level in (0.1, 0.5, 0.9):
            keep = round((1 - level) * layer.size) if text == "element" else None
            whole = layer.unview(pattern.mask(score.elementwise(layer.view(layer.numbers())), keep))
            bits, hollow = streamed.stream_mask(layer, pattern, score, keep)
            got = np.unpackbits(bits, count=layer.size).astype(bool).reshape(layer.shape)
            np.testing.assert_array_equal(got, whole)
            assert hollow == np.count_nonzero((layer.numbers() == 0) & whole)
            tried += 1
    assert tried >= 3


def test_no_criterion_but_local_ones_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "LARGE", 1)
    held = load(model()).model
    InferShapes().run(held, Context())
    layer = find_layers(analyze(held))[0]
    for text in ("random", "gm", "bn"):
        assert not streamed.streams(layer, parse_pattern("element"), parse_criterion(text))


@pytest.mark.parametrize("slabs", [False, True])
@pytest.mark.parametrize("pattern", ["element", "2:4", "block:4x1"])
def test_external_data(
    pattern: str, slabs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is what an in-memory prune gives; nothing is held on the way."""
    source = tmp_path / "in.onnx"
    dense = model()
    onnx.save(dense, source, save_as_external_data=True, size_threshold=0)
    level = None if ":4" in pattern and "block" not in pattern else 0.5
    if slabs:
        monkeypatch.setattr(streamed, "LARGE", 1)
        monkeypatch.setattr(streamed, "_SLAB", 64)
    result = onnxprune.prune(source, pattern, level)
    made = [v.const_value for v in result.model.graph.initializers.values()]
    assert all(isinstance(t, DerivedTensor) for t in made)
    onnxprune.save(result.loaded, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    monkeypatch.setattr(streamed, "LARGE", 1 << 30)
    other = onnxprune.prune(model(), pattern, level)
    want = {t.name: numpy_helper.to_array(t) for t in other.model.graph.initializer}
    written = onnx.load(tmp_path / "out.onnx")
    for tensor in written.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), want[tensor.name])
    assert result.report["sparsity"] == other.report["sparsity"]


KILLED = """
import sys, time
from pathlib import Path
import onnxprune.api as onnxprune
from onnxprune.io import DerivedTensor
real = DerivedTensor.pieces
def slow(self):
    for piece in real(self):
        yield piece
        Path(sys.argv[3]).touch()
        time.sleep(60)
result = onnxprune.prune(sys.argv[1], "element", 0.5, proof=False)
DerivedTensor.pieces = slow
onnxprune.save(result.loaded, sys.argv[2])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nameless files are Linux's")
@pytest.mark.parametrize("old", [False, True])
def test_killed_while_writing(old: bool, tmp_path: Path) -> None:
    """Nothing is left, and what was there before is untouched."""
    source, folder, ready = tmp_path / "in.onnx", tmp_path / "out", tmp_path / "ready"
    onnx.save(model(), source, save_as_external_data=True, size_threshold=0)
    folder.mkdir()
    if old:
        (folder / "out.onnx").write_bytes(b"older")
    if not (Path(onnxprune.__file__).parent / "passes").is_dir():
        package = tmp_path / "checkout" / "onnxprune"
        package.mkdir(parents=True)
        for part in [*(ROOT / "onnxprune").iterdir(), ROOT / "passes"]:
            (package / part.name).symlink_to(part, target_is_directory=part.is_dir())
    path = os.pathsep.join([str(tmp_path / "checkout"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", KILLED, str(source), str(folder / "out.onnx"), str(ready)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not ready.exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert ready.exists()
    assert [f.name for f in folder.iterdir()] == (["out.onnx"] if old else [])
    assert not old or (folder / "out.onnx").read_bytes() == b"older"


@pytest.mark.parametrize("pattern", ["element", "2:4"])
def test_too_large_to_run(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof says what was run, and notices a layer that does not follow its mask."""
    from onnxprune.errors import ProofError
    from onnxprune.proof import sampled, structure

    monkeypatch.setattr(structure, "TOO_LARGE", 1)
    source = tmp_path / "in.onnx"
    onnx.save(model(), source, save_as_external_data=True, size_threshold=0)
    level = None if pattern == "2:4" else 0.5
    proof = onnxprune.prune(source, pattern, level).report["proof"]
    assert proof["passed"] is True
    assert "too large" in proof["kind"]
    assert "4 of 4" in proof["kind"]
    assert set(proof["values"]) == {"conv", "grouped", "matrix", "turned"}

    def wrong(self, name, start, stop):
        part = real(self, name, start, stop)
        return ~part if name == "matrix" else part

    from onnxprune.planning.bits import Masks

    real = Masks.part
    monkeypatch.setattr(Masks, "part", wrong)
    monkeypatch.setattr(sampled, "follows", lambda *_: True)
    monkeypatch.setattr(structure, "follows", lambda *_: True)
    with pytest.raises(ProofError, match="masks"):
        onnxprune.prune(source, pattern, level)
