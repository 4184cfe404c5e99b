"""Weights of a large model file stay in the file: the same model, read piece by piece."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from io_canonical import canonical
from io_corpus import folder_models
from io_models import gemm_relu, layers, sparse_tensor
from onnx import TensorProto as T
from onnx import helper as h

from onnxprune import io
from onnxprune.errors import LoadError
from onnxprune.io import infile, walk
from onnxprune.io.skim import MalformedError, skim


@pytest.fixture(autouse=True)
def everything_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every file as large and every tensor in it."""
    monkeypatch.setattr(infile, "SMALL_FILE", 0)
    monkeypatch.setattr(infile, "LARGE", 1)


def left_in_file(loaded: io.Loaded) -> list[str]:
    tensors = walk.tensors(loaded.model)
    return [name for name, tensor in tensors if isinstance(tensor, infile.FileTensor)]


def written(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("path", folder_models(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_same_bytes_out_as_from_memory(path: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "far.onnx", tmp_path / "near.onnx"]
    far = io.load(path)
    io.save(far, outputs[0])
    near = io.load(path.read_bytes(), base_dir=path.parent)
    io.save(near, outputs[1])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert not left_in_file(near)
    inside = [name for name, t in walk.proto_tensors(onnx.load(path)) if t.raw_data]
    assert bool(left_in_file(far)) == bool(inside)


def everywhere() -> onnx.ModelProto:
    """Return a model with tensors of many types in every place that can hold one."""
    rng = np.random.default_rng(0)

    def tensor(name: str, data_type: int, shape: list[int]) -> onnx.TensorProto:
        dtype = h.tensor_dtype_to_np_dtype(data_type)
        values = rng.integers(0, 2, shape).astype(dtype)
        made = onnx.numpy_helper.from_array(values, name)
        made.doc_string = f"about {name}"
        return made

    def constant(name: str, value: onnx.TensorProto) -> onnx.NodeProto:
        return h.make_node("Constant", [], [name], value=value)

    inner = h.make_graph(
        [constant("c", tensor("", T.FLOAT, [3])), h.make_node("Add", ["c", "i"], ["o"])],
        "inner",
        [],
        [h.make_tensor_value_info("o", T.FLOAT, [3])],
        [tensor("i", T.FLOAT, [3])],
    )
    function = h.make_function(
        "local", "f", ["a"], ["b"],
        [constant("k", tensor("", T.FLOAT, [3])), h.make_node("Add", ["a", "k"], ["b"])],
        [h.make_opsetid("", 18)],
    )  # fmt: skip
    types = [T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16, T.INT64, T.INT32, T.INT8, T.UINT8, T.BOOL]
    types += [T.UINT16, T.COMPLEX64, T.FLOAT8E4M3FN, T.INT4, T.UINT4]
    model = gemm_relu(sparse_initializer=[sparse_tensor(np.eye(3, dtype=np.float32), "s")])
    model.graph.initializer.extend(tensor(f"t{t}", t, [2, 4]) for t in types)
    model.graph.initializer.append(h.make_tensor("text", T.STRING, [2], [b"a", b"b"]))
    model.graph.initializer.append(h.make_tensor("typed", T.FLOAT, [40], range(40)))
    model.graph.node.append(constant("outer", tensor("named", T.FLOAT, [5])))
    model.graph.node.append(h.make_node("If", ["t9"], ["z"], then_branch=inner, else_branch=inner))
    model.graph.node.append(h.make_node("f", ["i3"], ["l"], domain="local"))
    model.graph.initializer.append(tensor("i3", T.FLOAT, [3]))
    model.opset_import.append(h.make_opsetid("local", 1))
    model.functions.append(function)
    return model


def test_every_place_and_type(tmp_path: Path) -> None:
    model = everywhere()
    loaded = io.load(written(model, tmp_path / "m.onnx"))
    stayed = left_in_file(loaded)
    assert {"t1", "t10", "t16", "t7", "t9", "t17", "i", "outer", "c", "k"} <= set(stayed)
    assert not {"t22", "t21", "text", "typed"} & set(stayed)  # 4-bit types are unpacked on reading
    io.save(loaded, tmp_path / "out.onnx")
    assert canonical(onnx.load(tmp_path / "out.onnx")) == canonical(model)
    wanted = {t.name: t for t in model.graph.initializer}
    for name, value in loaded.model.graph.initializers.items():
        if name in wanted and value.const_value is not None and name != "text":
            got = np.asarray(value.const_value.numpy())
            np.testing.assert_array_equal(got, onnx.numpy_helper.to_array(wanted[name]))


def test_renamed_and_annotated_tensors(tmp_path: Path) -> None:
    """Fields around the data survive, and changes to them are written."""
    model = gemm_relu()
    weight = model.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight), "w"))
    weight.metadata_props.add(key="k", value="v")
    weight.doc_string = "doc"
    weight.data_location = onnx.TensorProto.DEFAULT
    path = written(model, tmp_path / "m.onnx")
    io.save(io.load(path), tmp_path / "same.onnx")
    assert canonical(onnx.load(tmp_path / "same.onnx")) == canonical(model)
    loaded = io.load(path)
    value = loaded.model.graph.initializers["w"]
    assert value.const_value is not None
    value.const_value.metadata_props["k"] = "other"
    io.save(loaded, tmp_path / "other.onnx")
    (found,) = onnx.load(tmp_path / "other.onnx").graph.initializer
    assert (found.metadata_props[0].value, found.raw_data) == ("other", weight.raw_data)


def test_nothing_stays_mapped(tmp_path: Path) -> None:
    path = written(layers([64, 64, 64]), tmp_path / "m.onnx")
    loaded = io.load(path)
    tensors = [t for _, t in walk.tensors(loaded.model)]
    arrays = [np.asarray(t.numpy()) for t in tensors]
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) in maps.read_text()
        del arrays
        assert str(path) not in maps.read_text()


def test_arrays_cannot_be_written(tmp_path: Path) -> None:
    (_, tensor), *_ = walk.tensors(io.load(written(layers([8, 8]), tmp_path / "m.onnx")).model)
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(tensor.numpy())[...] = 0


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_file_may_go_away(tmp_path: Path, how: str) -> None:
    model = layers([16, 16, 16])
    path = written(model, tmp_path / "m.onnx")
    loaded = io.load(path)
    if how == "replaced":
        written(layers([16, 16, 16], seed=1), tmp_path / "new.onnx").replace(path)
    else:
        path.unlink()
    assert canonical(onnx.ModelProto.FromString(io.to_bytes(loaded.model))) == canonical(model)


def test_changed_file_is_refused(tmp_path: Path) -> None:
    path = written(layers([16, 16, 16]), tmp_path / "m.onnx")
    loaded = io.load(path)
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(LoadError, match="was changed"):
        io.to_bytes(loaded.model)
    again = written(layers([16, 16, 16]), tmp_path / "n.onnx")
    loaded = io.load(again)
    os.utime(again, ns=(0, 0))
    with pytest.raises(LoadError, match="was changed"):
        io.nonfinite_weights(loaded.model)


def test_copies_share_the_file(tmp_path: Path) -> None:
    loaded = io.load(written(layers([16, 16]), tmp_path / "m.onnx"))
    twin = io.load(loaded.model)
    assert left_in_file(twin) == left_in_file(loaded) == ["w0"]
    twin.model.graph.initializers["w0"].name = "renamed"
    assert io.to_bytes(loaded.model) == io.to_bytes(io.load(tmp_path / "m.onnx").model)
    assert onnx.ModelProto.FromString(io.to_bytes(twin.model)).graph.initializer[0].name == (
        "renamed"
    )


def test_external_data_is_not_confused_with_the_file(tmp_path: Path) -> None:
    path = written(layers([16, 16, 16]), tmp_path / "m.onnx")
    loaded = io.load(path)
    assert not loaded.origin.had_external
    assert loaded.origin.files == (path,)
    io.save(loaded, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx.data").exists()


@pytest.mark.parametrize("cut", [1, 7, 100, 1000])
def test_cut_off_file_says_the_same(tmp_path: Path, cut: int) -> None:
    data = layers([16, 16, 16]).SerializeToString()[:-cut]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(LoadError) as from_file:
        io.load(path)
    with pytest.raises(LoadError) as from_memory:
        io.load(data)
    assert str(from_file.value) == str(from_memory.value).replace("the given bytes", str(path))


def damaged(change: str) -> onnx.ModelProto:
    model = layers([16, 16])
    weight = model.graph.initializer[0]
    if change == "short":
        weight.raw_data = weight.raw_data[:-4]
    elif change == "type":
        weight.data_type = 99
    else:
        weight.dims.append(-1)
    return model


@pytest.mark.parametrize("change", ["short", "type", "negative"])
def test_damaged_tensor_says_the_same(tmp_path: Path, change: str) -> None:
    path = written(damaged(change), tmp_path / "m.onnx")
    errors: list[Any] = []
    for source in (path, path.read_bytes()):
        with pytest.raises(Exception, match="tensor 'w0'") as caught:
            io.load(source)
        errors.append((type(caught.value), str(caught.value)))
    named = errors[1][1].replace("the given bytes", str(path))
    assert errors[0] == (errors[1][0], named)


def test_data_held_twice_is_read_whole(tmp_path: Path) -> None:
    """Protobuf lets a field come twice and the last one wins: left to protobuf."""
    model = layers([16, 16])
    model.graph.initializer[0].raw_data = bytes(1024)
    data = model.SerializeToString()
    weight = model.graph.initializer[0]
    twice = weight.SerializeToString() + onnx.TensorProto(raw_data=b"\1" * 1024).SerializeToString()
    parts = skim(data, 1)
    assert len(parts.spans) == 1
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString() + b"\x2a" + varint(len(twice)) + twice
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + b"\x3a" + varint(len(graph)) + graph)
    loaded = io.load(path)
    assert not left_in_file(loaded)
    assert onnx.load_from_string(io.to_bytes(loaded.model)).graph.initializer[0].raw_data == (
        b"\1" * 1024
    )


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


@pytest.mark.parametrize("data", [b"\x3b", b"\x3a\xff", b"\x3a\x05ab", b"\xff" * 12])
def test_skim_refuses_what_it_does_not_know(data: bytes) -> None:
    with pytest.raises(MalformedError):
        skim(data, 1)


def test_small_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(layers([16, 16]), tmp_path / "m.onnx")
    monkeypatch.setattr(infile, "SMALL_FILE", path.stat().st_size + 1)
    assert not left_in_file(io.load(path))
