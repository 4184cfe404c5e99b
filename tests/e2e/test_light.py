"""The light graphs of the onnx package get weights, and nothing else about them changes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def light() -> ModuleType:
    if not (ROOT / "benchmarks" / "light.py").exists():
        pytest.skip("benchmarks/ is not part of this installation")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import light as module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


@pytest.fixture(scope="module", params=["squeezenet", "shufflenet", "inception_v1"])
def pair(light: ModuleType, request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto]:
    return request.param, light.materialise(request.param)


def _layers(model: onnx.ModelProto) -> list[tuple[str, list[str]]]:
    nodes = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    return [(node.op_type, list(node.input)) for node in nodes]


def test_only_the_weights_are_new(light: ModuleType, pair: tuple[str, onnx.ModelProto]) -> None:
    name, model = pair
    assert _layers(model) == _layers(onnx.load(light.light_path(name)))
    assert [value.name for value in model.graph.input] == [_image(light, name)]


def _image(light: ModuleType, name: str) -> str:
    graph = onnx.load(light.light_path(name)).graph
    own = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in own]
    assert len(names) == 1
    return str(names[0])


def test_weights_are_random_and_the_output_is_soft(pair: tuple[str, onnx.ModelProto]) -> None:
    _, model = pair
    onnx.checker.check_model(model, full_check=True)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1:
            assert array.std() > 0, f"{tensor.name} is constant"
    session = ort.InferenceSession(model.SerializeToString(), None, ["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    rng = np.random.default_rng(3)
    first, second = (
        session.run(None, {image.name: rng.standard_normal(image.shape).astype(np.float32)})[0]
        for _ in range(2)
    )
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 1e-5
    assert first.max() < 0.9


def test_seed_decides_the_bytes(light: ModuleType) -> None:
    first, same, other = (light.materialise("squeezenet", seed=seed) for seed in (0, 0, 1))
    assert first.SerializeToString() == same.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()


def test_overridable_weights_are_inputs(light: ModuleType) -> None:
    model = light.materialise("squeezenet", overridable=True)
    inputs = {value.name for value in model.graph.input}
    assert {tensor.name for tensor in model.graph.initializer} < inputs
    assert model.ir_version == 3


@pytest.mark.parametrize("name", ["inception_v1", "shufflenet"])
def test_overridable_weights_are_pruned_with_the_same_inputs(light: ModuleType, name: str) -> None:
    # LRN and channel shuffles need constants that were not there, which must not become inputs.
    model = light.materialise(name, overridable=True)
    pruned = onnxprune.prune(model, pattern="channel", sparsity=0.5).model
    onnx.checker.check_model(pruned, full_check=True)
    assert [v.name for v in pruned.graph.input] == [v.name for v in model.graph.input]


def test_unknown_name_lists_the_known(light: ModuleType) -> None:
    with pytest.raises(ValueError, match="vgg19"):
        light.materialise("lenet")
