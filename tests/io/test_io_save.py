"""Files appear whole or not at all, and never over what is being read."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from io_corpus import assert_identical, run
from io_models import gemm_relu, layers

from onnxprune import io
from onnxprune.errors import SaveError
from onnxprune.io import atomic, encode, saving, walk

WIDTHS = [64, 96, 32, 8]
FEEDS = {"h0": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weights lie in a file beside it."""
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(
        layers(WIDTHS),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return path


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def unchanged(external: Path, tmp_path: Path) -> Iterator[None]:
    """The folder holds the same files with the same bytes when the test ends."""
    before = listing(tmp_path)
    yield
    assert listing(tmp_path) == before


def test_external_stays_external(external: Path, tmp_path: Path) -> None:
    loaded = io.load(external)
    tensor = loaded.model.graph.initializers["w0"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    out = tmp_path / "out.onnx"
    io.save(loaded, out)
    assert sorted(listing(tmp_path)) == [
        "in/model.onnx",
        "in/weights.bin",
        "out.onnx",
        "out.onnx.data",
    ]
    assert_identical(run(str(external), FEEDS), run(str(out), FEEDS))
    held = onnx.load(out, load_external_data=False).graph.initializer
    # [96, 32] and larger lie outside, the last one, of 1,024 bytes, just so.
    assert [t.data_location for t in held] == [1, 1, 1]
    offsets = [int(e.value) for t in held for e in t.external_data if e.key == "offset"]
    assert all(offset % 64 == 0 for offset in offsets)
    onnx.checker.check_model(str(out), full_check=True)


def test_choice_of_external_data(external: Path, tmp_path: Path) -> None:
    loaded = io.load(external)
    io.save(loaded, tmp_path / "inside.onnx", external_data=False)
    assert not (tmp_path / "inside.onnx.data").exists()
    assert_identical(run(str(external), FEEDS), run(str(tmp_path / "inside.onnx"), FEEDS))
    plain = io.load(tmp_path / "inside.onnx")
    io.save(plain, tmp_path / "plain.onnx")
    assert not (tmp_path / "plain.onnx.data").exists()
    io.save(plain, tmp_path / "outside.onnx", external_data=True, external_threshold=5000)
    held = onnx.load(tmp_path / "outside.onnx", load_external_data=False).graph.initializer
    assert [t.data_location for t in held] == [1, 1, 0]
    assert_identical(run(str(external), FEEDS), run(str(tmp_path / "outside.onnx"), FEEDS))
    io.save(plain, tmp_path / "high.onnx", external_data=True, external_threshold=1 << 20)
    assert not (tmp_path / "high.onnx.data").exists()


def test_external_everywhere(tmp_path: Path) -> None:
    """Constant nodes and branches with external data keep it; functions get it inside."""
    from test_io_carried import with_function

    big = onnx.numpy_helper.from_array(np.ones((3, 500), np.float32), "big")
    model = with_function()
    info = [onnx.helper.make_tensor_value_info("o", 1, None)]
    node = onnx.helper.make_node("MatMul", ["x", "big"], ["o"])
    branch = onnx.helper.make_graph([node], "b", [], info, [big])
    model.graph.initializer.append(onnx.helper.make_tensor("c", 9, [], [True]))
    model.graph.node.extend(
        [
            onnx.helper.make_node("If", ["c"], ["f"], then_branch=branch, else_branch=branch),
            onnx.helper.make_node("Constant", [], ["k"], value=big),
            onnx.helper.make_node("MatMul", ["x", "k"], ["g"]),
        ]
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("g", 1, None))
    model.graph.output.append(onnx.helper.make_tensor_value_info("f", 1, None))
    model.functions[0].node[0].attribute[0].t.CopyFrom(
        onnx.numpy_helper.from_array(np.full((1, 2), 2, np.float32), "two")
    )
    del model.functions[0].value_info[:]
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    data = bytearray()
    for _, tensor in walk.proto_tensors(model):
        if tensor.data_type == 1:
            raw = tensor.raw_data or np.array(tensor.float_data, np.float32).tobytes()
            tensor.ClearField("float_data")
            tensor.ClearField("raw_data")
            tensor.data_location = 1
            for key, value in {"location": "w", "offset": len(data), "length": len(raw)}.items():
                tensor.external_data.add(key=key, value=str(value))
            data += raw
    path.write_bytes(model.SerializeToString())
    (path.parent / "w").write_bytes(data)
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
    io.save(io.load(path), tmp_path / "out.onnx")
    inside = io.to_proto(io.load(path).model)
    wanted = run(inside.SerializeToString(), feeds)
    assert_identical(wanted, run(str(tmp_path / "out.onnx"), feeds))
    locations = {
        (label, tensor.data_location)
        for label, tensor in walk.proto_tensors(
            onnx.load(tmp_path / "out.onnx", load_external_data=False)
        )
    }
    assert {("big", 1), ("k", 1), ("two", 0), ("w", 0)} <= locations
    np.testing.assert_array_equal(wanted[1], feeds["x"] @ np.ones((3, 500), np.float32))


def test_pruned_weights_of_an_external_model(external: Path, tmp_path: Path) -> None:
    loaded = io.load(external)
    value = loaded.model.graph.initializers["w1"]
    assert value.const_value is not None
    halved = np.array(value.const_value.numpy())
    halved[::2] = 0
    value.const_value = ir.tensor(halved, name="w1")
    io.save(loaded, tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(after.graph.initializer[1]), halved)
    before = onnx.load(external)
    assert before.graph.initializer[2].raw_data == after.graph.initializer[2].raw_data


def test_same_input_same_bytes(external: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        io.save(io.load(external), tmp_path / name / "m.onnx")
    assert listing(tmp_path / "a") == listing(tmp_path / "b")


def test_existing_output_is_replaced_with_its_mode(external: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    out.chmod(0o640)
    (tmp_path / "out.onnx.data").write_bytes(b"old data")
    io.save(io.load(external), out)
    assert out.stat().st_mode & 0o777 == 0o640
    assert_identical(run(str(external), FEEDS), run(str(out), FEEDS))
    assert len(list(tmp_path.iterdir())) == 3


def test_symbolic_link_is_replaced_not_followed(external: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    link = tmp_path / "out.onnx"
    link.symlink_to(target)
    io.save(io.load(external), link)
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()


@pytest.mark.parametrize("victim", ["model.onnx", "weights.bin"])
@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "dots"])
def test_never_over_what_is_read(external: Path, tmp_path: Path, victim: str, how: str) -> None:
    loaded = io.load(external)
    original = external.parent / victim
    out = original
    if how == "symlink":
        out = tmp_path / "link.onnx"
        out.symlink_to(original)
    elif how == "hardlink":
        out = tmp_path / "hard.onnx"
        out.hardlink_to(original)
    elif how == "dots":
        out = tmp_path / "in" / ".." / "in" / victim
    before = listing(tmp_path)
    for model in (loaded, loaded.model.clone()):
        if model is not loaded and victim == "model.onnx":
            continue  # a bare clone knows its weights' files only
        with pytest.raises(SaveError, match="being read"):
            io.save(model, out)
    assert listing(tmp_path) == before


def test_never_sidecar_over_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(
        layers(WIDTHS), path, save_as_external_data=True, location="b.onnx.data", size_threshold=0
    )
    with pytest.raises(SaveError, match=r"b\.onnx\.data"):
        io.save(io.load(path), tmp_path / "b.onnx")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("missing/out.onnx", r"folder .*missing does not exist; create it"),
        ("in", "is a folder"),
        ("in/model.onnx/out.onnx", "does not exist"),
        ("x" * 300 + ".onnx", "too long"),
    ],
)
def test_bad_targets(external: Path, tmp_path: Path, out: str, message: str) -> None:
    with pytest.raises(SaveError, match=message):
        io.save(io.load(external), tmp_path / out)


def test_not_a_regular_file(external: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "out.onnx"
    os.mkfifo(fifo)
    with pytest.raises(SaveError, match="not a regular file"):
        io.save(io.load(external), fifo)
    with pytest.raises(SaveError, match="not a regular file"):
        io.save(io.load(external), os.devnull)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(external: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(SaveError, match="permission denied"):
        io.save(io.load(external), locked / "out.onnx")


class Broken:
    """A file that raises once it has taken so many bytes."""

    def __init__(self, file: BinaryIO, left: int, error: BaseException) -> None:
        self.file, self.left, self.error = file, left, error

    def write(self, data: Any) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise self.error
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EACCES, "Permission denied"),
    OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
    RuntimeError("a bug"),
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("error", FAILURES, ids=repr)
@pytest.mark.parametrize("left", [0, 100, 30000])
@pytest.mark.parametrize("old", [True, False])
def test_failure_while_writing(
    external: Path, tmp_path: Path, monkeypatch: Any, error: BaseException, left: int, old: bool
) -> None:
    out = external.parent / "out.onnx"
    if old:  # below the folder that `unchanged` watches, but made after it looked
        keep = tmp_path / "in" / "out.onnx"
        keep.write_bytes(b"old")
        keep.with_name("out.onnx.data").write_bytes(b"old data")
    before = listing(tmp_path)
    loaded = io.load(external)
    room = [left]

    def wrap(write: Any) -> Any:
        def run_out(self: Any, file: BinaryIO) -> None:
            broken = Broken(file, room[0], error)
            try:
                write(self, broken)
            finally:
                room[0] = broken.left

        return run_out

    monkeypatch.setattr(encode.Parts, "write", wrap(encode.Parts.write))
    monkeypatch.setattr(encode.Parts, "write_sidecar", wrap(encode.Parts.write_sidecar))
    expected = type(error) if isinstance(error, KeyboardInterrupt) else SaveError
    with pytest.raises(expected) as caught:
        io.save(loaded, out)
    if getattr(error, "errno", None) == errno.ENOSPC:
        assert "the disk is full; free some space" in str(caught.value)
    assert listing(tmp_path) == before
    for name in ("out.onnx", "out.onnx.data"):
        (external.parent / name).unlink(missing_ok=True)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad"), KeyboardInterrupt()], ids=repr)
def test_failure_while_renaming(
    tmp_path: Path, monkeypatch: Any, fails_at: int, after: bool, error: BaseException
) -> None:
    """Two files, both replacing older ones, three renames: any of them fails, before or after."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"old " + name.encode())
    real, calls = Path.replace, [0]

    def replace(source: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == fails_at and not after:
            raise error
        placed = real(source, target)
        if calls[0] == fails_at:
            raise error
        return placed

    monkeypatch.setattr(Path, "replace", replace)
    files = [(tmp_path / n, lambda f, n=n: f.write(b"new " + n.encode())) for n in "ab"]
    completed = fails_at == 4 or (fails_at == 3 and after)
    if fails_at == 4:
        atomic.write_files(files)
    else:
        with pytest.raises((SaveError, KeyboardInterrupt)):
            atomic.write_files(files)
    word = b"new " if completed else b"old "
    assert listing(tmp_path) == {n: word + n.encode() for n in "ab"}


def in_subprocess(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.usefixtures("unchanged")
def test_file_size_limit(external: Path, tmp_path: Path) -> None:
    code = """
import resource, sys
from onnxprune import errors, io
loaded = io.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
for external in (True, False):
    try:
        io.save(loaded, sys.argv[2], external_data=external)
    except errors.SaveError as error:
        print(error)
"""
    done = in_subprocess(code, str(external), str(tmp_path / "out.onnx"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would exceed the size allowed") == 2


def test_full_disk(external: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        loaded = io.load(external)
        for outside in (True, False):
            with pytest.raises(SaveError, match="the disk is full; free some space"):
                io.save(loaded, disk / "out.onnx", external_data=outside)
            assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_over_two_gigabytes(external: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(saving, "LIMIT", 8000)
    inside = io.load(layers(WIDTHS))
    io.save(inside, tmp_path / "auto.onnx")
    assert (tmp_path / "auto.onnx.data").exists()
    assert_identical(run(str(external), FEEDS), run(str(tmp_path / "auto.onnx"), FEEDS))
    for action in (
        lambda: io.save(inside, tmp_path / "no.onnx", external_data=False),
        lambda: io.to_bytes(inside.model),
        lambda: io.save(inside, tmp_path / "no.onnx", external_threshold=1 << 20),
    ):
        with pytest.raises(SaveError, match="8000"):
            action()
    assert not (tmp_path / "no.onnx").exists()


def test_large_constants_move_out_when_they_must(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(saving, "LIMIT", 8000)
    monkeypatch.setattr(encode, "_MANY", 4000)
    model = gemm_relu()
    held = onnx.numpy_helper.from_array(np.ones((2, 2000), np.float32), "k")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["k"], value=held))
    io.save(io.load(model), tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert after.graph.node[2].attribute[0].t.data_location == 1
    whole = onnx.load(tmp_path / "out.onnx")
    assert whole.graph.node[2].attribute[0].t.raw_data == held.raw_data


def test_large_external_data_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    size = 192 << 20
    model = layers([8, 8])
    big = onnx.TensorProto(name="big", data_type=1, dims=[size // 4], data_location=1)
    for key, value in {"location": "big.bin", "offset": 0, "length": size}.items():
        big.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(big)
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(size)
        file.seek(size - 4)
        file.write(b"end!")
    code = """
import resource, sys
from onnxprune import io
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
io.save(io.load(sys.argv[1]), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = in_subprocess(code, str(path), str(tmp_path / "out.onnx"))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 * 1024  # KiB; the data are 192 MiB
    assert (tmp_path / "out.onnx.data").read_bytes()[-4:] == b"end!"


def test_model_read_by_onnx_ir_keeps_its_sidecar(external: Path, tmp_path: Path) -> None:
    io.save(ir.load(external), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    assert_identical(run(str(external), FEEDS), run(str(tmp_path / "out.onnx"), FEEDS))
    io.save(io.load(ir.load(external)), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx.data").read_bytes() == (tmp_path / "out.onnx.data").read_bytes()


def test_constants_made_for_an_old_model_do_not_become_inputs() -> None:
    # Before IR version 4 an initializer had to be a graph input too.
    proto = layers([4, 6, 2])
    proto.ir_version = 3
    proto.opset_import[0].version = 9
    weight = next(t for t in proto.graph.initializer if t.name == "w0")
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w0", weight.data_type, [4, 6]))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w1", weight.data_type, [6, 2]))
    loaded = io.load(proto)
    made = np.arange(6, dtype=np.float32)
    loaded.model.graph.register_initializer(
        ir.Value(name="made", const_value=ir.tensor(made, name="made"))
    )
    node = next(n for n in loaded.model.graph if n.name == "mm1")
    bias = ir.Node("", "Add", [node.inputs[0], loaded.model.graph.initializers["made"]])
    node.prepend(bias)
    node.replace_input_with(0, bias.outputs[0])
    saved = io.to_proto(loaded.model)
    onnx.checker.check_model(saved, full_check=True)
    assert [v.name for v in saved.graph.input] == [v.name for v in proto.graph.input]
    x = np.ones((1, 4), np.float32)
    w0, w1 = (onnx.numpy_helper.to_array(t) for t in proto.graph.initializer)
    (y,) = run(saved.SerializeToString(), {"h0": x})
    np.testing.assert_allclose(y, (x @ w0 + made) @ w1, rtol=1e-6)


def test_a_large_file_is_sent_to_disk_while_it_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    """Pages that are written leave memory early; what arrives is the same."""
    sent: list[tuple[int, int]] = []

    def advise(descriptor: int, start: int, length: int, how: int) -> None:
        sent.append((start, start + length))
        os.posix_fadvise(descriptor, start, length, how)

    monkeypatch.setattr(atomic, "_ADVISE", advise)
    monkeypatch.setattr(atomic, "_STRIDE", 1 << 12)
    monkeypatch.setattr(atomic, "_WORTH_SENDING", 1 << 14)
    rng = np.random.default_rng(0)
    parts = [rng.bytes(int(size)) for size in rng.integers(1, 5000, 40)]

    def write(file: BinaryIO) -> None:
        for part in parts:
            file.write(part)

    # The buffer of the writer is larger than this file: write around it, like large tensors.
    monkeypatch.setattr(atomic, "_BUFFER", 1)
    target = tmp_path / "large"
    atomic.write_files([(target, write)])
    assert target.read_bytes() == b"".join(parts)
    assert sent and sent[0][1] >= 1 << 14
    assert all(start <= before for (_, before), (start, _) in itertools.pairwise(sent))
    assert sent[0][0] == 0
