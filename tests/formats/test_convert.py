"""The emit pass and `onnxprune convert`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from format_samples import with_crc
from onnx import helper, numpy_helper

from onnxprune import io
from onnxprune.cli.convert import command
from onnxprune.errors import LoadError, UsageError
from onnxprune.formats import format_choices
from onnxprune.passes.base import PASSES, Context, PassResult
from onnxprune.passes.emit import Emit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((64, 96)) < 0.1, rng.standard_normal((64, 96)), 0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [helper.make_tensor_value_info("y", 1, ["n", 96])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )  # fmt: skip
    target = tmp_path / "dense.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    target.write_bytes(io.to_bytes(io.load(model).model))
    return target


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_registered_with_its_options() -> None:
    assert PASSES.get("emit") is Emit
    emit = Emit("bsr", block="4x1")
    assert Emit.from_options(emit.options()) == emit
    with pytest.raises(UsageError, match="has no option 'fromat'"):
        Emit.from_options({"fromat": "csr"})


def test_pass_says_what_it_did(path: Path) -> None:
    model = io.load(path).model
    result = Emit("csr").run(model, Context())
    assert isinstance(result, PassResult) and result.modified and result.model is model
    assert json.loads(json.dumps(result.stats))["tensors"][0]["shape"] == [64, 96]
    assert result.stats["bytes"]["after"] < result.stats["bytes"]["before"]
    assert not Emit("csr").run(model, Context()).modified
    assert Emit("dense").run(model, Context()).modified


@pytest.mark.parametrize(
    ("format", "block", "reason"),
    [("bsr", "4", "like 4x1"), ("nm", "2x4", "like 2:4"), ("csr", "4x1", "takes no block"),
     ("eie", "x", "processing elements"), ("coo", "3d", "linear or nd"), ("nm", "4:2", "N < M")],
)  # fmt: skip
def test_bad_blocks(path: Path, format: str, block: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Emit(format, block=block).run(io.load(path).model, Context())


@pytest.mark.parametrize("format", format_choices())
def test_there_and_back(path: Path, tmp_path: Path, format: str) -> None:
    packed, back = tmp_path / "packed.onnx", tmp_path / "back.onnx"
    block = ["--block", {"bsr": "2x3", "eie": "4", "coo": "nd"}[format]] if format in (
        "bsr", "eie", "coo") else []  # fmt: skip
    assert convert(path, "-o", packed, "--format", format, *block).exit_code == 0
    onnx.checker.check_model(packed)
    assert convert(packed, "-o", back, "--format", "dense").exit_code == 0
    assert back.read_bytes() == path.read_bytes()


def test_same_input_same_bytes(path: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(path, "-o", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_table(path: Path, tmp_path: Path) -> None:
    text = convert(path, "-o", tmp_path / "out.onnx").output
    line = next(x for x in text.splitlines() if x.startswith("w "))
    before, after = path.stat().st_size, (tmp_path / "out.onnx").stat().st_size
    assert "MatMul" in line and "64x96" in line and "24,576" in line
    assert f"{before:,} -> {after:,} bytes" in text


def test_json(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = json.loads(convert(path, "-o", out, "--format", "nm", "--json").output)
    assert report["file_bytes"] == {"before": path.stat().st_size, "after": out.stat().st_size}
    assert report["tensors"][0]["reason"] == "the weight is not 2:4"
    assert report["modified"] is False


def test_damaged_blob_is_an_error_and_writes_nothing(path: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "packed.onnx", tmp_path / "out.onnx"
    convert(path, "-o", packed)
    proto = onnx.load(packed)
    raw = bytearray(proto.graph.initializer[0].raw_data)
    raw[-1] ^= 0xFF
    proto.graph.initializer[0].raw_data = bytes(raw)
    onnx.save(proto, packed)
    with pytest.raises(LoadError, match=r"weight 'w'.*checksum"):
        convert(packed, "-o", out, "--format", "dense")
    proto.graph.initializer[0].raw_data = with_crc(raw)
    onnx.save(proto, packed)
    with pytest.raises(LoadError, match="weight 'w'"):
        convert(packed, "-o", out, "--format", "dense")
    assert not out.exists()


def test_unknown_format_is_a_usage_error(path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(path), "-o", str(tmp_path / "o"), "--format", "zip"])
    assert result.exit_code == 2 and "auto" in result.output
