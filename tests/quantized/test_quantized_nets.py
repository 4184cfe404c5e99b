"""Networks quantised by onnxruntime's tools: every mask at one half, channels really removed.

The judge of masks is :mod:`read_weights`, of removed channels onnxruntime on the masked model.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from quantizers import build, feeds, pairs
from read_weights import plain_session, read_weights

import onnxprune.api as onnxprune

pytestmark = pytest.mark.filterwarnings("ignore")
PATTERNS = ("element", "2:4", "block:4x1", "vector", "kernel")
# What must be left of all parameters when half of every group goes: at most.
LEFT = {"resnet": 0.3, "mobile": 0.4, "joining": 0.4, "recurrent": 0.35, "transformer": 0.56}
# Weights in blocks of 16 along the inputs leave no part of a state of 16 units, and ...
COARSE = {"recurrent": 0.82, "transformer": 0.7, "joining": 0.65}
OWN_SCALE = {"recurrent": 0.71}  # ... a state that is quantised by its own range stays whole.


# Every form on one network and every network in some forms; all of them together are slow.
QUICK = {"qdq-uint8-per-channel", "qoperator-per-channel", "dynamic-uint8-per-channel"}
QUICK |= {"nbits-4-asymmetric"}
ALL = [
    pytest.param(
        net, form, marks=[] if net == "transformer" or form in QUICK else [pytest.mark.slow]
    )
    for net, form in pairs()
]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    yield
    logging.disable(logging.NOTSET)


def exact_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a session whose integer sums do not saturate on processors without VNNI."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def load(net: str, form: str) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(build(net, form))


@pytest.mark.parametrize(("net", "form"), ALL)
def test_channels_go(net: str, form: str) -> None:
    dense = load(net, form)
    result = onnxprune.prune(dense, "channel", 0.5)
    params = result.report["params"]
    bar = LEFT[net]
    if form.startswith("nbits"):
        bar = COARSE[net]
    elif form.startswith("dynamic"):
        bar = OWN_SCALE.get(net, bar)
    assert params["after"] <= bar * params["before"]
    assert result.report["unsupported"] == {}
    assert result.report["proof"]["passed"] is True
    masked = onnxprune.prune(dense, plan=result.plan, mask_only=True, proof=False).model
    # onnxruntime's rewriting would multiply 4-bit weights by activations rounded to 8 bits.
    make = plain_session if form.startswith("nbits-qdq") else exact_session
    one, other = make(masked), make(result.model)
    differs = False
    for feed in feeds(dense, 3, seed=9):
        (want,), (have,) = one.run(None, feed), other.run(None, feed)
        np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-3 * float(want.std()))
        (whole,) = exact_session(dense).run(None, feed)
        differs |= not np.allclose(whole, want)
    assert differs, "a mask that changes nothing proves nothing"


@pytest.mark.parametrize(("net", "form"), ALL)
def test_masks_are_zero_points(net: str, form: str) -> None:
    dense = load(net, form)
    before = read_weights(dense)
    assert before
    for pattern in PATTERNS:
        level = None if pattern == "2:4" else 0.5
        if pattern == "kernel" and not any("Conv" in n.op_type for n in dense.graph.node):
            continue
        result = onnxprune.prune(dense, pattern, level)
        after = read_weights(result.model)
        assert result.plan.masks
        for name, mask in result.plan.masks.items():
            old, new = before[name].reshape(mask.shape), after[name].reshape(mask.shape)
            assert not new[~mask].any(), f"{pattern}: {name} is not zero where it was pruned"
            np.testing.assert_array_equal(new[mask], old[mask], err_msg=name)
            if pattern == "element":
                assert abs(mask.mean() - 0.5) <= 1 / mask.size
                # The largest stay, where the node knows the scale of what is stored.
                if np.issubdtype(old.dtype, np.floating) and "float" not in form:
                    assert np.abs(old[~mask]).max() <= np.abs(old[mask]).min() + 1e-6
        left = {n: w for n, w in before.items() if n not in result.plan.masks}
        for name, array in left.items():
            np.testing.assert_array_equal(after[name], array, err_msg=name)
        skipped = {row["layer"] for row in result.report["skipped"]}
        assert len(result.plan.masks) + len(skipped) >= len(before)
        exact_session(result.model).run(None, feeds(dense, 1)[0])


@pytest.mark.parametrize("form", ["qdq-per-channel", "qoperator-per-channel", "nbits-4-asymmetric"])
def test_plan_replays(form: str) -> None:
    dense = load("transformer", form)
    for pattern in ("element", "channel"):
        result = onnxprune.prune(dense, pattern, 0.5, proof=False)
        plan = onnxprune.PrunePlan.from_dict(result.plan.as_dict())
        again = onnxprune.prune(dense, plan=plan, proof=False)
        assert again.model.SerializeToString(deterministic=True) == (
            result.model.SerializeToString(deterministic=True)
        )


def test_scales_are_cut_along() -> None:
    """Scales, zero points and integer biases keep as many entries as their weight has rows."""
    for form in ("qdq-uint8-per-channel", "qoperator-per-channel"):
        result = onnxprune.prune(load("resnet", form), "channel", 0.5)
        sizes = {t.name: list(t.dims) for t in result.model.graph.initializer}
        cut = 0
        for node in result.model.graph.node:
            if node.op_type == "QLinearConv":
                rows = sizes[node.input[3]][0]
                assert [sizes[node.input[i]] for i in (4, 5, 8)] == [[rows]] * 3
                cut += 1
            elif node.op_type == "DequantizeLinear" and len(sizes.get(node.input[0], [])) == 4:
                rows = sizes[node.input[0]][0]
                assert [sizes[n] for n in node.input[1:]] == [[rows]] * 2
                cut += 1
        assert cut == 8


@pytest.mark.parametrize("net", ["transformer"])
def test_scores_know_scales_that_stand_behind_the_product(net: str) -> None:
    """Integer products are scaled afterwards: channel by channel, which the ranking must see."""
    dense = load(net, "dynamic-uint8-per-channel")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in dense.graph.initializer}
    plan = onnxprune.prune(dense, "element", 0.5, proof=False).plan
    told = 0
    for name, array in read_weights(dense).items():
        scale = held.get(name.replace("_quantized", "_scale"))
        if not name.endswith("_quantized") or scale is None or scale.size == 1:
            continue
        mask = plan.masks[name]
        shape = [1] * array.ndim
        shape[0 if array.ndim == 4 else -1] = -1
        numbers = np.abs(array * scale.reshape(shape))
        assert numbers[~mask].max() <= numbers[mask].min() * (1 + 1e-6)
        told += 1
    assert told >= 3
