"""Quantised layers (Q/DQ): integer arithmetic, bit for bit as in onnxruntime's fused operators."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from quantised_graphs import S8, U8, Quantised, residual
from runtime_graphs import Array
from test_runtime_context import compile_to

from onnxprune import runtime

ISA = ["auto", "avx2", "scalar"]


def cpu(model: bytes, precise: bool) -> Any:
    """The CPU provider. Without VNNI its products of unsigned and signed numbers saturate at 16
    bits, unless precision is asked for, which in turn leaves some signed nodes unfused.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1" if precise else "0")
    return runtime.session(model, 1, provider="cpu", session_options=options)


def check(actual: list[Array], model: bytes, given: dict[str, Array]) -> None:
    """Each result has the bits of the CPU provider's, in one of its two ways."""
    ways = [cpu(model, precise).run(None, given) for precise in (False, True)]
    for a, *expected in zip(actual, *ways, strict=True):
        assert all(a.dtype == e.dtype and a.shape == e.shape for e in expected)
        counts = [np.count_nonzero(a != e) for e in expected]
        assert 0 in counts, f"{min(counts)} of {a.size} differ"


def run(model: onnx.ModelProto, given: dict[str, Array], **options: Any) -> tuple[list[Array], Any]:
    """What the provider gives, after checking that the CPU provider gives the same bits."""
    data = model.SerializeToString()
    session = runtime.session(data, 1, **options)
    actual = session.run(None, given)
    check(actual, data, given)
    assert all(np.unique(a).size > 3 for a in actual)
    return actual, session


def all_claimed(session: Any) -> bool:
    return all(d.claimed for d in runtime.explain(session))


def reasons(session: Any) -> str:
    return "; ".join(d.reason for d in runtime.explain(session) if not d.claimed)


def data(shape: list[int], seed: int = 5) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activation", ["", "Relu", "Clip"])
def test_convolutions(isa: str, dtype: np.dtype[Any], per_channel: bool, activation: str) -> None:
    net = Quantised(1, dtype)
    kind: dict[str, Any] = {"per_channel": per_channel, "activation": activation}
    x = net.image(1, 8, 17, 15)
    y = net.conv(x, 24, 8, pads=[1, 2, 0, 1], **kind)
    y = net.conv(y, 24, 24, group=24, pads=[1, 1, 1, 1], strides=[2, 2], sparsity=0.0, **kind)
    y = net.conv(y, 30, 24, 1, **kind)
    y = net.conv(y, 20, 30, group=2, pads=[1, 1, 1, 1], **kind)
    model = net.model(net.dequantise(y))
    _, session = run(model, data([1, 8, 17, 15]), force=True, isa=isa)
    assert all_claimed(session), reasons(session)


@pytest.mark.parametrize("weights", [U8, S8])
@pytest.mark.parametrize("zero", [0, 7, 128, 255])
def test_padding_is_the_zero_point(weights: np.dtype[Any], zero: int) -> None:
    net = Quantised(2)
    x = net.image(1, 6, 9, 9, zero=zero)
    y = net.conv(x, 16, 6, 5, weights=weights, pads=[4, 0, 1, 3], scale=0.02, bias=False)
    _, session = run(net.model(net.dequantise(y)), data([1, 6, 9, 9]), force=True)
    assert all_claimed(session), reasons(session)


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("size", [8, 11])
def test_a_residual_network(isa: str, size: int) -> None:
    net = Quantised(3)
    y = net.conv(net.image(1, 3, size, size), 16, 3, pads=[1, 1, 1, 1], activation="Relu")
    y = residual(net, residual(net, y, 16), 16)
    mean = net.quantise(net.add("GlobalAveragePool", net.dequantise(y)), 0.03, 0)
    flat = net.quantise(net.add("Flatten", net.dequantise(mean)), 0.03, 0)
    w, products = net.matrix(flat, (16, 40), 1, U8, False, 0.5)
    y = net.add("Gemm", net.dequantise(flat), w, net.bias(products, 40))
    y = net.quantise(y, 0.02, 100)
    _, session = run(net.model(net.dequantise(y)), data([1, 3, size, size]), force=True, isa=isa)
    assert all_claimed(session), reasons(session)


def test_what_moves_integers_only() -> None:
    net = Quantised(4)
    x = net.image(1, 8, 12, 12)
    a = net.conv(x, 12, 8, pads=[1, 1, 1, 1], scale=0.05, zero=11)
    b = net.conv(x, 20, 8, 1, scale=0.05, zero=11)
    both = net.add("Concat", net.dequantise(a), net.dequantise(b), axis=1)
    y = net.quantise(both, 0.05, 11)
    pooled = net.add(
        "MaxPool", net.dequantise(y), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    )
    y = net.conv(net.quantise(pooled, 0.05, 11), 16, 32, 1)
    _, session = run(net.model(net.dequantise(y)), data([1, 8, 12, 12]), force=True)
    assert all_claimed(session), reasons(session)


@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("regions", [True, False])
def test_integers_at_the_border(dtype: np.dtype[Any], regions: bool) -> None:
    """As inputs and outputs of the graph, and, layer by layer, of every claimed group."""
    net = Quantised(6, dtype)
    held = TensorProto.UINT8 if dtype == U8 else TensorProto.INT8
    x = net.input("x", ["n", 8, "h", "w"], held)
    net.scale[x], net.zero[x] = 0.02, 9
    y = net.conv(x, 24, 8, pads=[1, 1, 1, 1], activation="Relu")
    z = net.conv(y, 16, 24, 1)
    model = net.model(y, z)
    for output in model.graph.output:
        output.type.tensor_type.elem_type = held
    low = 0 if dtype == U8 else -128
    for shape in ([1, 8, 10, 9], [3, 8, 5, 20], [0, 8, 6, 6]):
        given = {"x": np.random.default_rng(1).integers(low, low + 256, shape).astype(dtype)}
        options = {"force": True, "regions": regions}
        data = model.SerializeToString()
        session = runtime.session(data, 1, **options)
        assert all_claimed(session), reasons(session)
        expected = runtime.session(data, 1, provider="cpu").run(None, given)
        for a, e in zip(session.run(None, given), expected, strict=True):
            assert a.dtype == dtype and np.array_equal(a, e)


@pytest.mark.parametrize("shape", [(1, 64), (7, 64), (2, 9, 64)])
def test_matrices(shape: tuple[int, ...]) -> None:
    net = Quantised(7)
    x = net.image(*shape)
    w, _ = net.matrix(x, (64, 48), 1, S8, False, 0.8)
    y = net.quantise(net.add("MatMul", net.dequantise(x), w), 0.05, 60)
    v, _ = net.matrix(y, (48, 24), 1, S8, False, 0.8)
    z = net.add("MatMul", net.dequantise(y), v)
    _, session = run(
        net.model(net.dequantise(net.quantise(z, 0.05, 90))), data(list(shape)), force=True
    )
    assert all_claimed(session), reasons(session)


def test_a_float_result() -> None:
    """A last layer whose result is not quantised: exact sums times one number."""
    net = Quantised(8)
    x = net.image(1, 8, 6, 6)
    y = net.conv(x, 16, 8, activation="Relu", per_channel=True)
    w, products = net.matrix(y, (10, 16, 1, 1), 0, U8, True, 0.7)
    z = net.add("Relu", net.add("Conv", net.dequantise(y), w, net.bias(products, 10)))
    model = net.model(z)
    given = data([1, 8, 6, 6])
    expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
    session = runtime.session(model, 1, force=True)
    assert all_claimed(session), reasons(session)
    actual = session.run(None, given)[0]
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_float_network_between_quantised_ones() -> None:
    net = Quantised(9)
    x = net.conv(net.image(1, 8, 6, 6), 16, 8, activation="Relu")
    y = net.add("Sigmoid", net.dequantise(x))
    y = net.conv(net.quantise(y, 1 / 255, 0), 16, 16, 1)
    _, session = run(net.model(net.dequantise(y)), data([1, 8, 6, 6]), force=True)
    assert all_claimed(session), reasons(session)


def test_odd_numbers_at_the_input() -> None:
    net = Quantised(10)
    y = net.conv(net.image(1, 4, 6, 6), 8, 4, 1)
    given = data([1, 4, 6, 6])
    given["x"][0, :, 0, :4] = [np.nan, np.inf, -np.inf, 3e38]
    run(net.model(net.dequantise(y)), given, force=True)


def test_sums_that_floats_cannot_hold_are_left_to_the_cpu_provider() -> None:
    for channels, sparsity, claimed in ((3000, 0.0, False), (3000, 0.9, True)):
        net = Quantised(11)
        x = net.image(1, channels, 4, 4)
        y = net.conv(x, 16, channels, 1, sparsity=sparsity, scale=1.0)
        _, session = run(net.model(net.dequantise(y)), data([1, channels, 4, 4]), force=True)
        assert ("2^24" not in reasons(session)) == claimed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("zero", "two zero points"),
        ("bias", "another scale than its products"),
        ("blocks", "another axis"),
        ("float bias", "bias is not quantised"),
    ],
)
def test_what_does_not_fit_is_left_to_the_cpu_provider(change: str, reason: str) -> None:
    import onnxruntime as ort

    net = Quantised(12)
    x = net.image(1, 8, 7, 7)
    if change == "zero":
        net.zero[x] += 1
    w, products = net.matrix(x, (8, 8, 3, 3), 1 if change == "blocks" else 0, U8, True, 0.8)
    b = net.bias(products * (1.01 if change == "bias" else 1), 8)
    if change == "float bias":
        b = net.vector(8)
    y = net.quantise(net.add("Conv", net.dequantise(x), w, b), 0.05, 100)

    def plain() -> Any:
        held = ort.SessionOptions()
        held.log_severity_level = 3
        held.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return held

    model = net.model(net.dequantise(y))
    session = runtime.session(model, 1, force=True, session_options=plain())
    assert reason in reasons(session)
    given = data([1, 8, 7, 7])
    cpu = ort.InferenceSession(model.SerializeToString(), plain(), ["CPUExecutionProvider"])
    step = 0.05 * 1.001
    for a, e in zip(session.run(None, given), cpu.run(None, given), strict=True):
        assert np.abs(a - e).max() <= step


def test_compiled_models(tmp_path: Path) -> None:
    net = Quantised(13)
    y = net.conv(net.image("n", 3, 16, 16), 16, 3, pads=[1, 1, 1, 1], activation="Relu")
    y = residual(net, y, 16)
    mean = net.quantise(net.add("GlobalAveragePool", net.dequantise(y)), 0.03, 0)
    model = net.model(net.dequantise(y), mean)
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.UINT8
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    assert "EPContext" in [n.op_type for n in compiled.graph.node]
    given = data([2, 3, 16, 16])
    expected = runtime.session(model, 1, provider="cpu").run(None, given)
    for a, e in zip(runtime.session(compiled, 1).run(None, given), expected, strict=True):
        assert np.array_equal(a, e)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from([U8, S8]),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    layers=st.lists(
        st.tuples(
            st.sampled_from(["conv", "depthwise", "pointwise", "residual", "pool"]),
            st.integers(1, 40),
            st.sampled_from(["", "Relu", "Clip"]),
            st.booleans(),
            st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        ),
        min_size=1,
        max_size=5,
    ),
    isa=st.sampled_from(ISA),
    threads=st.sampled_from([1, 2]),
)
def test_random_networks(
    seed: int,
    dtype: np.dtype[Any],
    sizes: tuple[int, int],
    layers: list[Any],
    isa: str,
    threads: int,
) -> None:
    net = Quantised(seed, dtype)
    channels = 5
    y = net.image(1, channels, *sizes)
    for kind, outputs, activation, per_channel, sparsity in layers:
        how: dict[str, Any] = {
            "activation": activation,
            "per_channel": per_channel,
            "sparsity": sparsity,
        }
        if kind == "conv":
            y = net.conv(y, outputs, channels, pads=[1, 1, 1, 1], **how)
        elif kind == "depthwise":
            stride = 1 + seed % 2
            y = net.conv(
                y,
                channels,
                channels,
                group=channels,
                pads=[1, 1, 1, 1],
                strides=[stride] * 2,
                **how,
            )
            continue
        elif kind == "pointwise":
            y = net.conv(y, outputs, channels, 1, **how)
        elif kind == "residual" and dtype == U8:
            y = residual(net, y, channels)
            continue
        elif kind == "pool":
            pooled = net.add("MaxPool", net.dequantise(y), kernel_shape=[2, 2], pads=[0, 0, 1, 1])
            y = net.quantise(pooled, net.scale[y], net.zero[y])
            continue
        else:
            continue
        channels = outputs
    data_bytes = net.model(net.dequantise(y)).SerializeToString()
    given = data([1, 5, *sizes], seed)
    session = runtime.session(data_bytes, threads, force=True, isa=isa)
    check(session.run(None, given), data_bytes, given)


DATA = Path(
    os.environ.get("ONNXPRUNE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)


@pytest.mark.parametrize("name", ["cifar10_resnet8_mlperf", "kws_dscnn_mlperf"])
@pytest.mark.parametrize("isa", ISA)
def test_networks(name: str, isa: str) -> None:
    """Real ones, pruned to 90 % (weights become their zero points): the same bits."""
    path = DATA / name / "model_qdq.onnx"
    if not path.is_file():
        pytest.skip("no ../shared/data here")
    model = onnx.load(path)
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        q = numpy_helper.to_array(tensors[node.input[0]]).copy()
        if q.dtype == np.int8 and q.ndim > 1 and q.size > 1000:
            q[np.abs(q.astype(int)) < np.quantile(np.abs(q.astype(int)), 0.9)] = 0
            tensors[node.input[0]].CopyFrom(numpy_helper.from_array(q, node.input[0]))
    dims = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    for scale in (1.0, 60.0):
        given = {model.graph.input[0].name: (scale * rng.normal(size=dims)).astype(np.float32)}
        session = runtime.session(model, 1, force=True, isa=isa)
        assert all_claimed(session), reasons(session)
        check(session.run(None, given), model.SerializeToString(), given)


def test_helper_makes_what_onnxruntime_fuses(tmp_path: Path) -> None:
    """The oracle is onnxruntime's integer arithmetic: the graphs above do reach it."""
    import onnxruntime as ort

    net = Quantised(14)
    y = net.conv(net.image(1, 8, 6, 6), 16, 8, activation="Relu")
    model = net.model(net.dequantise(residual(net, y, 16)))
    held = ort.SessionOptions()
    held.log_severity_level = 3
    held.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    held.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), held, ["CPUExecutionProvider"])
    fused = onnx.load(held.optimized_model_filepath)
    kinds = [n.op_type for n in fused.graph.node]
    assert kinds.count("QLinearConv") == 3 and "QLinearAdd" in kinds and "Conv" not in kinds
