"""A network in stretches computes what it computes in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxprune import io
from onnxprune.calibration import stages
from onnxprune.calibration.stages import Stages, Stream
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.proof.equivalence import open_session

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.mark.parametrize("name", ["digits_resnet", "digits_mobile", "digits_transformer"])
@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_stretches_give_the_outputs_of_the_whole(name, memory, monkeypatch):
    monkeypatch.setattr(stages, "MEMORY", memory)
    model = io.load(MODELS / f"{name}.onnx").model
    InferShapes().run(model, Context())
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.random((64, 1, 16, 16), np.float32)} for _ in range(2)]
    session = open_session(io.to_bytes(model))
    want = [session.run(None, feed)[0] for feed in feeds]
    cut = Stages(model)
    stream = Stream(cut, feeds)
    for place in range(0, len(cut.nodes), 3):
        stream.advance(place)
    other = stream.fork()
    for got in (stream.finish(), other.finish()):
        for a, (b,) in zip(want, got, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert all(set(v) == set(cut.outputs) for v in stream.values)
