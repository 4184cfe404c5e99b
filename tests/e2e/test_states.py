"""Streaming state: frozen by default, shrunk at both ends when asked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs.net import Net
from graphs.recurrent import layer
from prune_checks import close, run, weights

import onnxprune.api as onnxprune
from onnxprune.errors import UsageError
from onnxprune.proof.equivalence import relative_error


def streaming(*, visible: bool = False) -> onnx.ModelProto:
    """One step of an LSTM whose state comes in and goes out, and a causal convolution's cache."""
    net = Net("streaming", 17)
    x = net.input(("N", 5, 1), "x")
    h, c = net.input((1, "N", 8), "h_in"), net.input((1, "N", 8), "c_in")
    past = net.input(("N", 6, 2), "cache")
    y = net.relu(net.op("Conv", x, net.weight(net.normal(6, 5, 1), "in.w")))
    window = net.op("Concat", past, y, axis=2)
    net.op("Slice", window, net.ints(1), net.ints(3), net.ints(2), outputs=["cache_out"])
    y = net.relu(net.op("Conv", window, net.weight(net.normal(10, 6, 3), "conv.w")))
    y = net.op("Transpose", y, perm=[2, 0, 1])
    _, h2, c2 = layer(net, "LSTM", y, 10, 8, "cell", h=h, c=c)
    net.op("Identity", h2, outputs=["h_out"])
    net.op("Identity", c2, outputs=["c_out"])
    net.op(
        "MatMul",
        net.op("Squeeze", h2, net.ints(0)),
        net.weight(net.normal(8, 3), "out.w"),
        outputs=["y"],
    )
    net.output("y", ("N", 3))
    net.output("c_out", (1, "N", 8))
    net.output("h_out", (1, "N", 8))
    net.output("cache_out", ("N", 6, 2))
    if visible:
        net.op("Tanh", h2, outputs=["seen"])
        net.output("seen", (1, "N", 8))
    return net.model()


def steps(model: onnx.ModelProto, kept: dict[str, list[int]], count: int = 4) -> list[np.ndarray]:
    """Run several steps, feeding states back; ``kept``: coordinates of the first states."""
    rng = np.random.default_rng(0)
    states = {
        "h_in": rng.standard_normal((1, 2, 8)).astype(np.float32),
        "c_in": rng.standard_normal((1, 2, 8)).astype(np.float32),
        "cache": rng.standard_normal((2, 6, 2)).astype(np.float32),
    }
    for name, rows in kept.items():
        states[name] = np.take(states[name], rows, axis=1 if name == "cache" else 2)
    seen = []
    names = [o.name for o in model.graph.output]
    for _ in range(count):
        x = rng.standard_normal((2, 5, 1)).astype(np.float32)
        out = dict(zip(names, run(model, {"x": x, **states}), strict=True))
        seen.append(out["y"])
        states = {"h_in": out["h_out"], "c_in": out["c_out"], "cache": out["cache_out"]}
    return seen


def test_frozen_by_default() -> None:
    dense = streaming()
    result = onnxprune.prune(dense, "channel", 0.5)
    after = weights(result.model)
    assert after["cell.r"] == (1, 32, 8) and after["in.w"][0] == 6
    assert after["conv.w"] == (5, 6, 3)
    assert result.report["states"] == []
    why = [row["why"] for row in result.report["frozen"]]
    assert "graph input cache: is an input" in why and "graph input h_in: is an input" in why


def test_states_shrink_at_both_ends_and_can_be_fed_back() -> None:
    dense = streaming()
    result = onnxprune.prune(dense, "channel", 0.5, shrink_states=".*")
    pairs = {(s["input"], s["output"]) for s in result.report["states"]}
    assert pairs == {("h_in", "h_out"), ("c_in", "c_out"), ("cache", "cache_out")}
    shapes = {s["input"]: s["shape"]["after"] for s in result.report["states"]}
    assert shapes == {"h_in": [1, "N", 4], "c_in": [1, "N", 4], "cache": ["N", 3, 2]}
    onnx.checker.check_model(result.model, full_check=True)
    declared = {
        v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim]
        for v in (*result.model.graph.input, *result.model.graph.output)
    }
    assert declared["h_in"] == declared["h_out"] == declared["c_out"] == [1, "N", 4]
    assert declared["cache_out"] == ["N", 3, 2] and declared["y"] == ["N", 3]
    assert result.report["proof"]["passed"] and result.report["proof"]["max_rel_error"] < 1e-4
    hidden = result.plan.kept["cell.r"][2]
    channels = result.plan.kept["in.w"][0]
    assert hidden is not None and channels is not None
    masked = onnxprune.prune(dense, plan=result.plan, mask_only=True).model
    assert weights(masked) == weights(dense)
    want = steps(masked, {})
    got = steps(result.model, {"h_in": hidden, "c_in": hidden, "cache": channels})
    for a, b in zip(want, got, strict=True):
        assert relative_error(a, b) < 1e-4
    again = onnxprune.prune(dense, plan=result.plan)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(
        deterministic=True
    )


def test_only_what_was_named() -> None:
    result = onnxprune.prune(streaming(), "channel", 0.5, shrink_states="^cache$")
    after = weights(result.model)
    assert after["cell.r"] == (1, 32, 8) and after["in.w"][0] == 3


def test_an_output_that_is_no_state_still_freezes() -> None:
    """One more output of the state's shape: somebody reads it, so the state stays."""
    result = onnxprune.prune(streaming(visible=True), "channel", 0.5, shrink_states="_in$")
    assert weights(result.model)["cell.r"] == (1, 32, 8)
    assert any("graph output seen" in row["why"] for row in result.report["frozen"])


def test_nothing_matches() -> None:
    dense = streaming()
    result = onnxprune.prune(dense, "channel", 0.5, shrink_states="^x$")
    assert any("'^x$'" in note for note in result.report["notes"])
    close(run(result.model, feeds()), run(masked(dense, result), feeds()))
    with pytest.raises(UsageError, match="whole units"):
        onnxprune.prune(dense, "element", 0.5, shrink_states=".*")


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {"x": (2, 5, 1), "h_in": (1, 2, 8), "c_in": (1, 2, 8), "cache": (2, 6, 2)}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def masked(dense: onnx.ModelProto, result: onnxprune.Result) -> onnx.ModelProto:
    model: onnx.ModelProto = onnxprune.prune(dense, plan=result.plan, mask_only=True).model
    return model
