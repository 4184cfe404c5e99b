"""The trained networks are what models/README.md says, and reach the recorded accuracy."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"
RECORD = json.loads((MODELS / "accuracies.json").read_text())
NAMES = sorted(RECORD)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"models_{name}", MODELS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evaluate = load("evaluate")


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_every_network_is_recorded_and_has_its_script() -> None:
    assert [path.name for path in sorted(MODELS.glob("*.onnx"))] == NAMES
    for name in NAMES:
        script = MODELS / f"train_{name.removeprefix('digits_').removesuffix('.onnx')}.py"
        assert f'"{name}"' in script.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_recorded_one(name: str) -> None:
    entry = RECORD[name]
    # Another processor's kernels may tip an image that lies on the edge, so one image is allowed.
    assert evaluate.accuracy(MODELS / name) == pytest.approx(
        entry["accuracy"], abs=1.5 / entry["test_samples"]
    )
    assert entry["test_samples"] == len(evaluate.split()[3]) == 597


@pytest.mark.parametrize("name", NAMES)
def test_file_is_small_valid_and_as_recorded(name: str) -> None:
    data = (MODELS / name).read_bytes()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    parameters = sum(int(np.prod(t.dims)) for t in floats)
    assert len(data) < 1_000_000
    assert RECORD[name]["bytes"] == len(data)
    assert RECORD[name]["parameters"] == parameters
    assert model.opset_import[0].version >= 17
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_none_is_a_number(name: str) -> None:
    graph = onnx.load(MODELS / name).graph
    nodes = [node.name for node in graph.node]
    tensors = [tensor.name for tensor in graph.initializer]
    assert all(nodes) and len(set(nodes)) == len(nodes)
    assert len(set(tensors)) == len(tensors)
    assert not [tensor for tensor in tensors if "::" in tensor or tensor.isdigit()]


@pytest.mark.parametrize("name", NAMES)
def test_wide_enough_for_two_of_four(name: str) -> None:
    """All contracted axes but the image's and the depth-wise ones hold a multiple of 4."""
    graph = onnx.load(MODELS / name).graph
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    checked = 0
    for node in graph.node:
        dims = weights.get(node.input[1]) if len(node.input) > 1 else None
        if dims is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        contracted = dims[0] if node.op_type == "MatMul" else dims[1]
        if contracted > 1:
            assert contracted % 8 == 0, node.name
            checked += 1
    assert checked >= 13


def test_each_network_has_what_it_is_there_for() -> None:
    resnet = operators(onnx.load(MODELS / "digits_resnet.onnx"))
    assert resnet["BatchNormalization"] == resnet["Conv"] == 15 and resnet["Add"] == 6

    model = onnx.load(MODELS / "digits_mobile.onnx")
    mobile = operators(model)
    assert mobile["BatchNormalization"] == 0
    assert mobile["Concat"] == mobile["Transpose"] == 4 and mobile["Split"] == 2
    assert mobile["GlobalAveragePool"] == 3 and mobile["Sigmoid"] == mobile["Mul"] == 2
    groups = [a.i for n in model.graph.node for a in n.attribute if a.name == "group"]
    assert sum(group > 1 for group in groups) == 8

    transformer = operators(onnx.load(MODELS / "digits_transformer.onnx"))
    assert transformer["LayerNormalization"] == 7 and transformer["Softmax"] == 3
    assert transformer["Erf"] == 3 and transformer["Expand"] == 1
    assert not {"Attention", "MultiHeadAttention"} & set(transformer)


def test_split_keeps_the_held_out_images_apart() -> None:
    train_x, train_y, test_x, test_y = evaluate.split()
    assert train_x.shape == (1200, 1, 16, 16) and test_x.shape == (597, 1, 16, 16)
    assert train_x.dtype == np.float32 and train_x.min() == 0.0 and train_x.max() == 1.0
    assert set(train_y) == set(test_y) == set(range(10))
    seen = {image.tobytes() for image in train_x}
    assert not [1 for image in test_x if image.tobytes() in seen]


def test_calibration_samples_are_training_images_and_repeat() -> None:
    samples = list(load("calib").samples())
    train_x, train_y, _, _ = evaluate.split()
    position = {image.tobytes(): i for i, image in enumerate(train_x)}
    assert len(samples) == 512
    chosen = [position[sample["image"].tobytes()] for sample in samples]
    assert len(set(chosen)) == 512
    assert min(Counter(train_y[chosen]).values()) > 30
    again = list(load("calib").samples())
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(samples, again, strict=True))


def test_command_line_prints_one_json_line_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(MODELS / "digits_resnet.onnx")
    assert evaluate.main([path]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["model"] == path and line["metric"] == "top1"
    assert line["value"] == pytest.approx(RECORD["digits_resnet.onnx"]["accuracy"], abs=0.003)
    assert evaluate.main([]) == 2
