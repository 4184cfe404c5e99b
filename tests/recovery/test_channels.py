"""Channels by samples: who reads them, which go, how many, and what training gives back."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.allocation.base import admissible
from onnxprune.criteria import parse_criterion
from onnxprune.planning import SelectOptions
from onnxprune.planning.structure import score_groups, select_structure
from onnxprune.recovery.apply import Reconstruction
from onnxprune.recovery.apply_levels import Sensitivity
from onnxprune.recovery.apply_structure import recover_structure
from onnxprune.recovery.channel_levels import divide_units, measure_groups
from onnxprune.recovery.channels import Channels
from onnxprune.recovery.structured import total_error
from onnxprune.rules.analysis import analyze

RNG = np.random.default_rng


def weight(rng, *shape):
    return (rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))).astype(np.float32)


def residual_net(seed=0, opset=17, classes=5):
    """Stem, two residual blocks (one with a grouped convolution), pooling, classifier."""
    rng = RNG(seed)
    weights = {
        "w0": weight(rng, 12, 3, 3, 3), "b0": weight(rng, 12, 1)[:, 0],
        "w1": weight(rng, 16, 12, 3, 3), "w2": weight(rng, 12, 16, 3, 3),
        "b2": weight(rng, 12, 1)[:, 0],
        "w3": weight(rng, 16, 12, 1, 1), "w4": weight(rng, 12, 8, 3, 3),
        "fc": weight(rng, classes, 12), "fb": weight(rng, classes, 1)[:, 0],
    }  # fmt: skip
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], **pads),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], **pads),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], **pads),
        helper.make_node("Add", ["c2", "r0"], ["a2"]),
        helper.make_node("Relu", ["a2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"]),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("Conv", ["r3", "w4"], ["c4"], group=2, **pads),
        helper.make_node("Add", ["c4", "r2"], ["a4"]),
        helper.make_node("Relu", ["a4"], ["r4"]),
        helper.make_node("GlobalAveragePool", ["r4"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc", "fb"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def samples(count=192, seed=1):
    base = RNG(seed).standard_normal((count, 3, 4, 4))
    return np.repeat(np.repeat(base, 2, 2), 2, 3).astype(np.float32)  # smooth, like images


def feeds_of(array, batch=16):
    return [{"x": array[i : i + batch]} for i in range(0, len(array), batch)]


@pytest.fixture(scope="module")
def channels():
    analyzer = analyze(io.load(residual_net()).model)
    scored, _ = score_groups(analyzer, parse_criterion("l1"), 0)
    return Channels(Reconstruction(analyzer, feeds_of(samples())), scored)


def run(model, array, outputs=None):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, {"x": array})


def test_readers_and_their_columns(channels):
    """A zeroed column is a zeroed input: each unit's columns against zeroing the unit itself."""
    names = {s.name: g for g, s in enumerate(channels.scored)}
    assert sorted(len(r) for r in channels.reading) == [1, 1, 3]  # the stream is read by three
    for group in names.values():
        for reading in channels.reading[group]:
            layer = reading.operand.layer
            array = np.asarray(layer.tensor.numpy())
            unit = 1
            gone = np.where(reading.unit_of == unit, 0.0, 1.0)[:, None, :]
            cut = reading.operand.unmatrix(reading.operand.matrix(array) * gone)
            source = reading.operand.source
            probe = residual_net()
            probe.graph.output.extend(
                [
                    helper.make_empty_tensor_value_info(n)
                    for n in (source, layer.node.outputs[0].name)
                ]
            )
            inner, _ = run(probe, samples(4), [source, layer.node.outputs[0].name])
            label = channels.scored[group].group.labels[unit]
            ids = channels.work.analyzer.space.keys[
                (layer.node.inputs[0], None, 1)
            ]  # of the layer's input channels
            off = channels.work.analyzer.partition.labels[ids] == label
            assert off.any()
            inner[:, off] = 0
            node = onnx.NodeProto()
            node.CopyFrom(
                next(n for n in probe.graph.node if layer.node.outputs[0].name in n.output)
            )
            single = helper.make_model(
                helper.make_graph(
                    [node], "one",
                    [helper.make_tensor_value_info(source, TensorProto.FLOAT, None)],
                    [helper.make_empty_tensor_value_info(node.output[0])],
                    [t for t in probe.graph.initializer if t.name in node.input],
                ),
                opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
            )  # fmt: skip

            def out(model, value, source=source):
                session = ort.InferenceSession(
                    model.SerializeToString(), providers=["CPUExecutionProvider"]
                )
                return session.run(None, {source: value})[0]

            want = out(single, inner)
            for tensor in single.graph.initializer:
                if tensor.name == layer.value.name:
                    tensor.CopyFrom(numpy_helper.from_array(cut.astype(np.float32), tensor.name))
            whole, _ = run(probe, samples(4), [source, layer.node.outputs[0].name])
            np.testing.assert_allclose(out(single, whole), want, atol=1e-5)


def test_the_first_to_go_is_the_cheapest_for_all_readers(channels):
    for group, scored in enumerate(channels.scored):
        behind = channels.consumers(group)
        errors = []
        for unit in range(len(scored.group)):
            kept = np.ones(len(scored.group), bool)
            kept[unit] = False
            errors.append(total_error(behind, kept))
        assert channels.order(group)[0] == int(np.argmin(errors))


def test_exchanges_never_raise_the_objective(channels):
    for group in range(len(channels.scored)):
        behind = channels.consumers(group)
        for keep in (1, 3, 5):
            plain = channels.kept(group, keep)
            better = channels.kept(group, keep, swaps=True)
            assert better.sum() == plain.sum() == keep
            assert total_error(behind, better) <= total_error(behind, plain) * (1 + 1e-9)


def test_damage_is_measured_alone_and_grows(channels):
    table = measure_groups(channels, range(len(channels.scored)), levels=(0.25, 0.75))
    assert sorted(table) == [0, 1, 2]
    for entry in table.values():
        assert entry.levels == pytest.approx((0.25, 0.75), abs=0.1)  # whole units
        assert 0 <= entry.loss[0] < entry.loss[1]


def table_of(rng, units):
    levels = tuple(k / units for k in range(1, units))
    loss = np.cumsum(rng.uniform(0.01, 1, units - 1)) ** 2
    return Sensitivity("g", "g", units, levels, tuple(loss), (None,) * (units - 1))


@pytest.mark.parametrize("seed", range(12))
def test_division_against_brute_force(seed):
    """Costs that multiply between neighbours, every choice tried."""
    rng = RNG(seed)
    units = [5, 4, 6]
    table = {g: table_of(rng, n) for g, n in enumerate(units)}
    sizes = rng.uniform(1, 5, 4)

    def cost(keeps):
        a, b, c = (keeps[g] / units[g] for g in range(3))
        return float(
            (sizes[0] * a + sizes[1] * a * b + sizes[2] * b * c + sizes[3] * c) / sizes.sum()
        )

    start = dict(enumerate(units))
    found = divide_units(table, start, cost, 0.5)
    harm = lambda keeps: sum(  # noqa: E731
        float(table[g].at(np.array([keeps[g] / units[g]]))[0]) for g in range(3)
    )
    choices = [admissible(n, 1, 1) for n in units]
    best = min(
        harm(dict(enumerate(pick)))
        for pick in itertools.product(*choices)
        if cost(dict(enumerate(pick))) <= 0.5
    )
    assert cost(found) <= 0.5
    assert harm(found) <= best * 1.1  # a product made a sum is not always the very best
    # Where costs add up, it is.
    plain = lambda keeps: sum(keeps[g] / units[g] for g in range(3)) / 3  # noqa: E731
    best = min(
        harm(dict(enumerate(pick)))
        for pick in itertools.product(*choices)
        if plain(dict(enumerate(pick))) <= 0.6
    )
    assert harm(divide_units(table, start, plain, 0.6)) <= best * (1 + 1e-9)
    assert divide_units(table, start, plain, 0.01) is None


def recovered(model, **how):
    options = SelectOptions(**how)
    analyzer = analyze(io.load(model).model)
    plan, _ = select_structure(analyzer, options)
    return recover_structure(analyzer, plan, options, feeds_of(samples()))


def test_steps_are_kept_only_if_agreement_holds():
    account = recovered(residual_net(), target={"macs": 0.6}).account
    steps = account["steps"]
    assert [s["step"] for s in steps][:2] == ["delete", "select"]
    assert {"refit", "train blocks"} <= {s["step"] for s in steps}
    least = float("inf")
    for step in steps:
        assert step["kept"] == (step["loss"] <= least) or step["step"] == "train blocks"
        least = min(least, step["loss"]) if step["kept"] else least
    assert least < 0.5 * steps[0]["loss"]
    assert account["sensitivity"]


def test_target_proof_and_bytes(tmp_path):
    """The target holds, the shrunk network is proved, and a second run gives the same bytes."""
    data = {"x": samples()}
    texts = []
    for _ in range(2):
        result = onnxprune.prune(residual_net(), "channel", target={"macs": 0.6}, data=data)
        assert result.report["proof"]["passed"]
        assert result.report["macs"]["after"] <= 0.61 * result.report["macs"]["before"]
        texts.append(result.model.SerializeToString())
    assert texts[0] == texts[1]
    dense = run(residual_net(), samples(64, 9))[0]
    pruned = run(result.model, samples(64, 9))[0]
    plain = onnxprune.prune(residual_net(), "channel", target={"macs": 0.6})
    l1 = run(plain.model, samples(64, 9))[0]
    assert np.mean((pruned - dense) ** 2) < 0.3 * np.mean((l1 - dense) ** 2)


def test_a_criterion_that_is_named_has_the_last_word():
    data = {"x": samples()}
    how = {"pattern": "channel", "sparsity": 0.5, "criterion": "l2"}
    plain = onnxprune.prune(residual_net(), **how)
    found = onnxprune.prune(residual_net(), data=data, **how)
    assert plain.plan.kept == found.plan.kept
    steps = [s["step"] for s in found.report["recovery"]["steps"]]
    assert steps[:2] == ["delete", "refit"]


def test_masked_and_shrunk_models_agree_after_training():
    data = {"x": samples()}
    how = {"pattern": "channel", "target": {"params": 0.6}, "data": data}
    small = onnxprune.prune(residual_net(), **how)
    wide = onnxprune.prune(residual_net(), mask_only=True, **how)
    got = [run(r.model, samples(32, 5))[0] for r in (small, wide)]
    np.testing.assert_allclose(got[0], got[1], atol=1e-4)


def test_an_operator_without_a_derivative_ends_a_block():
    model = residual_net()
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool":
            node.op_type = "GlobalLpPool"
    account = recovered(model, sparsity=0.5).account
    assert ["GlobalLpPool" in why for why in account["training"]["unfollowed"]] == [True]
    assert account["steps"][-1]["step"] == "train blocks"


def test_one_output_is_enough():
    """A weight of one row is a line; its layer's columns are known all the same."""
    data = {"x": samples()}
    model = residual_net(classes=1)
    found = onnxprune.prune(model, "channel", target={"macs": 0.6}, data=data)
    dense, pruned = (run(m, samples(64, 9))[0] for m in (residual_net(classes=1), found.model))
    plain = onnxprune.prune(residual_net(classes=1), "channel", target={"macs": 0.6})
    l1 = run(plain.model, samples(64, 9))[0]
    assert np.mean((pruned - dense) ** 2) < 0.3 * np.mean((l1 - dense) ** 2)


def test_depth_wise_layers_without_bias_get_one():
    """Their output axis holds groups alone; a bias that is added loses the channels they lose."""
    model = residual_net()
    nodes = model.graph.node
    place = next(i for i, node in enumerate(nodes) if "w2" in node.input)
    nodes[place].input[0] = "d1"
    thin = helper.make_node("Conv", ["r1", "wd"], ["d1"], group=16, pads=[1, 1, 1, 1])
    nodes.insert(place, thin)
    model.graph.initializer.append(numpy_helper.from_array(weight(RNG(3), 16, 1, 3, 3), "wd"))
    found = onnxprune.prune(model, "channel", target={"macs": 0.6}, data={"x": samples()})
    assert found.report["proof"]["passed"]
    (layer,) = (n for n in found.model.graph.node if "wd" in n.input)
    held = {t.name: list(t.dims) for t in found.model.graph.initializer}
    assert len(layer.input) == 3 and held[layer.input[2]] == held["wd"][:1]
    assert held["wd"][0] < 16
