"""What every structured prune must hold, checked from outside with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnxprune.api as onnxprune
from onnxprune.proof.equivalence import relative_error

Arrays = Mapping[str, np.ndarray]


def run(model: onnx.ModelProto, feeds: Arrays) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, dict(feeds))
    return outputs


def interface(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    own = {t.name for t in model.graph.initializer}
    values = [v for v in model.graph.input if v.name not in own]
    return [
        (v.name, v.type.SerializeToString(deterministic=True))
        for v in (*values, *model.graph.output)
    ]


def full_check(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the initializers, sparse ones and those of bodies included."""
    return _weights(model.graph)


def _weights(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    shapes |= {t.values.name: tuple(t.dims) for t in graph.sparse_initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                shapes |= _weights(attribute.g)
    return shapes


def close(want: list[Any], have: list[Any], limit: float = 1e-3) -> None:
    assert len(want) == len(have)
    for a, b in zip(want, have, strict=True):
        assert relative_error(np.asarray(a), np.asarray(b)) <= limit


def check_prune(
    dense: onnx.ModelProto, feeds: Arrays | None, *, prove: bool = True, **options: Any
) -> onnxprune.Result:
    """Prune by units and check the result; ``feeds`` None: the dense model cannot run.

    The pruned model is proved, valid if the dense one is, has the same interface, computes what
    the masked dense model computes, and comes out of its own plan byte for byte.
    """
    before = dense.SerializeToString(deterministic=True)
    result = onnxprune.prune(dense, "channel", proof=prove, **options)
    assert dense.SerializeToString(deterministic=True) == before, "the input was changed"
    pruned: onnx.ModelProto = result.model
    if prove:
        assert result.report["proof"]["passed"] is True
        assert result.report["proof"]["max_rel_error"] <= 1e-3
    assert interface(pruned) == interface(dense)
    if full_check(dense):
        onnx.checker.check_model(pruned, full_check=True)
    again = onnxprune.prune(dense, plan=result.plan, proof=False)
    assert again.model.SerializeToString(deterministic=True) == pruned.SerializeToString(
        deterministic=True
    )
    if feeds is not None:
        masked = onnxprune.prune(dense, plan=result.plan, mask_only=True, proof=False)
        close(run(masked.model, feeds), run(pruned, feeds))
    return result
