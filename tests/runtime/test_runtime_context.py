"""Compiled models saved as EPContext and loaded again; damaged ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from runtime_graphs import Net, assert_close, claimed_ops, feed
from test_runtime_regions import residual_network

from onnxprune import runtime


def compile_to(path: Path, model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Save the model as this provider compiles it."""
    import onnxruntime as ort

    held = ort.SessionOptions()
    held.log_severity_level = 3
    held.add_session_config_entry("ep.context_enable", "1")
    held.add_session_config_entry("ep.context_embed_mode", "1")
    held.add_session_config_entry("ep.context_file_path", str(path))
    runtime.session(model, 1, force=True, session_options=held, **options)
    return onnx.load(path)


def network(dims: list[int | str]) -> tuple[Net, onnx.ModelProto]:
    net = Net()
    return net, net.model(residual_network(net, net.input("x", dims)))


@pytest.mark.parametrize("dims", [[1, 3, 64, 64], ["n", 3, "h", "w"]])
def test_round_trip(tmp_path: Path, dims: list[int | str]) -> None:
    net, model = network(dims)
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert [n.op_type for n in compiled.graph.node] == ["EPContext"]
    assert len(compiled.SerializeToString()) < 0.6 * len(model.SerializeToString())
    given = feed(net.rng, {"x": [1, 3, 64, 64]})
    # Without timing: kernels chosen by it add in different orders.
    direct = runtime.session(model, 1, force=True, timing=False).run(None, given)[0]
    loaded = runtime.session(compiled, 1, timing=False)
    assert loaded.run(None, given)[0].tobytes() == direct.tobytes()
    assert claimed_ops(loaded) == ["EPContext"]


def test_parts_left_to_the_cpu_survive(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [2, 6, 10, 10])
    a = net.add("Relu", net.add("Conv", x, net.weight(8, 6, 3, 3)))
    b = net.add("Softmax", a, axis=1)
    y = net.add("Conv", b, net.weight(4, 8, 1, 1))
    model = net.model(y)
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert [n.op_type for n in compiled.graph.node].count("EPContext") == 2
    given = feed(net.rng, {"x": [2, 6, 10, 10]})
    expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
    assert_close(runtime.session(compiled, 1).run(None, given)[0], expected)


def test_moves_survive(tmp_path: Path) -> None:
    """Resized images, parts of channels, slopes by channel: what they hold is saved with them."""
    net = Net()
    x = net.input("x", ["n", 6, "h", "w"])
    a = net.add("Conv", x, net.weight(8, 6, 3, 3), pads=[1] * 4)
    slope = net.constant(net.rng.standard_normal((8, 1, 1)).astype(np.float32))
    parts = net.constant(np.array([3, 5], np.int64))
    b = net.add("PRelu", a, slope)
    net.nodes.append(helper.make_node("Split", [b, parts], ["first", "second"], axis=1))
    scales = net.constant(np.array([1, 1, 2, 1.5], np.float32))
    c = net.add("Resize", "second", "", scales, mode="linear")
    y = net.add("Conv", c, net.weight(4, 5, 1, 1))
    model = net.model(y, "first")
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert [n.op_type for n in compiled.graph.node] == ["EPContext"]
    loaded, cpu = runtime.session(compiled, 1), runtime.session(model, 1, provider="cpu")
    for shape in ([1, 6, 10, 10], [2, 6, 7, 5]):
        given = feed(net.rng, {"x": shape})
        for actual, expected in zip(loaded.run(None, given), cpu.run(None, given), strict=True):
            assert_close(actual, expected)


def test_normalisations_of_images_survive(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", ["n", 6, "h", "w"])
    a = net.add("Conv", x, net.weight(8, 6, 3, 3), pads=[1] * 4)
    b = net.add("LRN", a, size=3, alpha=0.5, beta=0.6, bias=1.5)
    vectors = net.vector(8), net.vector(8)
    c = net.add("GroupNormalization", b, *vectors, num_groups=2, epsilon=1e-2)
    y = net.add("Conv", net.add("Sigmoid", c), net.weight(4, 8, 1, 1))
    model = net.model(y, opset=21)
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert [n.op_type for n in compiled.graph.node] == ["EPContext"]
    loaded, cpu = runtime.session(compiled, 1), runtime.session(model, 1, provider="cpu")
    for shape in ([1, 6, 10, 10], [2, 6, 7, 5]):
        given = feed(net.rng, {"x": shape})
        assert_close(loaded.run(None, given)[0], cpu.run(None, given)[0])


def blob_of(model: onnx.ModelProto) -> onnx.AttributeProto:
    (node,) = model.graph.node
    return next(a for a in node.attribute if a.name == "ep_cache_context")


def test_damage_is_an_error_never_a_crash(tmp_path: Path) -> None:
    """Flipped, cut and extended bytes; behind a checksum made right again as well."""
    import zlib

    _, model = network([1, 3, 32, 32])
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    good = blob_of(compiled).s
    rng = np.random.default_rng(0)
    cases = [b"", good[:11], good[:-1], good + b"\0", b"XXXX" + good[4:]]
    for turn in range(150):
        body = bytearray(good[12:])
        for _ in range(int(rng.integers(1, 4))):
            # Most of the bytes are weights; the first ones describe the program.
            limit = len(body) if turn % 3 == 0 else 3000
            body[int(rng.integers(0, limit))] = int(rng.integers(0, 256))
        head = good[:8]
        if turn % 2:
            head += zlib.crc32(bytes(body)).to_bytes(4, "little")
        else:
            head += good[8:12]
        cases.append(head + bytes(body))
    x = np.zeros((1, 3, 32, 32), np.float32)
    refused = 0
    for case in cases:
        blob_of(compiled).s = case
        try:
            runtime.session(compiled, 1).run(None, {"x": x})
        except Exception as error:
            assert "onnxprune" in str(error) or "compiled" in str(error), error
            refused += 1
    # With the checksum put right some changes only change a number.
    assert refused >= len(cases) // 2


@pytest.mark.parametrize(
    "sizes", [(2**40, 3, 32, 32), (8, 2**62, 4, 1), (2**20,) * 4, (2**31,) * 4]
)
def test_absurd_shapes_are_refused(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """A compiled model may promise any input shape; products of sizes must not overflow."""
    import struct
    import zlib

    _, model = network([1, 3, 32, 32])
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    good = blob_of(compiled).s
    promised = struct.pack("<Q4q", 4, 1, 3, 32, 32)
    assert good.count(promised) == 1
    body = good[12:].replace(promised, struct.pack("<Q4q", 4, *sizes))
    blob_of(compiled).s = good[:8] + zlib.crc32(body).to_bytes(4, "little") + body
    with pytest.raises(Exception, match=r"onnxprune: a tensor of shape .* is too large"):
        runtime.session(compiled, 1)


def test_versions_and_instruction_sets_are_checked(tmp_path: Path) -> None:
    import zlib

    _, model = network([1, 3, 32, 32])
    compiled = compile_to(tmp_path / "compiled.onnx", model, isa="scalar")
    good = blob_of(compiled).s
    blob_of(compiled).s = good[:4] + (99).to_bytes(4, "little") + good[8:]
    with pytest.raises(Exception, match="format version 99"):
        runtime.session(compiled, 1)
    body = good[12:].replace(b"scalar", b"sve512", 1)
    blob_of(compiled).s = good[:8] + zlib.crc32(body).to_bytes(4, "little") + body
    with pytest.raises(Exception, match="instruction set"):
        runtime.session(compiled, 1)
    body = good[12:].replace(b"0.1.0", b"9.9.9", 1)
    blob_of(compiled).s = good[:8] + zlib.crc32(body).to_bytes(4, "little") + body
    with pytest.raises(Exception, match=r"compiled by version 9\.9\.9"):
        runtime.session(compiled, 1)


@pytest.mark.parametrize("embed", ["0", "1", None])
def test_weights_in_external_files(tmp_path: Path, embed: str | None) -> None:
    """The compiled model stands alone, whatever embedding was asked for: the original may go."""
    import onnxruntime as ort

    net, model = network([1, 3, 32, 32])
    given = feed(net.rng, {"x": [1, 3, 32, 32]})
    expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
    folder = tmp_path / "original"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="net.data")
    held = ort.SessionOptions()
    held.log_severity_level = 3
    held.add_session_config_entry("ep.context_enable", "1")
    held.add_session_config_entry("ep.context_file_path", str(tmp_path / "compiled.onnx"))
    if embed is not None:
        held.add_session_config_entry("ep.context_embed_mode", embed)
    compiling = runtime.session(path, 1, force=True, session_options=held)
    # The session that compiles runs as well.
    assert_close(compiling.run(None, given)[0], expected)
    (folder / "net.data").unlink()
    path.unlink()
    loaded = runtime.session(tmp_path / "compiled.onnx", 1)
    assert claimed_ops(loaded) == ["EPContext"]
    assert_close(loaded.run(None, given)[0], expected)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["compiled.onnx"]
