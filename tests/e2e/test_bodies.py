"""Bodies of If, Loop and Scan: masks, costs, names, and what is frozen inside them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import SPECS
from graphs.feeds import random_feeds
from graphs.net import Net
from onnx import TensorProto, helper, numpy_helper
from prune_checks import close, run, weights

import onnxprune.api as onnxprune
from onnxprune.rules.analysis import analyze
from onnxprune.rules.bodies import unique_names
from onnxprune.rules.shapes import infer_shapes

LOOP, SCAN = "loop_of_a_written_out_cell", "scan_of_a_written_out_cell"


def arrays(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= arrays(attribute.g)
    return found


@pytest.mark.parametrize("name", [LOOP, SCAN, "if_branches_with_weights_of_their_own"])
@pytest.mark.parametrize("pattern", ["element", "2:4"])
def test_weights_in_bodies_get_masks(name: str, pattern: str) -> None:
    dense = SPECS[name].build()
    sparsity = None if pattern == "2:4" else 0.5
    result = onnxprune.prune(dense, pattern, sparsity)
    inner = [w for w in weights(dense) if w.startswith(("cell.w", "cell.r", "then.w", "else.w"))]
    assert len(inner) == 2
    before, after = arrays(dense.graph), arrays(result.model.graph)
    for w in inner:
        assert np.count_nonzero(after[w]) == before[w].size // 2
        kept = after[w] != 0
        np.testing.assert_array_equal(after[w][kept], before[w][kept])
    assert set(inner) <= set(result.plan.masks)
    run(result.model, random_feeds(dense))


def test_costs_count_every_run_of_a_body() -> None:
    for name in (LOOP, SCAN):
        facts = onnxprune.inspect(SPECS[name].build())
        steps, batch = 6, 2
        around = steps * batch * (5 * 12 + 8 * 4)
        cell = steps * batch * (12 * 32 + 8 * 32)
        assert facts["macs"] == around + cell
        named = {row["weight"]: row for row in facts["layers"]}
        assert named["cell.r"]["macs"] == steps * batch * 8 * 32
        assert facts["units"]["frozen"] == 4  # the outputs


def test_equal_names_in_two_branches_become_two_names() -> None:
    dense = SPECS["if_branches_with_weights_of_their_own"].build()
    result = onnxprune.prune(dense, "channel", 0.5)
    assert {"b", "b_1", "then.w", "else.w"} <= set(result.plan.kept)
    again = onnxprune.prune(dense, plan=result.plan)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(
        deterministic=True
    )
    model = ir.from_proto(dense)
    assert unique_names(model) > 0
    assert unique_names(model) == 0


def test_an_operator_without_rule_freezes_what_its_body_reads() -> None:
    """SequenceMap has a body and no rule: nothing inside or around it may go."""
    net = Net("sequence", 17)
    x = net.conv(net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="a")), 8, 6, name="b")
    net.weight(net.normal(6, 6, 1, 1), "inner.w")
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["e", "inner.w"], ["f"]),
            helper.make_node("Add", ["f", x], ["g"]),
        ],
        "each",
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 6, 8, 8])],
        [helper.make_tensor_value_info("g", TensorProto.FLOAT, [1, 6, 8, 8])],
    )
    listed = net.op("SequenceMap", net.op("SequenceConstruct", x, x), body=body)
    y = net.op("ConcatFromSequence", listed, axis=1)
    net.output(net.op("ReduceMax", y, axes=[1], keepdims=1), (1, 1, 8, 8))
    dense = net.model()
    result = onnxprune.prune(dense, "channel", 0.5)
    before, after = weights(dense), weights(result.model)
    assert after["inner.w"] == before["inner.w"] and after["b.b"] == before["b.b"]
    assert after["a.b"] == (4,)
    assert result.report["unsupported"]["SequenceMap"] == 1
    assert any("has no rule" in row["why"] for row in result.report["frozen"])
    masked = onnxprune.prune(dense, plan=result.plan, mask_only=True)
    feeds = random_feeds(dense)
    close(run(masked.model, feeds), run(result.model, feeds))


def test_shape_carried_through_a_loop() -> None:
    """Known where the body gives back what it was given; open where it grows."""
    dense = SPECS[LOOP].build()
    model = ir.from_proto(dense)
    infer_shapes(model)
    loop = next(n for n in model.graph if n.op_type == "Loop")
    assert [list(v.shape) for v in loop.outputs[:2]] == [[2, 8], [2, 8]]
    body = loop.attributes["body"].as_graph()
    assert list(body.inputs[2].shape) == [2, 8]

    net = Net("grows", 17)
    grow = helper.make_graph(
        [
            helper.make_node("Concat", ["h", "h"], ["h2"], axis=0),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "grow",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, None),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, None),
        ],
    )
    x = net.op("MatMul", net.input((2, 4)), net.weight(net.normal(4, 6), "w"))
    y = net.op("Loop", net.weight(np.array(2)), net.weight(np.array(True)), x, body=grow)
    net.output(net.op("MatMul", y, net.weight(net.normal(6, 3), "v")), ("N", 3))
    dense = net.model()
    model = ir.from_proto(dense)
    infer_shapes(model)
    loop = next(n for n in model.graph if n.op_type == "Loop")
    rows, columns = loop.outputs[0].shape
    assert columns == 6 and not isinstance(rows, int)
    result = onnxprune.prune(dense, "channel", 0.5)
    assert weights(result.model)["w"] == (4, 3)
    feeds = random_feeds(dense)
    masked = onnxprune.prune(dense, plan=result.plan, mask_only=True)
    close(run(masked.model, feeds), run(result.model, feeds))


def test_what_was_not_declared_stays_undeclared() -> None:
    dense = SPECS["loop_of_unknown_shapes_in_an_if"].build()
    result = onnxprune.prune(dense, "channel", 0.5)
    choice = next(n for n in result.model.graph.node if n.op_type == "If")
    inner = [node for attribute in choice.attribute for node in attribute.g.node]
    loop = next(n for n in inner if n.op_type == "Loop").attribute[0].g
    assert not loop.input[2].type.tensor_type.HasField("shape")
    assert loop.input[2].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_weight_is_no_weight_when_a_body_makes_it() -> None:
    """An If of constant operands whose branches read an activation is not made of constants."""
    net = Net("made", 17)
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="a"))
    branches = [
        helper.make_graph(
            [helper.make_node(op, [x], [f"{op}_y"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_y", TensorProto.FLOAT, [1, 8, 8, 8])],
        )
        for op in ("Neg", "Abs")
    ]
    y = net.op("If", net.weight(np.array(True)), then_branch=branches[0], else_branch=branches[1])
    net.head(y, 8)
    model = ir.from_proto(net.model())
    found = analyze(model)
    node = next(n for n in model.graph if n.op_type == "If")
    assert not found.is_weight(node.outputs[0])
