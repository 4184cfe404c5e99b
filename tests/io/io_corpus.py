"""The models that the onnx package ships for testing, and running them in onnxruntime."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.numpy_helper
import onnxruntime as ort
from onnx.backend.test.case import model, node

Feeds = dict[str, Any]


def folder_models() -> list[Path]:
    """Return every model file in the package's data: light, simple, pytorch-*, sorted."""
    root = Path(onnx.backend.test.__file__).parent / "data"
    return sorted(root.rglob("*.onnx"))


def node_modules() -> list[str]:
    """Return the names of the package's modules of single-node cases, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(node.__path__) if not m.ispkg)


def node_cases(modules: Iterable[str]) -> dict[str, Any]:
    """Return the single-node test cases that some modules make when they are imported, by name."""
    for name in modules:
        importlib.import_module(f"{node.__name__}.{name}")
    return {case.name: case for case in node._NodeTestCases if case.model is not None}


def model_cases() -> dict[str, Any]:
    """Return the package's whole-model cases that its code makes, by name."""
    return {c.name: c for c in model.collect_testcases() if c.model is not None and c.data_sets}


_STORED = {
    "tensor_type": (onnx.TensorProto, onnx.numpy_helper.to_array),
    "sequence_type": (onnx.SequenceProto, onnx.numpy_helper.to_list),
    "optional_type": (onnx.OptionalProto, onnx.numpy_helper.to_optional),
}


def folder_feeds(path: Path) -> Feeds | None:
    """Return the stored inputs beside a model file, or None if there are none."""
    graph = onnx.load(path, load_external_data=False).graph
    given = {t.name for t in graph.initializer}
    infos = [i for i in graph.input if i.name not in given]
    folder = path.parent / "test_data_set_0"
    feeds: Feeds = {}
    for i, info in enumerate(infos):
        file = folder / f"input_{i}.pb"
        if not file.exists():
            return None
        message, read = _STORED[info.type.WhichOneof("value")]
        feeds[info.name] = read(message.FromString(file.read_bytes()))
    return feeds


def random_inputs(proto: onnx.ModelProto, seed: int = 0) -> Feeds:
    """Return N(0, 1) float inputs, size 1 for every dimension that is not fixed."""
    rng = np.random.default_rng(seed)
    given = {t.name for t in proto.graph.initializer}
    feeds: Feeds = {}
    for info in proto.graph.input:
        if info.name not in given:
            dims = [d.dim_value or 1 for d in info.type.tensor_type.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            feeds[info.name] = rng.standard_normal(dims).astype(dtype)
    return feeds


def run(source: bytes | str, feeds: Feeds) -> list[Any]:
    """Return the outputs onnxruntime computes, unoptimised so that nothing hides in a fusion."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def assert_identical(first: list[Any], second: list[Any]) -> None:
    """Assert that two lists of outputs hold the same bits, lists, maps and Nones included."""
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        if isinstance(a, list):
            assert_identical(a, b)
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape
            if a.dtype == object:
                assert a.tolist() == b.tolist()
            else:
                assert a.tobytes() == b.tobytes()
        else:
            assert a == b
