"""Whatever is wrong with a file, the answer is a LoadError that says so, and no traceback."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from io_models import gemm_relu, layers
from onnx import TensorProto as T
from onnx import helper as h

from onnxprune import io
from onnxprune.errors import LoadError, ModelError, UnsupportedError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00\xff" * 500, "do not parse"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(50), "zip archive"),
        (b"\x1f\x8b" + bytes(50), "gzip"),
        (b"\x80\x02}q", "pickle"),
        (bytes(4) + b"ORTM" + bytes(50), "ORT format"),
        (bytes(4) + b"TFL3" + bytes(50), "TensorFlow Lite"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\x89HDF\r\n", "HDF5"),
        (bytes(8) + b'{"w":{"dtype":"F32"', "safetensors"),
        (h.make_tensor("t", T.FLOAT, [2], [1, 2]).SerializeToString(), "not an ONNX model|no ONNX"),
        (gemm_relu().graph.SerializeToString(), "not an ONNX model|no ONNX"),
        (onnx.ModelProto(ir_version=8, producer_name="p").SerializeToString(), "no ONNX graph"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=message) as caught:
        io.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(LoadError, match="the given bytes"):
        io.load(content)


def test_not_a_readable_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, message in [
        (tmp_path / "none.onnx", "does not exist"),
        (tmp_path, "is a folder"),
        (fifo, "not a regular file"),
        ("a\0b", "not a path"),
        (tmp_path / ("x" * 300), "too long"),
    ]:
        with pytest.raises(LoadError, match=message):
            io.load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(gemm_relu().SerializeToString())
    path.chmod(0)
    with pytest.raises(LoadError, match="cannot be read"):
        io.load(path)


def test_not_a_model_at_all() -> None:
    with pytest.raises(TypeError, match="cannot load a int"):
        io.load(3)  # type: ignore[arg-type]
    with pytest.raises(LoadError, match="the given ModelProto"):
        io.load(onnx.ModelProto())


def test_versions() -> None:
    for change, message in [
        (lambda m: setattr(m, "ir_version", 999), "IR version 999.*upgrade onnx"),
        (lambda m: m.ClearField("ir_version"), "no IR version"),
        (lambda m: m.ClearField("opset_import"), "imports no opset"),
        (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999.*upgrade onnx"),
        (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0"),
        (lambda m: m.opset_import.append(h.make_opsetid("ai.onnx.ml", 99)), "ai.onnx.ml opset 99"),
        (lambda m: m.opset_import.append(h.make_opsetid("ai.onnx", 9)), "two versions"),
    ]:
        model = gemm_relu()
        change(model)
        with pytest.raises(LoadError, match=message):
            io.load(model)
    model = gemm_relu()
    model.ir_version = 2  # before opset_import was required
    model.ClearField("opset_import")
    io.load(model)
    model = gemm_relu()
    model.opset_import.append(h.make_opsetid("com.microsoft", 9999))
    io.load(model)


def test_broken_graphs() -> None:
    cases = {
        "'m'.*redeclared|redeclared.*'m'": lambda m: m.graph.node[1].output.__setitem__(0, "m"),
        "reads 'ghost', which nothing produces": lambda m: m.graph.node[1].input.append("ghost"),
        "output 'ghost' is produced by nothing": lambda m: m.graph.output.add(name="ghost"),
    }
    for message, change in cases.items():
        model = gemm_relu()
        change(model)
        with pytest.raises(LoadError, match=message):
            io.load(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.dims.__setitem__(0, 4), r"'w' of shape \[4, 2\] needs 8 elements .*holds 6"),
        (lambda t: t.dims.__setitem__(0, -3), "negative size"),
        (lambda t: (t.ClearField("float_data"), setattr(t, "raw_data", b"123")), "24 bytes.*3"),
        (lambda t: t.ClearField("float_data"), "holds 0"),
        (lambda t: setattr(t, "data_type", T.INT64), "holds 0"),
    ],
)
def test_tensor_of_the_wrong_size(change: object, message: str) -> None:
    model = gemm_relu()
    change(model.graph.initializer[0])  # type: ignore[operator]
    with pytest.raises(LoadError, match=message):
        io.load(model)


def test_tensor_of_an_unknown_kind() -> None:
    model = gemm_relu()
    model.graph.initializer[0].data_type = 1000
    with pytest.raises(UnsupportedError, match="'w' has data type 1000"):
        io.load(model)
    model = gemm_relu()
    model.graph.initializer[0].segment.begin = 0
    with pytest.raises(UnsupportedError, match="'w' is stored in segments"):
        io.load(model)


def test_text_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(gemm_relu().SerializeToString().replace(b"MatMul", b"M\xfft\xfful"))
    with pytest.raises(LoadError, match=r"UTF-8|do not parse"):
        io.load(path)


def outside(tmp_path: Path, **entries: object) -> Path:
    """A model whose initializer lies, by ``entries``, in an external file."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    model = gemm_relu()
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = T.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    data = np.arange(6, dtype=np.float32).tobytes()
    (tmp_path / "model" / "w.bin").write_bytes(data)
    (tmp_path / "model" / "sub" / "w.bin").write_bytes(b"12345678" + data)
    (tmp_path / "w.bin").write_bytes(data)
    for entries in (
        {"location": "w.bin"},
        {"location": "./sub/../w.bin", "offset": 0, "length": 24},
        {"location": "sub/w.bin", "offset": 8},
    ):
        model = io.load(outside(tmp_path, **entries)).model
        tensor = model.graph.initializers["w"].const_value
        assert tensor is not None
        assert tensor.numpy().tobytes() == data
    wrong: list[tuple[dict[str, object], str]] = [
        ({"location": "none.bin"}, "'none.bin'.*cannot be opened"),
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": str(tmp_path / "model" / "w.bin")}, "outside the model's folder"),
        ({"location": "sub"}, "not a regular file"),
        ({"location": "w.bin", "offset": 8}, "has only 24"),
        ({"location": "w.bin", "offset": -8}, "offset -8"),
        ({"location": "w.bin", "offset": "x"}, "no number"),
        ({"location": "w.bin", "length": 8}, "with 8 bytes.*needs 24"),
        ({}, "names no file"),
        ({"location": "a\0b"}, "not a usable path|cannot be opened"),
    ]
    for entries, message in wrong:
        with pytest.raises(LoadError, match=message) as caught:
            io.load(outside(tmp_path, **entries))
        assert "'w'" in str(caught.value)


def test_links_to_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(24))
    (folder / "soft.bin").symlink_to(tmp_path / "w.bin")
    (folder / "loop.bin").symlink_to(folder / "loop.bin")
    (folder / "one.bin").write_bytes(bytes(24))
    (folder / "hard.bin").hardlink_to(folder / "one.bin")
    (folder / "inner.bin").write_bytes(bytes(24))
    (folder / "alias.bin").symlink_to(folder / "inner.bin")
    for name, message in [
        ("soft.bin", "a link to .*outside the model's folder; copy"),
        ("loop.bin", "not a usable path|cannot be opened"),
        ("hard.bin", "several hard links"),
    ]:
        with pytest.raises(LoadError, match=message):
            io.load(outside(tmp_path, location=name))
    held = io.load(outside(tmp_path, location="alias.bin")).model.graph.initializers["w"]
    assert held.const_value is not None
    assert not held.const_value.numpy().any()


def test_external_data_of_a_model_from_memory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(bytes(24))
    path = outside(tmp_path, location="w.bin")
    proto = onnx.load(path, load_external_data=False)
    for source in (proto, path.read_bytes()):
        with pytest.raises(LoadError, match="pass base_dir="):
            io.load(source)
        held = io.load(source, base_dir=path.parent)
        inside = onnx.load_model_from_string(io.to_bytes(held.model))
        assert inside.graph.initializer[0].raw_data == bytes(24)


def test_external_data_cut_off_after_loading(tmp_path: Path) -> None:
    """The file changes between load and save: an error, and nothing is written."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(bytes(24))
    loaded = io.load(outside(tmp_path, location="w.bin"))
    (tmp_path / "model" / "w.bin").write_bytes(bytes(8))
    with pytest.raises(ModelError, match="shorter than expected"):
        io.save(loaded, tmp_path / "out.onnx")
    (tmp_path / "model" / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"w\.bin cannot be read: No such file"):
        io.save(loaded, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


WHOLE = layers([3, 4, 2]).SerializeToString()


@given(st.integers(0, len(WHOLE) - 1))
def test_cut_off_anywhere(length: int) -> None:
    with pytest.raises(LoadError):
        io.load(WHOLE[:length])


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(LoadError):
        io.load(data)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8
    )
)
def test_damaged_anywhere(changes: list[tuple[int, int]]) -> None:
    """Either it still is a model, which then round-trips, or a ModelError explains."""
    data = bytearray(WHOLE)
    for position, value in changes:
        data[position] = value
    try:
        loaded = io.load(bytes(data))
    except ModelError as error:
        assert len(str(error)) > 20
    else:
        again = io.to_bytes(loaded.model)
        assert io.to_bytes(io.load(again).model) == again


def test_file_over_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(LoadError, match="larger weights belong in external data"):
        io.load(path)
