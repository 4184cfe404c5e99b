"""Operators of domain ai.onnxprune: packed weights run directly, bad ones refused."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from runtime_graphs import Net, assert_close, claimed_ops, feed

from onnxprune import formats, runtime

FORMATS = ["csr", "csc", "bsr", "bitmap", "nm", "eie"]
VECTORS = Path(__file__).resolve().parents[1] / "formats"


def packed(model: onnx.ModelProto, form: str, **options: Any) -> ir.Model:
    held = ir.from_proto(model)
    formats.convert_model(held, form, **options)
    return held


def check(model: onnx.ModelProto, form: str, feeds: list[dict[str, Any]], **options: Any) -> Any:
    """Packed on the provider, packed without it, against the dense model."""
    held = packed(model, form)
    names = {n.op_type for n in held.graph if n.domain == "ai.onnxprune"}
    assert names, "nothing was packed"
    expected = runtime.session(model, 1, provider="cpu")
    claimed = runtime.session(held, 1, **options)
    plain = unclaimed(held)
    for given in feeds:
        wanted = expected.run(None, given)
        for session in (claimed, plain):
            for a, e in zip(session.run(None, given), wanted, strict=True):
                assert_close(a, e, 1024)
    return claimed


def unclaimed(held: ir.Model) -> Any:
    """A session on the CPU provider with the custom operators registered the classic way."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(runtime.library_path()))
    data = ir.to_proto(held).SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def test_the_cpu_provider_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed models are benched and compared on either runtime; pruning says what to do first."""
    import onnxprune
    from onnxprune.errors import ModelError

    net = Net()
    y = net.add("Conv", net.input("x", [1, 8, 9, 9]), net.weight(16, 8, 3, 3))
    model = net.model(y)
    held = packed(model, "csr")
    given = feed(net.rng, {"x": [1, 8, 9, 9]})
    expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
    assert_close(runtime.session(held, 1, provider="cpu").run(None, given)[0], expected)
    path = tmp_path / "packed.onnx"
    ir.save(held, path)
    report = onnxprune.bench([path], runtimes=["cpu", "sparse"], seconds=0.0)
    assert [row["runtime"] for row in report["results"]] == ["cpu", "sparse"]
    for pattern in ("element", "channel"):
        with pytest.raises(ModelError, match="weights are packed; 'onnxprune convert"):
            onnxprune.prune(path, sparsity=0.5, pattern=pattern)
    monkeypatch.setenv("ONNXPRUNE_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(Exception, match="SparseConv"):
        runtime.session(held, 1, provider="cpu")


def two_of_four(net: Net, *shape: int) -> str:
    weight = net.rng.standard_normal(shape).astype(np.float32)
    groups = weight.reshape(shape[0], shape[1] // 4, 4, -1)
    groups[:, :, 1::2] = 0
    return net.constant(weight)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_convolutional_network(form: str, dynamic: bool) -> None:
    net = Net()
    x = net.input("x", ["n", 8, "h", "w"] if dynamic else [2, 8, 12, 9])
    a = net.add("Conv", x, two_of_four(net, 16, 8, 3, 3), net.vector(16), pads=[1] * 4)
    a = net.add("Relu", a)
    b = net.add("Conv", a, two_of_four(net, 8, 8, 3, 3), group=2, pads=[1] * 4)
    model = net.model(net.add("Relu", net.add("Add", b, x)))
    feeds = [feed(net.rng, {"x": [2, 8, 12, 9]})]
    if dynamic:
        feeds.append(feed(net.rng, {"x": [1, 8, 7, 20]}))
    session = check(model, form, feeds)
    assert claimed_ops(session).count("SparseConv") == 2


@pytest.mark.parametrize("form", FORMATS)
def test_matrices(form: str) -> None:
    net = Net()
    x = net.input("x", ["m", 32])
    y = net.add("Gemm", x, two_of_four(net, 24, 32), net.vector(24), transB=1, alpha=0.5, beta=2.0)
    transposed = net.rng.standard_normal((24, 16)).astype(np.float32)
    transposed[1::2] = 0
    y = net.add("Gemm", net.add("Relu", y), net.constant(transposed))
    right = net.rng.standard_normal((16, 20)).astype(np.float32)
    right[::2] = 0
    y = net.add("MatMul", y, net.constant(right))
    feeds = [feed(net.rng, {"x": [m, 32]}) for m in (1, 5, 33)]
    session = check(net.model(y), form, feeds)
    assert sorted(set(claimed_ops(session)) - {"Relu"}) == ["SparseGemm", "SparseMatMul"]


@pytest.mark.parametrize("form", ["csr", "bsr", "nm"])
def test_constant_on_the_left(form: str) -> None:
    net = Net()
    x = net.input("x", [3, 32, "t"])
    y = net.add("MatMul", two_of_four(net, 24, 32), x)
    feeds = [feed(net.rng, {"x": [3, 32, t]}) for t in (1, 7, 40)]
    assert claimed_ops(check(net.model(y), form, feeds)) == ["SparseMatMul"]


def test_what_no_kernel_covers_is_computed_from_the_definition() -> None:
    """Three spatial axes, batches of matrices, transposed input, a term of every shape."""
    nets: list[tuple[Net, str, list[int]]] = []
    net = Net()
    x = net.input("x", [2, 8, 5, 6, 7])
    w = net.weight(12, 4, 2, 3, 2)
    y = net.add("Conv", x, w, net.vector(12), group=2, strides=[1, 2, 1], pads=[0, 1, 1, 1, 0, 0])
    nets.append((net, y, [2, 8, 5, 6, 7]))
    net = Net()
    x = net.input("x", [2, 1, 5, 24])
    nets.append((net, net.add("MatMul", x, net.weight(3, 24, 16)), [2, 1, 5, 24]))
    net = Net()
    x = net.input("x", [3, 24, 5])
    nets.append((net, net.add("MatMul", net.weight(3, 16, 24), x), [3, 24, 5]))
    net = Net()
    x = net.input("x", [24])
    nets.append((net, net.add("MatMul", x, net.weight(24, 16)), [24]))
    net = Net()
    x = net.input("x", [24, 5])
    y = net.add("Gemm", x, net.weight(16, 24), net.weight(5, 1, sparsity=0), transA=1, transB=1,
                alpha=0.5, beta=-1.0)  # fmt: skip
    nets.append((net, y, [24, 5]))
    net = Net()
    x = net.input("x", [5, 24])
    y = net.add("Gemm", x, net.weight(24, 16), net.weight(5, 16, sparsity=0))
    nets.append((net, y, [5, 24]))
    for net, y, shape in nets:
        session = check(net.model(y), "csr", [feed(net.rng, {"x": shape})])
        assert not [op for op in claimed_ops(session) if op.startswith("Sparse")]


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding_of_open_sizes(pad: str) -> None:
    net = Net()
    x = net.input("x", [1, 8, "h", "w"])
    y = net.add("Conv", x, net.weight(8, 8, 3, 3), auto_pad=pad, strides=[2, 2])
    feeds = [feed(net.rng, {"x": [1, 8, h, w]}) for h, w in ((10, 11), (11, 10), (7, 7))]
    check(net.model(y), "csr", feeds)


def test_other_weights_behind_sparse_decode() -> None:
    net = Net()
    x = net.input("x", [16, 32])
    table = net.weight(16, 32, sparsity=0.9)
    y = net.add("Mul", net.add("MatMul", x, net.weight(32, 32, sparsity=0.9)), table)
    model = net.model(y)
    held = packed(model, "csr", others=True)
    assert {n.op_type for n in held.graph} >= {"SparseDecode", "SparseMatMul"}
    given = feed(net.rng, {"x": [16, 32]})
    expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
    for session in (runtime.session(held, 1), unclaimed(held)):
        assert_close(session.run(None, given)[0], expected)


def decode_model(blob: bytes, shape: list[int], dtype: int) -> onnx.ModelProto:
    data = numpy_helper.from_array(np.frombuffer(blob, np.uint8), "packed")
    node = helper.make_node("SparseDecode", ["packed"], ["y"], name="decode", domain="ai.onnxprune")
    ints = onnx.AttributeProto.INTS
    node.attribute.append(helper.make_attribute("weight_shape", shape, attr_type=ints))
    node.attribute.append(helper.make_attribute("weight_dtype", dtype))
    out = helper.make_tensor_value_info("y", dtype, shape)
    graph = helper.make_graph([node], "g", [], [out], [data])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnxprune", 1)]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    return model


def vectors() -> list[Any]:
    path = VECTORS / "vectors.json"
    cases = json.loads(path.read_text()) if path.is_file() else []
    return [pytest.param(c, id=c["name"]) for c in cases]


@pytest.mark.parametrize("case", vectors())
def test_vectors_decode_to_the_same_bits(case: dict[str, Any]) -> None:
    """Every format and element type, against what the Python reference wrote."""
    model = decode_model(bytes.fromhex(case["blob"]), case["shape"], case["dtype"])
    result = runtime.session(model, 1).run_with_ort_values(["y"], {})[0]
    assert result.shape() == case["shape"]
    # Not through numpy, which has no word for some of the types.
    size = len(case["dense"]) // 2
    assert ctypes.string_at(result.data_ptr(), size).hex() == case["dense"]


def hostile() -> list[Any]:
    path = VECTORS / "hostile.json"
    cases = json.loads(path.read_text()) if path.is_file() else []
    return [pytest.param(c, id=c["name"]) for c in cases]


@pytest.mark.parametrize("case", hostile())
def test_hostile_blobs_are_refused(case: dict[str, Any]) -> None:
    blob = bytes.fromhex(case["blob"])
    shape, dtype = [2, 3], 1
    if len(blob) >= 64 and blob[12] <= 16 and len(blob) >= 64 + 8 * blob[12]:
        # Declare what the blob declares, so that nothing but the damage is wrong.
        shape = [int(d) for d in np.frombuffer(blob[64 : 64 + 8 * blob[12]], "<i8")]
        dtype = blob[11] if blob[11] in (1, 2, 3, 6, 7, 9, 10, 11) else 1
    with pytest.raises(Exception, match="packed weight"):
        runtime.session(decode_model(blob, shape, dtype), 1)
