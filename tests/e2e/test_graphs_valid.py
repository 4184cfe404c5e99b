"""Every hand-built graph is valid, deterministic and runs: the ground the prune tests stand on."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import SPECS, Spec, all_graphs
from graphs.feeds import random_feeds

GRAPHS = pytest.mark.parametrize("name", sorted(SPECS))


def _run(model: onnx.ModelProto, sizes: dict[str, int] | None = None) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, random_feeds(model, sizes))
    return outputs


def _weights(model: onnx.ModelProto) -> set[str]:
    """Names of weights, those in the bodies of If, Loop and Scan included."""
    names: set[str] = set()
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        names |= {tensor.name for tensor in graph.initializer}
        names |= {tensor.values.name for tensor in graph.sparse_initializer}
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return names


def test_one_builder_for_every_spec() -> None:
    assert list(all_graphs()) == list(SPECS)
    assert len(SPECS) > 150


@GRAPHS
def test_checker_accepts(name: str) -> None:
    onnx.checker.check_model(SPECS[name].build(), full_check=SPECS[name].strict)


@GRAPHS
def test_same_bytes_every_time(name: str) -> None:
    first, second = (SPECS[name].build().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@GRAPHS
def test_expectations_name_real_weights(name: str) -> None:
    spec = SPECS[name]
    assert spec.note, "say which pitfall it is"
    assert set(spec.shrinks) | set(spec.keeps) <= _weights(spec.build())
    assert not set(spec.shrinks) & set(spec.keeps)


@pytest.mark.parametrize("name", [name for name, spec in sorted(SPECS.items()) if spec.runs])
def test_runs_and_depends_on_its_input(name: str) -> None:
    spec: Spec = SPECS[name]
    model = spec.build()
    outputs = _run(model)
    assert len(outputs) == len(model.graph.output)
    finite = all(np.isfinite(array).all() for array in outputs)
    assert finite == spec.finite
    if spec.finite:
        assert any(array.size == 1 or array.std() > 0 for array in outputs)


@pytest.mark.parametrize("name", [name for name, spec in sorted(SPECS.items()) if spec.other])
def test_runs_at_another_size(name: str) -> None:
    spec = SPECS[name]
    model = spec.build()
    small, large = _run(model), _run(model, spec.other)
    changed = any(a.shape != b.shape for a, b in zip(small, large, strict=True))
    assert changed or {"H", "height", "time"} & set(spec.other)


def test_a_graph_that_cannot_run_says_so() -> None:
    with pytest.raises(Exception, match="Mystery"):
        _run(SPECS["unknown_domain"].build())
