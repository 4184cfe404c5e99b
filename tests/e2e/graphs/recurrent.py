"""Recurrent layers, and recurrent cells written out in a Scan or a Loop."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .net import Net
from .register import graph

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _value(name: str, *dims: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def layer(
    net: Net, kind: str, x: str, width: int, hidden: int, name: str, ways: int = 1, **more: str
) -> tuple[str, ...]:
    """One recurrent layer; ``more``: names of the optional inputs, and attributes."""
    g = GATES[kind]
    inputs = [
        x,
        net.weight(net.normal(ways, g * hidden, width, fan_in=width), f"{name}.w"),
        net.weight(net.normal(ways, g * hidden, hidden, fan_in=2 * hidden), f"{name}.r"),
        net.weight(net.uniform(-0.5, 0.5, ways, 2 * g * hidden), f"{name}.b"),
        more.pop("lens", ""),
        more.pop("h", ""),
    ]
    if kind == "LSTM":
        inputs += [more.pop("c", ""), more.pop("p", "")]
    while not inputs[-1]:
        inputs.pop()
    direction = "bidirectional" if ways == 2 else "forward"
    return net.op(
        kind,
        *inputs,
        outs=3 if kind == "LSTM" else 2,
        hidden_size=hidden,
        direction=more.pop("direction", direction),
        **more,
    )


def _joined(net: Net, y: str, width: int) -> str:
    """[t, ways, b, h] to [t, b, ways * h], as torch writes it."""
    moved = net.op("Transpose", y, perm=[0, 2, 1, 3])
    return net.op("Reshape", moved, net.ints(0, 0, width))


def _dense(net: Net, width: int = 12) -> str:
    """A dense layer on [t, b, 5]; its units can go."""
    x = net.input((6, 2, 5))
    y = net.op("MatMul", x, net.weight(net.normal(5, width, fan_in=5), "in.w"))
    return net.op("Tanh", net.op("Add", y, net.weight(net.uniform(-1, 1, width), "in.b")))


def _logits(net: Net, y: str, width: int, dims: tuple[int, ...] | None = None) -> None:
    net.output(net.op("MatMul", y, net.weight(net.normal(width, 4, fan_in=width), "out.w")), dims)


@graph(shrinks="in.w one.w one.r one.b two.w two.r out.w", opset=17)
def lstm_stacked_both_ways(net: Net) -> None:
    """Two bidirectional LSTMs with initial states and peepholes."""
    state = net.weight(net.uniform(-1, 1, 2, 2, 8), "h0")
    cell = net.weight(net.uniform(-1, 1, 2, 2, 8), "c0")
    peep = net.weight(net.uniform(-1, 1, 2, 24), "peep")
    y = layer(net, "LSTM", _dense(net), 12, 8, "one", 2, h=state, c=cell, p=peep)[0]
    y = layer(net, "LSTM", _joined(net, y, 16), 16, 6, "two", 2)[0]
    _logits(net, _joined(net, y, 12), 12)


@graph(shrinks="in.w one.w one.r two.w two.r out.w", opset=17)
def gru_stacked(net: Net) -> None:
    """Two GRUs of either convention, the second backwards; lengths of the sequences are given."""
    lens = net.weight(np.array([6, 4], np.int32), "lens")
    y = layer(net, "GRU", _dense(net), 12, 8, "one", lens=lens, linear_before_reset=1)[0]
    y = net.op("Squeeze", y, net.ints(1))
    y = layer(net, "GRU", y, 8, 6, "two", direction="reverse", linear_before_reset=0)[0]
    _logits(net, net.op("Squeeze", y, net.ints(1)), 6)


@graph(shrinks="in.w one.w one.r out.w", opset=17)
def rnn_last_state(net: Net) -> None:
    """An RNN of which only the last state is read."""
    _, last = layer(net, "RNN", _dense(net), 12, 8, "one", activations=["Relu"])
    _logits(net, net.op("Squeeze", last, net.ints(0)), 8)


@graph(shrinks="in.w enc.w enc.r dec.w dec.r out.w", opset=17)
def encoder_decoder(net: Net) -> None:
    """A decoder that starts from the encoder's last state; both have one hidden axis."""
    _, h, c = layer(net, "LSTM", _dense(net), 12, 8, "enc")
    y = layer(net, "LSTM", net.input((3, 2, 4), "z"), 4, 8, "dec", h=h, c=c)[0]
    _logits(net, net.op("Squeeze", y, net.ints(1)), 8)


def _cell(hidden: int) -> list[onnx.NodeProto]:
    """An LSTM cell as a framework writes it out: h, c, x to h2, c2."""
    return [
        helper.make_node("MatMul", ["x_t", "cell.w"], ["xw"]),
        helper.make_node("MatMul", ["h", "cell.r"], ["hr"]),
        helper.make_node("Add", ["xw", "hr"], ["pre"]),
        helper.make_node("Add", ["pre", "cell.b"], ["gates"]),
        helper.make_node("Split", ["gates"], ["i0", "f0", "g0", "o0"], axis=-1),
        helper.make_node("Sigmoid", ["i0"], ["i"]),
        helper.make_node("Sigmoid", ["f0"], ["f"]),
        helper.make_node("Tanh", ["g0"], ["g"]),
        helper.make_node("Sigmoid", ["o0"], ["o"]),
        helper.make_node("Mul", ["f", "c"], ["fc"]),
        helper.make_node("Mul", ["i", "g"], ["ig"]),
        helper.make_node("Add", ["fc", "ig"], ["c2"]),
        helper.make_node("Tanh", ["c2"], ["tc"]),
        helper.make_node("Mul", ["o", "tc"], ["h2"]),
        helper.make_node("Identity", ["h2"], ["y_t"]),
    ]


def _cell_weights(net: Net, width: int, hidden: int) -> None:
    net.weight(net.normal(width, 4 * hidden, fan_in=width), "cell.w")
    net.weight(net.normal(hidden, 4 * hidden, fan_in=hidden), "cell.r")
    net.weight(net.uniform(-1, 1, 4 * hidden), "cell.b")


@graph(shrinks="in.w cell.w cell.r cell.b out.w", opset=17)
def scan_of_a_written_out_cell(net: Net) -> None:
    """An LSTM cell in a Scan; its weights are captured, its states start at zero."""
    x = _dense(net)
    _cell_weights(net, 12, 8)
    body = helper.make_graph(
        _cell(8),
        "cell",
        [_value("h", 2, 8), _value("c", 2, 8), _value("x_t", 2, 12)],
        [_value("h2", 2, 8), _value("c2", 2, 8), _value("y_t", 2, 8)],
    )
    zeros = [net.weight(np.zeros((2, 8), np.float32), name) for name in ("h0", "c0")]
    ys = net.op("Scan", *zeros, x, outs=3, body=body, num_scan_inputs=1)
    _logits(net, ys[2], 8)


@graph(shrinks="in.w cell.w cell.r cell.b out.w", opset=17)
def loop_of_a_written_out_cell(net: Net) -> None:
    """The same in a Loop that gathers its input by the counter; weights in the body."""
    ys = _looped_cell(net, None)
    _logits(net, ys[2], 8, (6, 2, 4))


@graph(shrinks="in.w cell.w cell.r cell.b out.w", opset=17)
def loop_whose_body_declares_shapes(net: Net) -> None:
    """The last state is read, whose shape only the body's declarations tell, as tf2onnx writes."""
    ys = _looped_cell(net, ["rows", 8])
    _logits(net, ys[0], 8, (2, 4))


def _looped_cell(net: Net, dims: list[int | str] | None) -> tuple[str, ...]:
    """A Loop of six runs of a cell; ``dims``: of the carried values as the body declares them."""
    x = _dense(net)
    held = Net("held")
    _cell_weights(held, 12, 8)
    body = helper.make_graph(
        [
            helper.make_node("Gather", [x, "i"], ["x_t"], axis=0),
            *(n for n in _renamed(_cell(8))),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "cell",
        [
            _value("i", kind=TensorProto.INT64),
            _value("go", kind=TensorProto.BOOL),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, dims),
            helper.make_tensor_value_info("c", TensorProto.FLOAT, dims),
        ],
        [
            _value("go_on", kind=TensorProto.BOOL),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, dims),
            helper.make_tensor_value_info("c2", TensorProto.FLOAT, dims),
            helper.make_tensor_value_info("y_t", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(array, name) for name, array in held.weights.items()],
    )
    trips, go = net.weight(np.array(6, np.int64)), net.weight(np.array(True))
    zeros = [net.weight(np.zeros((2, 8), np.float32), name) for name in ("h0", "c0")]
    return net.op("Loop", trips, go, *zeros, outs=3, body=body)


def _renamed(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``i`` is the counter of a Loop."""
    for node in nodes:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = "gate_i" if name == "i" else name
    return nodes
