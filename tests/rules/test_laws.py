"""The law of every rule, generated from its samples and judged by onnxruntime.

One node, every input unfrozen. A random choice of units is removed. Then the shrunk node on the
shrunk inputs must equal the dense node in which removed coordinates are zero where they are summed
over (and hold garbage everywhere else), at the coordinates that stay.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune.rules.families  # noqa: F401
from onnxprune.passes.shrink import Surgery
from onnxprune.rules.analysis import analyze
from onnxprune.rules.base import RULES, Sample

CASES = [
    pytest.param(entry, sample, id=f"{entry.op}-{i}")
    for entry in RULES.values()
    for i, sample in enumerate(entry.samples)
]


def build(op: str, domain: str, sample: Sample, behind: bool = False) -> onnx.ModelProto:
    """Return a model of one node; ``behind``: of one node with Identity behind it."""
    inputs, initializers, names = [], [], []
    for i, shape in enumerate(sample.shapes):
        if shape is None:
            names.append("")
            continue
        names.append(f"x{i}")
        dtype = np.dtype(sample.dtypes.get(i, "float32"))
        if i in sample.consts:
            const = sample.consts[i]
            if isinstance(const, str):  # "rand": weights that must be constants
                const = np.random.default_rng(i).standard_normal(shape)
            array = np.asarray(const, dtype).reshape(shape)
            initializers.append(numpy_helper.from_array(array, f"x{i}"))
        else:
            kind = helper.np_dtype_to_tensor_dtype(dtype)
            inputs.append(helper.make_tensor_value_info(f"x{i}", kind, shape))
    outs = [f"y{i}" for i in range(sample.outputs)]
    made = [f"h{i}" for i in range(sample.outputs)] if behind else outs
    nodes = [helper.make_node(op, names, made, domain=domain, **sample.attrs)]
    if behind:
        nodes += [helper.make_node("Identity", [h], [y]) for h, y in zip(made, outs, strict=True)]
    declared = [helper.make_empty_tensor_value_info(o) for o in outs]
    if sample.result is not None:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(sample.result_dtype))
        declared[0] = helper.make_tensor_value_info("y0", kind, sample.result)
    graph = helper.make_graph(nodes, "law", inputs, declared, initializers)
    opsets = [helper.make_opsetid(domain, sample.opset)]
    if behind and domain:
        opsets.append(helper.make_opsetid("", 18))
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    if sample.result is None:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if not all(o.type.HasField("tensor_type") for o in model.graph.output):
        told = ir.from_proto(model)
        analyze(told, freeze_interface=False)
        model = ir.to_proto(told)
    return model


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def random_input(info: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
    kind = info.type.tensor_type.elem_type
    if kind == TensorProto.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 3, shape).astype(dtype)
    # Positive, so that logarithms, roots and powers are numbers.
    return np.asarray(rng.random(shape) + 0.25, dtype)


@pytest.mark.parametrize(("entry", "sample"), CASES)
def test_law(entry, sample):
    proto = build(entry.op, entry.domain, sample)
    try:
        session(proto)
    except Exception as error:  # onnxruntime implements no kernel for this op at this opset
        if "NOT_IMPLEMENTED" not in str(error) and "is till opset" not in str(error):
            raise
        return reference_law(entry, proto)
    check(proto, lambda m, feeds: session(m).run(None, feeds))


NORMS = [
    pytest.param(entry, sample, id=f"{entry.op}-{i}")
    for entry in RULES.values()
    for i, sample in enumerate(entry.samples)
    if "--structure hidden" in entry.exact and not entry.op.startswith("Reduce")
]


@pytest.mark.parametrize(("entry", "sample"), NORMS)
def test_law_through_norms(entry, sample):
    """Asked to, normalisations lose coordinates: as if they had seen the kept ones only."""
    proto = build(entry.op, entry.domain, sample, behind=True)
    try:
        session(proto)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error) and "is till opset" not in str(error):
            raise
        reference_law(entry, proto, through_norms=True)
        return
    check(proto, lambda m, feeds: session(m).run(None, feeds), through_norms=True)


FUSED = [case for case in CASES if case.values[0].apply.__module__.endswith(".attention")]


@pytest.mark.parametrize(("entry", "sample"), FUSED)
def test_law_inside_heads(entry, sample):
    """Heads and the width inside them go at once."""
    proto = build(entry.op, entry.domain, sample)
    try:
        session(proto)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error) and "is till opset" not in str(error):
            raise
        return reference_law(entry, proto, inside_heads=True)
    check(proto, lambda m, feeds: session(m).run(None, feeds), inside_heads=True)


def reference_law(entry, proto, **mode):
    from onnx.reference import ReferenceEvaluator

    def run(model, feeds):
        return ReferenceEvaluator(model).run(None, feeds)

    check(proto, run, **mode)


def check(proto, run_model, **mode):
    rng = np.random.default_rng(7)
    nothing = True
    for _trial in range(3):
        model = ir.from_proto(copy.deepcopy(proto))
        found = analyze(model, freeze_interface=False, **mode)
        partition = found.partition
        removed = (rng.random(partition.count) < 0.4) & ~partition.frozen
        removed[partition.composed] = False
        inputs = list(model.graph.inputs)
        outputs = list(model.graph.outputs)

        def ids(value, axis, index=None, found=found):
            use = (found.graph[0], index) if found.is_const(value) else None
            return found.ids(value, axis, use)

        keep_axes = {}
        for value in (*inputs, *outputs):
            for axis, _dim in enumerate(value.shape):
                block = ids(value, axis)
                if block is None:  # the results of a Loop: their number is not known
                    continue
                gone = partition.closed(removed)[partition.labels[block]]
                if gone.all() and len(gone):
                    for owner in partition.owners(block[:1]):
                        removed[owner[owner >= 0]] = False
        removed = partition.closed(removed)
        for value in (*inputs, *outputs):
            blocks = [ids(value, a) for a in range(len(value.shape))]
            keep_axes[value.name] = [
                np.True_ if b is None else ~removed[partition.labels[b]] for b in blocks
            ]
        nothing &= all(k.all() for ks in keep_axes.values() for k in ks)
        names = [value.name for value in outputs]
        feeds, small = {}, {}
        for info in proto.graph.input:
            array = random_input(info, rng)
            feeds[info.name] = array
            for axis, keep in enumerate(keep_axes[info.name]):
                array = np.compress(keep, array, axis=axis)
            small[info.name] = array
        surgery = Surgery(found, removed)
        before = ir.to_proto(model)
        surgery.mask()
        expected = run_model(ir.to_proto(model), feeds)
        surgery.unmask()
        assert ir.to_proto(model) == before, "unmask restores"
        surgery.shrink()
        shrunk = ir.to_proto(model)
        got = run_model(shrunk, small)
        for name, want, have in zip(names, expected, got, strict=True):
            for axis, keep in enumerate(keep_axes[name]):
                want = want if keep is np.True_ else np.compress(keep, want, axis=axis)
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5, err_msg=name)
            declared = shrunk_shape(shrunk, name)
            assert all(a in (b, 0) for a, b in zip(declared, have.shape, strict=True)), "declared"
    if mode:
        assert not nothing, "something went"
        return
    PRUNED.setdefault(proto.graph.node[0].op_type, False)
    PRUNED[proto.graph.node[0].op_type] |= not nothing


PRUNED: dict[str, bool] = {}


def shrunk_shape(proto, name):  # 0: unknown
    info = next(o for o in proto.graph.output if o.name == name)
    return [d.dim_value for d in info.type.tensor_type.shape.dim]


def test_every_rule_let_something_go():
    """A law that only ever saw frozen axes has proved nothing."""
    assert PRUNED, "runs after the laws"
    assert [op for op, pruned in PRUNED.items() if not pruned] == []
