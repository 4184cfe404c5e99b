"""Everything a bug report about the runtime needs, and one run that really happens."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import RuntimeUnavailableError
from onnxprune.runtime import library
from onnxprune.runtime.decisions import explain
from onnxprune.runtime.sessions import session

TOLERANCE = 1e-5
"""Largest relative difference to the CPU provider that the self-test accepts."""


def doctor() -> dict[str, Any]:
    """Return versions, what was found, and the outcome of a self-test.

    Keys: ``versions`` (name -> version), ``machine``, ``library`` (path or None), ``available``,
    ``reason`` (why not), ``info`` (what the library says, see ``library.library_info``; None
    without one), ``isa_wanted`` (environment variable ONNXPRUNE_ISA, or None), ``self_test`` (None
    without a usable library, else ``passed``, ``max_rel_error``, ``claimed`` nodes, ``kernels``,
    ``seconds``, ``error``).
    """
    usable, reason = library.available()
    path = library.library_path()
    try:
        info = library.library_info()
    except RuntimeUnavailableError:
        info = None
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("onnxprune", "onnxruntime", "onnx", "onnx-ir")},
            "numpy": np.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}",
        "library": str(path) if path else None,
        "available": usable,
        "reason": reason,
        "info": info,
        "isa_wanted": os.environ.get("ONNXPRUNE_ISA"),
        "self_test": self_test() if usable else None,
    }


def self_test() -> dict[str, Any]:
    """Run a small pruned network on both providers and compare. Never raises."""
    started = time.perf_counter()
    result: dict[str, Any] = {
        "passed": False,
        "max_rel_error": None,
        "claimed": 0,
        "kernels": [],
        "error": "",
    }
    try:
        model = sample_model()
        feed = {"x": np.random.default_rng(1).standard_normal((1, 8, 12, 12), np.float32)}
        sparse = session(model, 1, force=True)
        expected = session(model, 1, provider="cpu").run(None, feed)[0]
        actual = sparse.run(None, feed)[0]
        claimed = [d for d in explain(sparse) if d.claimed]
        error = float(np.abs(actual - expected).max() / np.abs(expected).max())
        result["max_rel_error"] = error
        result["claimed"] = len(claimed)
        result["kernels"] = sorted({d.kernel for d in claimed})
        result["passed"] = bool(claimed) and error <= TOLERANCE
        if not claimed:
            result["error"] = "no node was claimed"
        elif not result["passed"]:
            result["error"] = f"results differ from the CPU provider by {error:.2e}"
    except Exception as error:  # the report must come out whatever broke
        result["error"] = f"{type(error).__name__}: {error}"
    result["seconds"] = time.perf_counter() - started
    return result


def sample_model() -> onnx.ModelProto:
    """Return Conv-Relu-GlobalAveragePool-Flatten-Gemm with nine of ten weights zero."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape).astype(np.float32)
        values[rng.random(shape) < 0.9] = 0.0
        return numpy_helper.from_array(values, f"w{len(shape)}")

    nodes = [
        helper.make_node("Conv", ["x", "w4"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], name="gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "self_test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [weight(16, 8, 3, 3), weight(10, 16)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
