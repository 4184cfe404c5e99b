"""Statistics put right, against what onnxruntime gives for the repaired network."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import io
from onnxprune.recovery.apply import Reconstruction, Recovered
from onnxprune.recovery.repair import repair
from onnxprune.recovery.write_values import apply_recovered
from onnxprune.rules.analysis import analyze

PADS = {"pads": [1, 1, 1, 1]}


def net(normalised):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {"w0": draw(8, 3, 3, 3), "b0": draw(8), "w1": draw(8, 8, 3, 3), "b1": draw(8),
               "fc": draw(4, 8), "fb": draw(4)}  # fmt: skip
    nodes = []
    at = "x"
    for k in (0, 1):
        nodes.append(helper.make_node("Conv", [at, f"w{k}", f"b{k}"], [f"c{k}"], **PADS))
        at = f"c{k}"
        if normalised:
            for name, array in (("s", draw(8) + 1), ("o", draw(8)), ("m", draw(8)),
                                ("v", np.abs(draw(8)) + 0.5)):  # fmt: skip
                weights[f"{name}{k}"] = array.astype(np.float32)
            names = [at, *(f"{n}{k}" for n in "somv")]
            nodes.append(helper.make_node("BatchNormalization", names, [f"n{k}"]))
            at = f"n{k}"
        nodes.append(helper.make_node("Relu", [at], [f"r{k}"]))
        at = f"r{k}"
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc", "fb"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def feeds():
    x = np.random.default_rng(1).standard_normal((96, 3, 6, 6)).astype(np.float32)
    return [{"x": x[i : i + 8]} for i in range(0, 96, 8)]


def halved(work, *, cut=True):
    """A network of smaller weights, whose second convolution reads half its inputs."""
    weights = {}
    for name in ("w0", "w1"):
        array = 0.5 * np.array(work.layers[name].tensor.numpy())
        if cut and name == "w1":
            array[:, ::2] = 0
        weights[name] = array
    return Recovered(weights=weights)


def values(model, feeds, names):
    model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = [session.run(list(names), f) for f in feeds]
    return [np.concatenate([g[i] for g in got]) for i in range(len(names))]


def test_normalisations_get_the_moments_of_what_they_see(feeds):
    loaded = io.load(net(True))
    analyzer = analyze(loaded.model)
    work = Reconstruction(analyzer, feeds)
    found = repair(work, halved(work), work.judge())
    assert found.name == "re-estimate norms"
    assert set(found.statistics) == {"m0", "v0", "m1", "v1"}
    train = [f for f, held in zip(feeds, work.held, strict=True) if not held]
    apply_recovered(analyzer, found.recovered)
    model = io.to_proto(loaded.model)
    for tensor in model.graph.initializer:
        if tensor.name in found.statistics:
            tensor.CopyFrom(numpy_helper.from_array(found.statistics[tensor.name], tensor.name))
    file = {t.name: numpy_helper.to_array(t) for t in net(True).graph.initializer}
    dense = values(net(True), train, ["c0", "c1"])
    axes = (0, 2, 3)
    for k, seen in enumerate(values(model, train, ["c0", "c1"])):
        ratio = seen.var(axes) / dense[k].var(axes)
        variance = file[f"v{k}"] * ratio
        mean = seen.mean(axes) - (dense[k].mean(axes) - file[f"m{k}"]) * np.sqrt(ratio)
        np.testing.assert_allclose(found.statistics[f"m{k}"], mean, atol=1e-5)
        np.testing.assert_allclose(found.statistics[f"v{k}"], variance, rtol=1e-3)
    # Smaller weights alone are made up for in full.
    judge = work.judge()
    small = halved(work, cut=False)
    before = work.agreement(judge, small.weights, [])
    assert repair(work, small, judge).agreement.loss < 1e-3 * before.loss


def test_without_normalisations_moments_are_those_of_the_dense_network(feeds):
    loaded = io.load(net(False))
    analyzer = analyze(loaded.model)
    work = Reconstruction(analyzer, feeds)
    before = work.agreement(work.judge(), halved(work).weights, [])
    found = repair(work, halved(work), work.judge())
    assert found.name == "match moments"
    assert found.agreement.loss < before.loss
    train = [f for f, held in zip(feeds, work.held, strict=True) if not held]
    dense = values(net(False), train, ["c0", "c1"])
    apply_recovered(analyzer, found.recovered)
    for want, have in zip(
        dense, values(io.to_proto(loaded.model), train, ["c0", "c1"]), strict=True
    ):
        axes = (0, 2, 3)
        np.testing.assert_allclose(have.mean(axes), want.mean(axes), atol=1e-4)
        # The factor is shrunk and bounded, hence nearly, not exactly, the dense spread.
        np.testing.assert_allclose(have.std(axes), want.std(axes), rtol=0.25)
