"""fp16, bf16 and fp8: scored, masked, shrunk, and proved as far as onnxruntime's kernels go."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from float_nets import NETS
from onnx import TensorProto, helper, numpy_helper

import onnxprune.api as onnxprune
from onnxprune.errors import ProofError

pytestmark = pytest.mark.filterwarnings("ignore")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def computing_in(net: str, dtype: type, kind: int) -> onnx.ModelProto:
    """A network whose weights and activations are of one type."""
    model = NETS[net]()
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    model.opset_import[0].version = 18
    return onnx.shape_inference.infer_shapes(model)


def stored_as(net: str, dtype: np.dtype, scaled: bool) -> onnx.ModelProto:
    """A network that computes in float32 on weights stored in another type."""
    model = NETS[net]()
    del model.graph.value_info[:]
    first = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, array = tensor.name, numpy_helper.to_array(tensor)
        scale = np.float32(np.abs(array).max() / 200 if scaled else 1)
        tensor.CopyFrom(numpy_helper.from_array((array / scale).astype(dtype), f"{name}_n"))
        if scaled:
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_s"))
            read = helper.make_node("DequantizeLinear", [f"{name}_n", f"{name}_s"], [name])
        else:
            read = helper.make_node("Cast", [f"{name}_n"], [name], to=TensorProto.FLOAT)
        first.append(read)
    nodes = [*first, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import[0].version, model.ir_version = 21, 10
    return onnx.shape_inference.infer_shapes(model)


def check_masks(model: onnx.ModelProto, result: onnxprune.Result) -> None:
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert result.plan.masks
    for name, mask in result.plan.masks.items():
        old, new = before[name].astype(np.float32), after[name].astype(np.float32)
        assert after[name].dtype == before[name].dtype
        assert not new[~mask].any()
        np.testing.assert_array_equal(new[mask], old[mask])
        if not mask.all() and result.plan.options["pattern"] == "element":
            assert np.abs(old[~mask]).max() <= np.abs(old[mask]).min()


@pytest.mark.parametrize("net", ["resnet", "transformer", "recurrent"])
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(np.float16, TensorProto.FLOAT16), (ml_dtypes.bfloat16, TensorProto.BFLOAT16)],
    ids=["fp16", "bf16"],
)
def test_computing_in_a_narrow_type(net: str, dtype: type, kind: int) -> None:
    model = computing_in(net, dtype, kind)
    for pattern, level in (("channel", 0.5), ("element", 0.5), ("2:4", None)):
        result = onnxprune.prune(model, pattern, level)
        proof = result.report["proof"]
        assert proof["passed"] is True
        # What cannot be run in its own type is said to have been computed in another.
        assert ("computed in float32" in proof["kind"]) == (dtype is ml_dtypes.bfloat16)
        kinds = {v.type.tensor_type.elem_type for v in result.model.graph.output}
        assert kinds == {kind}
        if pattern == "channel":
            assert result.report["params"]["after"] < 0.6 * result.report["params"]["before"]
        else:
            check_masks(model, result)


@pytest.mark.parametrize("name", ["bfloat16", "float16", *FLOAT8])
@pytest.mark.parametrize("scaled", [False, True], ids=["cast", "scaled"])
def test_stored_in_a_narrow_type(name: str, scaled: bool) -> None:
    if scaled and not name.startswith("float8"):
        pytest.skip("DequantizeLinear takes integers and 8-bit floats")
    dtype = np.dtype(name) if name == "float16" else np.dtype(getattr(ml_dtypes, name))
    model = stored_as("resnet", dtype, scaled)
    for pattern, level in (("channel", 0.5), ("element", 0.5), ("2:4", None)):
        result = onnxprune.prune(model, pattern, level)
        assert result.report["proof"]["passed"] is True
        assert "float32" not in result.report["proof"]["kind"]
        if pattern == "channel":
            assert result.report["params"]["after"] < 0.3 * result.report["params"]["before"]
        else:
            check_masks(model, result)


def test_bfloat16_samples() -> None:
    """Given inputs reach the float32 twin too."""
    model = computing_in("transformer", ml_dtypes.bfloat16, TensorProto.BFLOAT16)
    rows = np.random.default_rng(0).standard_normal((4, 2, 6, 16)).astype(ml_dtypes.bfloat16)
    data = [{"x": row} for row in rows]
    result = onnxprune.prune(model, "channel", 0.5, data=data, recover="none")
    assert result.report["proof"]["samples"] == 4


def test_a_type_nobody_runs_is_refused() -> None:
    """Four-bit floats: onnxruntime's CPU provider has no kernel, and without a proof they go."""
    model = stored_as("resnet", np.dtype(ml_dtypes.float4_e2m1fn), False)
    model.opset_import[0].version, model.ir_version = 23, 11
    with pytest.raises(ProofError, match="onnxruntime"):
        onnxprune.prune(model, "element", 0.5)
    check_masks(model, onnxprune.prune(model, "element", 0.5, proof=False))
