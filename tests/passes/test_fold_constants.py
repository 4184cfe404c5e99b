"""fold-constants: sizes are folded, weights are not."""

from __future__ import annotations

import numpy as np
import onnx
from graphs.net import Net
from onnx import helper, numpy_helper
from pass_checks import apply, same
from prune_checks import weights

import onnxprune.api as onnxprune
from onnxprune.passes.fold_constants import FoldConstants


def small_weights() -> onnx.ModelProto:
    net = Net("small")
    bias = net.op("Identity", net.weight(net.uniform(-1, 1, 8), "b"))
    x = net.op("Conv", net.input((1, 3, 8, 8)), net.weight(net.normal(8, 3, 1, 1), "w"), bias)
    offset = net.op("Mul", net.weight(net.uniform(-1, 1, 8, 1, 1), "c"), net.scalar(2.0))
    net.head(net.op("Add", net.relu(x), offset), 8)
    return net.model()


def test_a_small_weight_keeps_its_name():
    before = small_weights()
    after, _ = apply(FoldConstants(), before)
    assert weights(after) == weights(before)
    result = onnxprune.prune(before, "channel", 0.5)
    assert {"w", "b", "c"} <= set(result.plan.kept)
    assert weights(result.model)["b"] == (4,)


def test_arithmetic_on_sizes_is_folded():
    net = Net("sizes")
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="a"))
    half = net.op("Div", net.op("Gather", net.op("Shape", x), net.ints(1), axis=0), net.ints(2))
    x = net.op("Slice", x, net.ints(0), half, net.ints(1))
    scale = net.op(
        "Cast",
        net.op("Concat", net.ints(1, 1), net.op("Div", half, net.ints(2)), net.ints(2), axis=0),
        to=onnx.TensorProto.FLOAT,
    )
    x = net.op("Resize", x, "", scale)
    net.output(net.conv(x, 4, 2, name="b"))
    before = net.model()
    after, result = apply(FoldConstants(), before)
    same(before, after)
    assert result.modified
    kinds = {n.op_type for n in after.graph.node}
    assert kinds == {"Conv", "Relu", "Slice", "Resize"}


def test_domain_spelled_out_and_a_sum_over_one_axis():
    """A small matrix is no vector of sizes: its sum over one axis is still a vector."""
    net = Net("spelled", opset=18)
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="a"))
    total = net.op("ReduceSum", net.weight(net.normal(8, 8, 1, 1), "w"), net.ints(1), keepdims=1)
    net.output(net.op("Mul", x, net.op("Reshape", total, net.ints(8, 1, 1))))
    before = net.model()
    for node in before.graph.node:
        node.domain = "ai.onnx"
    del before.opset_import[:]
    before.opset_import.append(helper.make_opsetid("ai.onnx", 18))
    after, result = apply(FoldConstants(), before)
    assert result.modified and "ReduceSum" not in {n.op_type for n in after.graph.node}
    same(before, after)
    folded = [numpy_helper.to_array(t) for t in after.graph.initializer if "fold" in t.name]
    w = next(numpy_helper.to_array(t) for t in before.graph.initializer if t.name == "w")
    np.testing.assert_allclose(folded[0].reshape(-1), w.sum(axis=1).reshape(-1), rtol=1e-6)


def test_a_known_branch_may_give_the_result_of_another_branch():
    """Functions that are inlined bring If nodes whose results are those of the body they are in."""
    net = Net("branch in branch", opset=17)
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="a"))

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
        return helper.make_graph(list(nodes), name, [], [out])

    yes = branch("yes", helper.make_node("Neg", [x], ["y1"]))
    no = branch("no", helper.make_node("Abs", [x], ["y2"]))
    known = net.weight(np.array(False))
    inner = helper.make_node("If", [known], ["y3"], then_branch=yes, else_branch=no)
    other = branch("other", helper.make_node("Exp", [x], ["y4"]))
    flag = net.op("Greater", net.op("ReduceSum", x, keepdims=0), net.scalar(0.0))
    y = net.op("If", flag, then_branch=branch("outer", inner), else_branch=other)
    net.head(y, 8)
    before = net.model()
    after, result = apply(FoldConstants(), before)
    same(before, after)
    assert result.modified
    then = next(a.g for n in after.graph.node for a in n.attribute if a.name == "then_branch")
    assert [n.op_type for n in then.node] == ["Abs", "Identity"]


def test_masks_are_on_what_layers_multiply_by():
    """Weight standardisation is folded for them; arithmetic on sizes and on constants stays."""
    net = Net("standardised")
    raw = net.weight(net.normal(8, 3, 3, 3) + 0.3, "w")
    mean = net.op("ReduceMean", raw, axes=[1, 2, 3])
    x = net.relu(net.op("Conv", net.input((1, 3, 8, 8)), net.op("Sub", raw, mean)))
    size = net.op("Shape", x)
    x = net.op("Reshape", x, size)
    table = net.op("MatMul", net.weight(net.normal(6, 4), "t"), net.weight(net.normal(4, 6), "u"))
    net.head(net.op("Add", x, table), 8)
    before = net.model()
    result = onnxprune.prune(before, "element", 0.5)
    kinds = [n.op_type for n in result.model.graph.node]
    assert [k for k in ("Sub", "ReduceMean") if k in kinds] == []
    assert "Shape" in kinds and "MatMul" in kinds
    held = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    conv = next(n for n in result.model.graph.node if n.op_type == "Conv")
    weight = held[conv.input[1]]
    assert np.count_nonzero(weight) == weight.size // 2
    kept, dense = weight[weight != 0], weights_of(before)
    np.testing.assert_allclose(kept, dense[weight != 0], rtol=1e-5)


def weights_of(model):
    raw = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")
    return raw - raw.mean(axis=(1, 2, 3), keepdims=True)
