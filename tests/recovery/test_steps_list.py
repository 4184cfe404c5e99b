"""``--recover LIST``: which steps are tried."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.cli import main
from onnxprune.errors import UsageError
from onnxprune.recipe import Recipe
from onnxprune.recovery.steps import CHANNEL_STEPS, MASK_STEPS, parse_recover, steps_for


@pytest.fixture
def net(tmp_path):
    """Two dense layers on inputs that are correlated, and samples of them."""
    rng = np.random.default_rng(0)
    held = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 4, n)
        for n, s in (("w1", (16, 32)), ("b1", (32,)), ("w2", (32, 8)), ("b2", (8,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "two"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    samples = rng.standard_normal((192, 16)) @ rng.standard_normal((16, 16))
    np.savez(tmp_path / "data.npz", x=samples.astype(np.float32))
    return path, tmp_path / "data.npz"


def test_names_are_parsed():
    assert parse_recover("auto") is None and parse_recover("none") == ()
    assert parse_recover("reconstruct, train") == ("reconstruct", "train")
    assert steps_for("auto", "mask") == MASK_STEPS
    assert steps_for("auto", "structure") == CHANNEL_STEPS
    assert steps_for("none", "mask") == ()
    for text in ("some", "reconstruct,some", "", "auto,train"):
        with pytest.raises(UsageError, match="reconstruct, allocate, permute, train, select"):
            parse_recover(text)
    with pytest.raises(UsageError, match="'permute' is no step for channels"):
        steps_for("permute", "structure")
    with pytest.raises(UsageError, match="'select' is no step for masks"):
        steps_for("select", "mask")


@pytest.mark.parametrize(
    ("pattern", "text", "taken"),
    [
        ("element", "reconstruct", {"mask", "reconstruct"}),
        ("element", "reconstruct,permute", {"mask", "reconstruct"}),
        ("element", "train", {"mask", "train"}),
        ("channel", "reconstruct", {"delete", "refit"}),
        ("channel", "reconstruct,train", {"delete", "refit", "train blocks"}),
        ("channel", "reconstruct,statistics", {"delete", "refit", "match moments"}),
    ],
)
def test_only_the_steps_named_are_taken(net, pattern, text, taken):
    model, data = net
    report = onnxprune.prune(model, pattern, 0.5, data=data, recover=text).report["recovery"]
    assert {s["step"] for s in report["steps"]} == taken


def test_the_command_line_takes_a_list_and_says_what_it_knows(net, tmp_path, capsys):
    model, data = net
    out = str(tmp_path / "out.onnx")
    base = ["prune", str(model), "-o", out, "--sparsity", "0.5", "--data", str(data)]

    def told(code, pattern, steps):
        with pytest.raises(SystemExit) as stop:
            main([*base, "--pattern", pattern, "--recover", steps])
        assert stop.value.code == code
        return capsys.readouterr().err

    told(0, "element", "reconstruct")
    said = told(2, "element", "rebuild")
    assert "rebuild" in said and "allocate" in said
    assert "no step for channels" in told(2, "channel", "permute")


@pytest.mark.parametrize(
    ("what", "text"),
    [(["reconstruct", "train"], "reconstruct,train"), ([], "none"), ("auto", "auto")],
)
def test_a_list_says_the_same_as_its_text(what, text):
    assert Recipe().with_recover(what).recover == text


def test_a_list_of_unknown_steps_is_refused():
    with pytest.raises(UsageError, match="'guess'"):
        Recipe().with_recover(["guess"])
