"""The proof of large models: run from files that are gone afterwards, with the same result."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxprune import api, io
from onnxprune.errors import OnnxPruneError, ProofError, SaveError
from onnxprune.io import infile
from onnxprune.passes import shrink
from onnxprune.proof import staging
from onnxprune.proof.staging import Stage

MODELS = Path(__file__).resolve().parents[2] / "models"
RESNET = MODELS / "digits_resnet.onnx"
PRUNES: list[dict[str, Any]] = [
    {"sparsity": 0.5},
    {"sparsity": 0.5, "mask_only": True},
    {"pattern": "2:4"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make temporary folders in a place of the test's own."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every model as large."""
    monkeypatch.setattr(staging, "LARGE", 0)
    monkeypatch.setattr(infile, "SMALL_FILE", 0)
    monkeypatch.setattr(infile, "LARGE", 64)


@pytest.mark.parametrize("options", PRUNES)
def test_large_models_come_out_like_small_ones(
    folder: Path, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    small = api.prune(RESNET, **options)
    assert not list(folder.iterdir())
    request.getfixturevalue("large")
    big = api.prune(RESNET, **options)
    assert io.to_bytes(big.loaded.model) == io.to_bytes(small.loaded.model)
    assert big.report["proof"]["passed"] is True
    assert big.report["proof"]["kind"] == small.report["proof"]["kind"]
    assert big.report["proof"]["values"].keys() == small.report["proof"]["values"].keys()
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("large")
def test_staged_model_computes_the_same(folder: Path) -> None:
    model = io.load(RESNET).model
    x = {"image": np.random.default_rng(0).standard_normal((2, 1, 16, 16), np.float32)}
    wanted = onnxruntime.InferenceSession(RESNET, providers=["CPUExecutionProvider"]).run(None, x)
    with Stage() as stage:
        staged = stage.put(model)
        assert staged.large and Path(str(staged.source)).is_file()
        assert Path(str(staged.source) + ".data").stat().st_size > 1000
        for otherwise in (False, True):
            _, (got,) = staged.run([x], otherwise=otherwise)
            np.testing.assert_allclose(got[0], wanted[0], rtol=1e-3, atol=1e-4)
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("large")
def test_checker_finds_the_same_problem_without_the_weights(folder: Path) -> None:
    proto = onnx.load(RESNET)
    for damage in (False, True):
        if damage:
            proto.graph.node[-1].op_type = "Nonsense"
        model = io.load(proto).model
        with Stage() as stage:
            problem = stage.problem(model)
            (weights,) = folder.rglob("*.data")
            assert weights.stat().st_size > 1000 and not any(weights.read_bytes())
        if damage:
            assert problem is not None and "Nonsense" in problem
        else:
            assert problem is None


@pytest.mark.usefixtures("large")
def test_wrong_models_are_still_caught(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shrunk model whose weights are off does not pass, and leaves nothing behind."""
    cut = shrink.Surgery.shrink

    def wrong(self: Any) -> Any:
        plan = cut(self)
        for value in self.model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and len(tensor.shape) == 4:
                value.const_value = io.derived(tensor, lambda a: a + np.float32(0.01))
        return plan

    monkeypatch.setattr(shrink.Surgery, "shrink", wrong)
    with pytest.raises(ProofError, match="does not compute"):
        api.prune(RESNET, sparsity=0.5)
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OnnxPruneError])
def test_nothing_is_left_after_an_interrupt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        assert list(folder.rglob("*.onnx"))
        raise error("now")

    monkeypatch.setattr(staging, "open_session", stop)
    with pytest.raises(error):
        api.prune(RESNET, pattern="2:4")
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("large")
def test_without_room_for_files_it_runs_from_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SaveError("the disk is full")

    monkeypatch.setattr(io, "spread", full)
    found = api.prune(RESNET, sparsity=0.5)
    assert found.report["proof"]["passed"] is True
    assert not list(folder.iterdir())
