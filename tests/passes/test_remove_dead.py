"""remove-dead: what goes, what is folded, what stays and why; outputs against onnxruntime."""

from __future__ import annotations

import dead_nets as nets
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from pass_checks import apply, array, same, shape
from random_graphs import Case, cases

import onnxprune.api as onnxprune
from onnxprune import io
from onnxprune.errors import UsageError
from onnxprune.passes.base import PASSES, Context
from onnxprune.passes.remove_dead import RemoveDead

PADDED = "zero padding makes the border differ from the inside"


def removed(result) -> dict[str, int]:
    return {g["name"].split(".")[0]: g["removed"] for g in result.stats["groups"]}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_constants_are_folded_where_nothing_is_padded(kernel, bias):
    before = nets.chain(kernel, 0, bias)
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert removed(result) == {"a": 3} and result.stats["folded"] == 2
    assert shape(after, "a.w")[0] == shape(after, "bn.scale")[0] == shape(after, "b.w")[1] == 5
    assert result.stats["left"] == []
    if bias:
        assert shape(after, "b.b") == (6,)
    else:
        assert len(after.graph.node[3].input) == 3, "a bias was made"


@pytest.mark.parametrize("padding", [{"pads": [1] * 4}, {"auto_pad": "SAME_UPPER"}])
def test_constants_stay_behind_zero_padding(padding):
    before = nets.chain(3, 1)
    conv = next(n for n in before.graph.node if n.name == "b")
    kept = [a for a in conv.attribute if a.name != "pads"]
    del conv.attribute[:]
    conv.attribute.extend(kept)
    conv.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in padding.items())
    after, result = apply(RemoveDead(), before)
    same(before, after, limit=1e-6)
    assert removed(result) == {"a": 1} and result.stats["folded"] == 0
    assert shape(after, "a.w")[0] == 7
    left = result.stats["left"]
    assert [(r["units"], r["where"], r["why"]) for r in left] == [(2, "Conv b", PADDED)]


def test_without_folding_only_zeros_go():
    before = nets.chain(1)
    after, result = apply(RemoveDead(fold=False), before)
    same(before, after, limit=1e-6)
    assert removed(result) == {"a": 1} and result.stats["left"] == []


def test_residual_stream_needs_all_its_makers_dead():
    before = nets.residual((2, 5))
    after, result = apply(RemoveDead(), before)
    same(before, after, {"n": 1}, {"n": 3})
    assert removed(result) == {"a": 2}
    assert shape(after, "a.w") == (6, 3, 1, 1) and shape(after, "b.w") == (6, 6, 1, 1)
    before = nets.residual((2, 5), second=(5, 7))
    after, result = apply(RemoveDead(), before)
    same(before, after, {"n": 2})
    assert removed(result) == {"a": 1}


@pytest.mark.parametrize(
    ("pads", "bias", "gone", "stays"), [(0, 0.7, 2, 0), (1, -1.0, 2, 0), (1, 0.7, 0, 2)]
)
def test_depthwise_chain(pads, bias, gone, stays):
    """A depth-wise layer passes constants on; padding spoils those that are not zero."""
    before = nets.depthwise(pads, bias)
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert result.stats["units"] == gone
    if gone:
        group = next(
            a.i for n in after.graph.node if n.name == "d" for a in n.attribute if a.name == "group"
        )
        assert group == shape(after, "d.w")[0] == shape(after, "c.w")[1] == 4
    assert shape(after, "a.w")[0] == 6 - gone
    assert stays == 6 - gone - 4


def test_squeeze_excite():
    before = nets.excite()
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert removed(result) == {"a": 2, "s1": 1}
    assert shape(after, "s2.w")[:2] == (6, 3)


@pytest.mark.parametrize("channels_last", [False, True])
def test_flatten_reaches_every_pixel(channels_last):
    before = nets.flatten(channels_last)
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert removed(result) == {"a": 2} and result.stats["folded"] == 1
    assert shape(after, "fc.w") == (16, 7)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_matmul_gets_its_bias_from_an_add(add, left):
    before = nets.matmul(add, left=left)
    after, result = apply(RemoveDead(), before)
    same(before, after, *([{}] if left else [{"n": 1}, {"n": 4}]))
    assert result.stats["units"] == 3
    adds = sum(n.op_type == "Add" for n in after.graph.node)
    assert adds == 2
    assert [n.name for n in before.graph.node] == [
        n.name for n in after.graph.node if n.name in {m.name for m in before.graph.node}
    ]


def test_concat_and_split():
    before = nets.concat_split()
    after, result = apply(RemoveDead(), before)
    same(before, after)
    # Unit 3 of ``a`` is the only one that ``q`` reads: a group of its own, and so it stays.
    assert removed(result) == {"a": 1, "b": 2}
    assert shape(after, "p.w")[1] == 2 and shape(after, "q.w")[1] == 5


def test_grouped_convolution_keeps_its_groups_equal():
    before = nets.grouped()
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert removed(result) == {"a": 1}
    assert shape(after, "a.w")[0] == 6 and shape(after, "g.w") == (6, 3, 3, 3)


def test_shuffled_unit_of_different_constants():
    before = nets.shuffle()
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert result.stats["folded"] == 1 and shape(after, "a.w")[0] == 6


def test_units_nobody_listens_to():
    before = nets.mirrored()
    after, result = apply(RemoveDead(), before)
    same(before, after, {"h": 8, "w": 9}, {"n": 2, "h": 5, "w": 4}, limit=1e-6)
    assert removed(result) == {"a": 1, "b": 2} and result.stats["folded"] == 0


@pytest.mark.parametrize("extra", [False, True])
def test_shared_bias_is_cloned(extra):
    before = nets.shared_bias(extra)
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert result.stats["folded"] == 2
    np.testing.assert_array_equal(array(after, "shared"), array(before, "shared"))


def test_half_precision():
    before = nets.half()
    after, result = apply(RemoveDead(), before)
    same(before, after, limit=2e-2)
    assert result.stats["units"] == 3
    assert array(after, "b.b").dtype == np.float16


def test_one_unit_of_a_group_stays():
    before = nets.chain(1)
    for tensor in before.graph.initializer:
        if tensor.name == "a.w":
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), "a.w"))
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert shape(after, "a.w")[0] == 1
    assert "at least one unit of a group stays" in {r["why"] for r in result.stats["left"]}


def test_frozen_units_stay():
    before = nets.chain(1)
    name = before.graph.node[2].output[0]
    before.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 8, 8, 8))
    )
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert not result.modified and shape(after, "a.w")[0] == 8


def test_scale_of_zero_is_a_dead_unit():
    """What training with a penalty on BN scales leaves behind (Liu et al., 2017)."""
    before = nets.chain(1)
    rng = np.random.default_rng(0)
    for tensor in before.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if tensor.name == "a.w":
            value = rng.standard_normal(value.shape).astype(np.float32)
        if tensor.name == "bn.scale":
            value[[0, 2]] = 0
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert removed(result) == {"a": 2}


def pooled(**attributes) -> onnx.ModelProto:
    net = nets.Net("pooled")
    x = net.relu(net.conv(net.input((1, 3, 9, 9)), 3, 6, 1, name="a"))
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], **attributes)
    net.head(net.conv(x, 6, 4, 1, name="c"), 4)
    net.weights["a.w"][[1, 3]] = 0
    net.weights["a.b"][[1, 3]] = [0.5, -0.5]
    return net.model()


@pytest.mark.parametrize(
    ("attributes", "gone"),
    [
        ({}, 2),
        ({"pads": [1] * 4, "count_include_pad": 0}, 2),
        ({"pads": [1] * 4, "count_include_pad": 1}, 1),
        ({"ceil_mode": 1}, 2),
        ({"pads": [0, 0, 1, 1], "ceil_mode": 1, "count_include_pad": 1}, 1),
    ],
)
def test_pooling_that_counts_padding_makes_borders(attributes, gone):
    before = pooled(**attributes)
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert result.stats["units"] == gone


def test_element_pruned_network(shared_data):
    """ResNet-20 at 95 %: filters died; they go, and nothing else changes."""
    model = onnx.load(shared_data / "cifar10_resnet20_jpegft" / "model.onnx")
    before = onnxprune.prune(model, "element", 0.95, proof=False).model
    after, result = apply(RemoveDead(), before)
    same(before, after, {"batch": 2}, {"batch": 3})
    assert result.stats["units"] > 5
    assert after.ByteSize() < before.ByteSize()


def test_deep_compression_left_a_dead_channel(shared_data):
    before = onnx.load(shared_data / "imagenet_squeezenet10_dc" / "model.onnx")
    after, result = apply(RemoveDead(), before)
    same(before, after)
    assert result.stats["units"] == 1


def test_unknown_option():
    with pytest.raises(UsageError, match="has no option 'folded'"):
        PASSES.get("remove-dead").from_options({"folded": True})


def test_the_analysis_of_an_earlier_pass_is_dropped():
    context = Context(facts={"analysis": object()})
    RemoveDead().run(io.load(nets.chain(1)).model, context)
    assert "analysis" not in context.facts


def silenced(model: onnx.ModelProto, seed: int, rate: float) -> onnx.ModelProto:
    """The model with filters, input slices and normalisation scales zeroed at random."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    rng = np.random.default_rng(seed)
    constants = [
        a.t
        for n in model.graph.node
        if n.op_type == "Constant"
        for a in n.attribute
        if a.name == "value"
    ]
    for tensor in (*model.graph.initializer, *constants):
        value = numpy_helper.to_array(tensor).copy()
        if value.dtype != np.float32 or value.size < 2:
            continue
        if value.ndim > 1:
            for axis in (0, 1):
                value[
                    (slice(None),) * axis + (rng.random(value.shape[axis]) < rate / (1 + axis),)
                ] = 0
        elif rng.random() < 0.3:
            value[rng.random(len(value)) < rate / 2] = 0
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


@settings(max_examples=12 if settings().derandomize else settings().max_examples)
@given(case=cases(), seed=st.integers(0, 10**6), rate=st.sampled_from([0.3, 0.6, 0.9]))
def test_random_networks_with_silenced_filters(case: Case, seed: int, rate: float) -> None:
    before = silenced(case.model, seed, rate)
    after, _ = apply(RemoveDead(), before)
    same(before, after, case.sizes, *([case.other] if case.other else []), limit=1e-4, seed=seed)
