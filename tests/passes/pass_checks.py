"""Run a pass on a model and compare before with after in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
from graphs.feeds import random_feeds
from prune_checks import close, full_check, interface, run

from onnxprune import io
from onnxprune.passes.base import Context, Pass, PassResult


def apply(step: Pass, dense: onnx.ModelProto) -> tuple[onnx.ModelProto, PassResult]:
    """Run ``step`` once, and again to see that nothing is left for it to do."""
    loaded = io.load(dense)
    result = step.run(loaded.model, Context())
    assert result.model is loaded.model
    after = onnx.load_from_string(io.to_bytes(loaded.model))
    again = step.run(loaded.model, Context())
    assert not again.modified, again.stats
    twice = onnx.load_from_string(io.to_bytes(loaded.model))
    for model in (twice, after):  # their order means nothing
        model.graph.initializer.sort(key=lambda t: t.name)
    assert twice == after
    return after, result


def same(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    *sizes: dict[str, int],
    limit: float = 2e-5,
    seed: int = 0,
) -> None:
    """Same interface, valid, same outputs at every choice of ``sizes`` for the symbols."""
    assert [n for n, _ in interface(after)] == [n for n, _ in interface(before)]
    if full_check(before):
        onnx.checker.check_model(after, full_check=True)
    for choice in sizes or ({},):
        feeds = random_feeds(before, choice, seed)
        close(run(before, feeds), run(after, feeds), limit)


def shape(model: onnx.ModelProto, name: str) -> tuple[int, ...]:
    return next(tuple(t.dims) for t in model.graph.initializer if t.name == name)


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
