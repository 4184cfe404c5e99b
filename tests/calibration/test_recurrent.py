"""Recurrent layers: what their weights multiply, against steps written out in numpy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration.grams import Sums
from onnxprune.calibration.inputs import inputs_of
from onnxprune.calibration.operands import Operand, find_operand
from onnxprune.calibration.stages import Stages, Stream
from onnxprune.patterns import parse_pattern
from onnxprune.planning import find_layers
from onnxprune.recovery.apply import Reconstruction
from onnxprune.recovery.solve_layers import solve_layers
from onnxprune.rules.analysis import analyze
from onnxprune.rules.shapes import infer_shapes

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
WAYS = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}
T, B, D, H = 6, 3, 4, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(op, x, h, c, w, r, b, after):
    """One step of one direction: the new state and cell (ONNX's definitions of the operators)."""
    wb, rb = np.split(b, 2)
    if op == "RNN":
        return np.tanh(x @ w.T + h @ r.T + wb + rb), c
    if op == "LSTM":
        i, o, f, g = np.split(x @ w.T + h @ r.T + wb + rb, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    xz, xr, xh = np.split(x @ w.T + wb, 3, axis=-1)
    hz, hr, hh = np.split(h @ r.T + rb, 3, axis=-1)
    z, reset = sigmoid(xz + hz), sigmoid(xr + hr)
    kept = reset * hh if after else (reset * h) @ r[2 * H :].T + rb[2 * H :]
    new = np.tanh(xh + kept)
    return (1 - z) * new + z * h, c


def seen(op, x, initial, lens, w, r, b, ways, after=1):
    """For every direction the inputs and the states before each step, as rows, time first."""
    xs, hs = [], []
    for way, turn in enumerate(ways):
        at = np.zeros((T, B, H))
        for k in range(B):
            h, c = initial[way, k], np.zeros(H)
            for t in range(lens[k])[::turn]:
                at[t, k] = h
                h, c = step(op, x[t, k], h, c, w[way], r[way], b[way], after)
        valid = np.arange(T)[:, None] < lens
        xs.append(x[valid])
        hs.append(at[valid])
    return np.stack(xs), np.stack(hs)


def net(op, direction, *, lens=False, start="none", outputs="y", after=1, seed=0):
    """A recurrent layer behind a Tanh, its values, and a feed."""
    rng = np.random.default_rng(seed)
    ways = WAYS[direction]
    d, g = len(ways), GATES[op]
    held = {
        "w": rng.standard_normal((d, g * H, D)),
        "r": rng.standard_normal((d, g * H, H)),
        "b": rng.standard_normal((d, 2 * g * H)),
    }
    x = rng.standard_normal((T, B, D)).astype(np.float32)
    feed, inputs = {"x": x}, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [T, B, D])]
    names = ["a", "w", "r", "b", "", ""]
    lengths = np.full(B, T)
    if lens:
        lengths = np.array([T, 2, 4], np.int32)
        names[4], feed["lens"] = "lens", lengths
        inputs.append(helper.make_tensor_value_info("lens", TensorProto.INT32, [B]))
    initial = np.zeros((d, B, H))
    if start != "none":
        initial = rng.standard_normal((d, B, H))
        names[5] = "h"
        if start == "constant":
            held["h"] = initial
        else:
            feed["h"] = initial.astype(np.float32)
            inputs.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [d, B, H]))
    made = ["y", "last"] if outputs == "y" else ["", "last"]
    more = {"linear_before_reset": after} if op == "GRU" else {}
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node(op, names, made, op, hidden_size=H, direction=direction, **more),
    ]
    graph = helper.make_graph(
        nodes, "g", inputs,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in made if n],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in held.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = ir.from_proto(proto)
    infer_shapes(model)
    inner = np.tanh(x.astype(np.float64))
    want = seen(op, inner, initial, lengths, held["w"], held["r"], held["b"], ways, after)
    return analyze(model), feed, want


CASES = [
    (op, direction, lens, start, outputs)
    for op in GATES
    for direction, lens, start, outputs in [
        ("forward", False, "none", "y"),
        ("reverse", True, "input", "y"),
        ("bidirectional", False, "constant", "last"),
        ("bidirectional", True, "constant", "y"),
        ("bidirectional", True, "none", "last"),
    ]
]


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize(("op", "direction", "lens", "start", "outputs"), CASES)
def test_columns_are_those_of_the_steps_written_out(op, direction, lens, start, outputs, after):
    analyzer, feed, want = net(op, direction, lens=lens, start=start, outputs=outputs, after=after)
    stages = Stages(analyzer.model)
    layers = find_layers(analyzer)
    assert len(layers) == 2
    for layer, rows in zip(layers, want, strict=True):
        operand = find_operand(analyzer, layer)
        assert isinstance(operand, Operand), operand
        stream = Stream(stages, [feed, feed])
        stream.advance(stages.place_of(layer.node))
        arrays = inputs_of(stream, operand)
        assert len(arrays) == 2 and operand.count(arrays[0]) == rows.shape[1]
        columns = operand.columns(arrays[0], None)
        np.testing.assert_allclose(columns, rows.transpose(0, 2, 1), atol=1e-5)
        sums = Sums()
        sums.add(columns)
        gram = sums.result().raw().gram
        np.testing.assert_allclose(gram, np.einsum("gni,gnj->gij", rows, rows), atol=1e-3)
        assert operand.matrix(np.asarray(layer.tensor.numpy())).shape[:1] == columns.shape[:1]
        some = operand.positions(arrays[0], 5, np.random.default_rng(0))
        assert np.array_equal(operand.columns(arrays[0], some), columns[..., some])


@pytest.mark.parametrize("name", ["w", "r"])
@pytest.mark.parametrize("op", list(GATES))
def test_masked_weights_are_the_least_squares_of_what_they_multiply(op, name):
    """On a given mask numpy's lstsq on the steps written out leaves as much of the targets."""
    whole, _, _ = net(op, "bidirectional")
    rng = np.random.default_rng(3)
    mix = np.eye(D) + 0.8 * rng.standard_normal((D, D))  # inputs that can stand in for another
    weights = {n: np.asarray(whole.tensor(whole.by_name[n]).numpy()) for n in "wrb"}
    feeds, rows = [], []
    for _ in range(24):
        x = (rng.standard_normal((T, B, D)) @ mix).astype(np.float32)
        feeds.append({"x": x})
        at = seen(op, np.tanh(x), np.zeros((2, B, H)), np.full(B, T), *weights.values(), [1, -1])
        rows.append(at["wr".index(name)])
    work = Reconstruction(whole, feeds)
    seen_rows = np.concatenate(
        [x for x, held in zip(rows, work.held, strict=True) if not held], axis=1
    )
    mask = rng.random(weights[name].shape) < 0.5
    found = solve_layers(work, {name: mask}, parse_pattern("element"), method="given").weights[name]
    assert not found[~mask].any()
    for way in range(2):
        x = seen_rows[way]
        least = zeroed = 0.0
        goal = x @ weights[name][way].T
        for row, keep in enumerate(mask[way]):
            best = np.linalg.lstsq(x[:, keep], goal[:, row], rcond=None)[0]
            least += np.square(x[:, keep] @ best - goal[:, row]).sum()
            zeroed += np.square(x[:, keep] @ weights[name][way, row, keep] - goal[:, row]).sum()
        left = np.square(x @ found[way].T - goal).sum()
        assert left <= 1.005 * least and least < 0.995 * zeroed, (left, least, zeroed)


def test_the_state_is_that_of_the_weights_a_stream_holds():
    """A pruned W changes what R sees."""
    analyzer, feed, _ = net("LSTM", "forward")
    work = Reconstruction(analyzer, [feed])
    operand = find_operand(analyzer, work.layers["r"])
    stream = Stream(work.stages, [feed])
    stream.advance(1)
    dense = inputs_of(stream, operand)[0]
    work.dress(stream, {"w": np.zeros_like(work.layers["w"].tensor.numpy())}, [])
    thin = inputs_of(stream, operand)[0]
    _, _, want = net("LSTM", "forward")
    np.testing.assert_allclose(dense, want[1][0], atol=1e-5)
    assert np.abs(dense - thin).max() > 0.1
    np.testing.assert_array_equal(thin[:B], 0)


def test_a_layer_beside_shares_no_statistics_with_directions_or_states():
    """A MatMul on the same value has one group, another layer's state is another."""
    rng = np.random.default_rng(5)
    held = {"m": (D, 7)}
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "m"], ["y0"]),
    ]
    for i, direction in enumerate(["bidirectional", "forward", "forward"], 1):
        ways = len(WAYS[direction])
        held |= {f"w{i}": (ways, 3 * H, D), f"r{i}": (ways, 3 * H, H)}
        nodes.append(
            helper.make_node(
                "GRU", ["a", f"w{i}", f"r{i}"], [f"y{i}"], hidden_size=H, direction=direction
            )
        )
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [T, B, D])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(4)],
        [numpy_helper.from_array(rng.random(s, np.float32), n) for n, s in held.items()],
    )
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    infer_shapes(model)
    feeds = [{"x": rng.standard_normal((T, B, D)).astype(np.float32)} for _ in range(3)]
    work = Reconstruction(analyze(model), feeds)
    grams = {}
    for name in ("m", "w1", "w2", "r2", "r3"):
        layer = work.layers[name]
        stream = Stream(work.stages, feeds)
        stream.advance(work.stages.place_of(layer.node))
        grams[name] = work.statistics(find_operand(work.analyzer, layer), stream, stream)[0].gram
    assert [len(g) for g in grams.values()] == [1, 2, 1, 1, 1]
    np.testing.assert_allclose(grams["w1"][1], grams["m"][0], atol=1e-5)
    assert np.abs(grams["r2"] - grams["r3"]).max() > 1e-3
