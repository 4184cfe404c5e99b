"""If, Loop and Scan: what goes in and comes out of a body is what the body's values are.

The nodes of a body are analysed like any other node, in the same space: an outer value that a body
captures is one value with one set of ids. What is left to say here is which value of the body is
which operand or result of the node.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx import GraphProto, TensorProto, helper, numpy_helper

from onnxprune.axes import Ids
from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.view import NodeView


def _graph(n: NodeView, name: str) -> ir.Graph:
    attr = n.node.attributes.get(name)
    if attr is None or attr.type != ir.AttributeType.GRAPH:
        raise GiveUp(f"{n.op} without {name}")
    return attr.as_graph()


def _meet(
    n: NodeView,
    inner: ir.Value,
    *,
    index: int | None = None,
    out: int | None = None,
    extra: int | None = None,
    why: str = "",
) -> None:
    """Tie a value of a body to an input or output of the node.

    Args:
        inner: the value in the body.
        index: the input it meets.
        out: the output it meets.
        extra: axis that only the outer value has; it is frozen, for the reason ``why``.
    """
    mine = n.dims(index) if index is not None else n.out_dims(out or 0)
    theirs = n.value_dims(inner)

    def outer(axis: int) -> Ids | None:
        return n.ids(index, axis) if index is not None else n.out_ids(axis, out or 0)

    if mine is None or theirs is None or len(mine) != len(theirs) + (extra is not None):
        for axis in range(len(mine or ())):
            n.freeze(outer(axis), f"meets a value of unknown rank in the body of {n.op}")
        for axis in range(len(theirs or ())):
            n.freeze(n.value_ids(inner, axis), "meets a value of unknown rank outside its body")
        return
    axis = 0
    for at in range(len(mine)):
        if at == extra:
            n.freeze(outer(at), why)
            continue
        n.link(outer(at), n.value_ids(inner, axis))
        axis += 1


def _tell(n: NodeView, index: int, dims: list[Any] | None) -> None:
    """Record the shape of output ``index`` where inference found none."""
    if index < n.n_outputs and n.out_dims(index) is None and dims is not None:
        n.learn(index, dims)


def if_(n: NodeView) -> None:
    """State what If does: its outputs are those of either branch."""
    n.freeze_input(0, "decides which branch runs")
    branches = [_graph(n, name) for name in ("then_branch", "else_branch")]
    if any(len(branch.outputs) != n.n_outputs for branch in branches):
        raise GiveUp("branches with another number of outputs than the node")
    for branch in branches:
        n.enter(branch)
    for out in range(n.n_outputs):
        inner = [branch.outputs[out] for branch in branches]
        if n.value_dims(inner[0]) == n.value_dims(inner[1]):
            _tell(n, out, n.value_dims(inner[0]))
        for value in inner:
            _meet(n, value, out=out)


def loop(n: NodeView) -> None:
    """State what Loop does: a carried value is one thing before, in and after the body."""
    body = _graph(n, "body")
    carried = n.n_inputs - 2
    if carried < 0 or len(body.inputs) != carried + 2 or len(body.outputs) < carried + 1:
        raise GiveUp("a body that does not fit the inputs of Loop")
    for index in (0, 1):
        if n.has(index):
            n.freeze_input(index, "decides how often the body runs")
    for value in (*body.inputs[:2], body.outputs[0]):
        n.freeze_value(value, "decides how often the body runs")
    trips = n.const(0) if n.has(0) else None
    n.enter(body, 1 if trips is None else max(int(trips.reshape(-1)[0]), 1))
    for k in range(carried):
        before, after = body.inputs[k + 2], body.outputs[k + 1]
        _tell(n, k, n.value_dims(after) if n.value_dims(before) == n.value_dims(after) else None)
        if n.has(k + 2):
            _meet(n, before, index=k + 2)
        else:
            n.freeze_value(before, "has no initial value")
        _same(n, before, after)
        if k < n.n_outputs:
            _meet(n, after, out=k)
    for out in range(carried, n.n_outputs):
        _meet(n, body.outputs[out + 1], out=out, extra=0, why="counts the runs of the body")


def _same(n: NodeView, before: ir.Value, after: ir.Value) -> None:
    """Tie a carried value at the start of a body to what it is at the end."""
    a, b = n.value_dims(before), n.value_dims(after)
    if a is None or b is None or len(a) != len(b):
        for value in (before, after):
            n.freeze_value(value, f"is carried through {n.op} with an unknown shape")
        return
    for axis in range(len(a)):
        n.link(n.value_ids(before, axis), n.value_ids(after, axis))


def scan(n: NodeView) -> None:
    """State what Scan does: states as in Loop; scanned values lose their axis inside."""
    if n.opset < 9:
        raise GiveUp("Scan before opset 9")
    body = _graph(n, "body")
    scanned = int(n.attr("num_scan_inputs", 0))
    states = n.n_inputs - scanned
    results = len(body.outputs) - states
    if states < 0 or results < 0 or len(body.inputs) != n.n_inputs:
        raise GiveUp("a body that does not fit the inputs of Scan")
    into = n.attr("scan_input_axes") or [0] * scanned
    onto = n.attr("scan_output_axes") or [0] * results
    length = 1
    for k in range(scanned):
        dims = n.dims(states + k)
        size = dims[n.axis(int(into[k]), len(dims))] if dims else None
        length = size if isinstance(size, int) else length
    n.enter(body, max(length, 1))
    for k in range(states):
        before, after = body.inputs[k], body.outputs[k]
        _meet(n, before, index=k)
        _same(n, before, after)
        if k < n.n_outputs:
            _meet(n, after, out=k)
    why = "is the axis that Scan runs along"
    for k in range(scanned):
        index = states + k
        axis = n.axis(int(into[k]), n.rank(index))
        _meet(n, body.inputs[index], index=index, extra=axis, why=why)
    for k in range(results):
        if states + k < n.n_outputs:
            inner = body.outputs[states + k]
            rank = len(n.value_dims(inner) or ()) + 1
            axis = n.axis(int(onto[k]), rank)
            _meet(n, inner, out=states + k, extra=axis, why=why)


# -- samples ------------------------------------------------------------------------------------


def _info(name: str, *dims: int, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def _branch(op: str, name: str) -> GraphProto:
    import numpy as np

    nodes = [
        helper.make_node("Identity", [f"{name}_c"], [f"{name}_x"]),
        helper.make_node(op, [f"{name}_x"], [f"{name}_y"]),
    ]
    held = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), f"{name}_c")
    return helper.make_graph(nodes, name, [], [_info(f"{name}_y", 3, 4)], [held])


def _loop_body() -> GraphProto:
    """h = tanh(h); also lists relu(h)."""
    nodes = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Tanh", ["h"], ["h_on"]),
        helper.make_node("Relu", ["h_on"], ["each"]),
    ]
    return helper.make_graph(
        nodes,
        "body",
        [
            _info("i", kind=TensorProto.INT64),
            _info("go", kind=TensorProto.BOOL),
            _info("h", 2, 4),
        ],
        [_info("go_on", kind=TensorProto.BOOL), _info("h_on", 2, 4), _info("each", 2, 4)],
    )


def _cell(*, product: bool = False) -> GraphProto:
    """s = s + x, or tanh((s + x) W); lists s."""
    import numpy as np

    nodes = [helper.make_node("Add", ["s", "x"], ["sum"])]
    held = []
    if product:
        w = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)
        held = [numpy_helper.from_array(w, "w")]
        nodes += [
            helper.make_node("MatMul", ["sum", "w"], ["z"]),
            helper.make_node("Tanh", ["z"], ["s_on"]),
        ]
    else:
        nodes += [helper.make_node("Identity", ["sum"], ["s_on"])]
    nodes += [helper.make_node("Neg", ["s_on"], ["y"])]
    return helper.make_graph(
        nodes,
        "cell",
        [_info("s", 2, 4), _info("x", 2, 4)],
        [_info("s_on", 2, 4), _info("y", 2, 4)],
        held,
    )


_B = {0: "bool"}
register(
    "If",
    if_,
    "outputs are those of either branch; bodies are followed",
    [
        Sample(
            ((),),
            {"then_branch": _branch("Neg", "a"), "else_branch": _branch("Tanh", "b")},
            dtypes=_B,
        )
    ],
    exact="exact inside bodies",
)
register(
    "Loop",
    loop,
    "carried values pass; results get an axis in front; the body is followed",
    [
        Sample(
            ((), (), (2, 4)),
            {"body": _loop_body()},
            {0: 3, 1: True},
            dtypes={0: "int64", 1: "bool"},
            outputs=2,
        )
    ],
    exact="exact inside bodies",
)
register(
    "Scan",
    scan,
    "states pass; scanned values lose their axis inside; the body is followed",
    [
        Sample(((2, 4), (5, 2, 4)), {"body": _cell(), "num_scan_inputs": 1}, outputs=2),
        Sample(
            ((2, 4), (2, 5, 4)),
            {
                "body": _cell(product=True),
                "num_scan_inputs": 1,
                "scan_input_axes": [1],
                "scan_output_axes": [-1],
                "scan_input_directions": [1],
            },
            outputs=2,
        ),
    ],
    exact="exact inside bodies",
)
