"""Small graphs for the runtime tests, and the comparison with the CPU provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune import runtime

Array = NDArray[Any]
Dims = Sequence[int | str | None]


class Net:
    """Collects nodes and constants of one graph; methods return value names."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dims: Dims, dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def constant(self, value: Array) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, *shape: int, sparsity: float = 0.8) -> str:
        return self.constant(sparse(self.rng, shape, sparsity))

    def vector(self, size: int) -> str:
        return self.constant(self.rng.standard_normal(size).astype(np.float32))

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        node = helper.make_node(op, list(inputs), [out], name=f"n{len(self.nodes)}_{op}",
                                domain=domain, **attributes)  # fmt: skip
        self.nodes.append(node)
        return out

    def model(self, *outputs: str, opset: int = 17, packed: bool = False) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            self.inputs,
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            self.constants,
        )
        imports = [helper.make_opsetid("", opset)]
        if packed:
            imports.append(helper.make_opsetid("ai.onnxprune", 1))
        model = helper.make_model(graph, opset_imports=imports)
        model.ir_version = 8
        return model


def sparse(rng: np.random.Generator, shape: Sequence[int], sparsity: float) -> Array:
    """Normal numbers with about ``sparsity`` of them set to zero."""
    values = rng.standard_normal(shape).astype(np.float32)
    values[rng.random(shape) < sparsity] = 0.0
    return values


def feed(rng: np.random.Generator, shapes: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def assert_close(actual: Array, expected: Array, reduction: int = 1, where: str = "") -> None:
    """Equal to 1e-5 of the largest expected value, wider for sums of very many terms.

    Inputs and weights are of order one, so terms are; where they happen to cancel, 1 is the scale.
    """
    assert actual.shape == expected.shape, where
    assert actual.dtype == expected.dtype, where
    if expected.size == 0:
        return
    assert np.array_equal(np.isnan(actual), np.isnan(expected)), where
    if np.isnan(expected).all():
        return
    limit = 1e-5 * max(1.0, float(np.sqrt(reduction)) / 32)
    scale = max(float(np.nanmax(np.abs(expected))), 1.0)
    error = float(np.nanmax(np.abs(actual - expected))) / scale
    assert error <= limit, f"{where}: relative error {error:.2e} exceeds {limit:.1e}"


def compare(
    model: onnx.ModelProto,
    feeds: Iterable[Mapping[str, Array]],
    *,
    reduction: int = 1,
    threads: int = 1,
    **options: Any,
) -> Any:
    """Run on both providers and compare every output; return the sparse session."""
    data = model.SerializeToString()
    expected = runtime.session(data, threads, provider="cpu")
    actual = runtime.session(data, threads, **options)
    for given in feeds:
        for a, e in zip(
            actual.run(None, dict(given)), expected.run(None, dict(given)), strict=True
        ):
            assert_close(a, e, reduction, str({k: v.shape for k, v in given.items()}))
    return actual


def claimed_ops(session: Any) -> list[str]:
    """Operator types the provider took, in graph order."""
    return [d.op for d in runtime.explain(session) if d.claimed]
