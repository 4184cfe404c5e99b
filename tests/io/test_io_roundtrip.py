"""load -> save gives the same model: field by field, and bit by bit in onnxruntime."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from io_canonical import canonical
from io_corpus import (
    assert_identical,
    folder_feeds,
    folder_models,
    model_cases,
    node_cases,
    node_modules,
    random_inputs,
    run,
)

from onnxprune import io

MODELS = folder_models()
RANDOM_OPS = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"} | {
    "Multinomial",
    "Bernoulli",
}


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}" if path.stem == "model" else path.stem


def roundtrip(path: Path, out: Path) -> None:
    io.save(io.load(path), out)
    before = onnx.load(path, load_external_data=False)
    after = onnx.load(out, load_external_data=False)
    assert canonical(before) == canonical(after)


def same_outputs(before: bytes | str, after: bytes | str, feeds: dict[str, object]) -> None:
    try:
        wanted = run(before, feeds)
    except Exception as error:
        pytest.skip(f"onnxruntime cannot run the original: {str(error).splitlines()[0][:120]}")
    assert_identical(wanted, run(after, feeds))


@pytest.mark.parametrize("path", MODELS, ids=label)
def test_package_model(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    roundtrip(path, out)
    feeds = folder_feeds(path)
    if feeds is None:
        feeds = random_inputs(onnx.load(path))
    same_outputs(str(path), str(out), feeds)


def check_case(case: Any) -> bool:
    """Check a case made by code; return whether onnxruntime could run it before."""
    before = case.model.SerializeToString()
    after = io.to_bytes(io.load(before).model)
    assert canonical(case.model) == canonical(onnx.ModelProto.FromString(after))
    if RANDOM_OPS & {node.op_type for node in case.model.graph.node}:
        return False
    inputs = case.data_sets[0][0]
    feeds = {info.name: value for info, value in zip(case.model.graph.input, inputs, strict=False)}
    try:
        wanted = run(before, feeds)
    except Exception:
        return False
    assert_identical(wanted, run(after, feeds))
    return True


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_node_cases_sampled() -> None:
    wanted = {"if_", "if", "loop", "scan", "optionalgetelement", "quantizelinear", "string_concat"}
    nested = sorted(wanted & set(node_modules()))
    others = sorted(set(node_modules()) - wanted)
    cases = node_cases(nested + random.Random(0).sample(others, 12))
    ran = sum(check_case(case) for case in cases.values())
    assert ran >= len(cases) // 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_node_cases_all() -> None:
    ran = sum(check_case(case) for case in node_cases(node_modules()).values())
    assert ran >= 1000


def test_model_cases() -> None:
    assert sum(check_case(case) for case in model_cases().values()) >= 5


def test_shared_model(shared_model: Path, tmp_path: Path) -> None:
    roundtrip(shared_model, tmp_path / "out.onnx")
