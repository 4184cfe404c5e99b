"""A small writer of ONNX graphs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Dims = Sequence[int | str]


class Net:
    """Collects nodes and seeded random weights; values are plain names.

    seed: of the weights. opset: of the default domain. Weights are He-normal, biases and norm
    parameters random per channel, so that a wrong channel shows in the output.
    """

    def __init__(self, name: str, opset: int = 17, ir_version: int = 8) -> None:
        self.name = name
        self.opset = opset
        self.ir_version = ir_version
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}
        self._count = 0

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def input(self, dims: Dims, name: str = "x", dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(dims)))
        return name

    def output(self, value: str, dims: Dims | None = None, dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(value, dtype, dims and list(dims)))

    def weight(self, array: Array, name: str | None = None) -> str:
        name = name or self.fresh("w")
        self.weights[name] = array
        return name

    def ints(self, *values: int, name: str | None = None) -> str:
        """int64 1-D initializer."""
        return self.weight(np.array(values, np.int64), name or self.fresh("i"))

    def scalar(self, value: float) -> str:
        return self.weight(np.array(value, np.float32))

    def normal(self, *shape: int, fan_in: int | None = None) -> Array:
        """He-normal float32 array; fan_in defaults to the product of all but the first dim."""
        scale = np.sqrt(2.0 / (fan_in or max(1, int(np.prod(shape[1:])))))
        return np.asarray(scale * self.rng.standard_normal(shape), np.float32)

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return np.asarray(self.rng.uniform(low, high, shape), np.float32)

    def signed(self, *shape: int) -> Array:
        """float32 of magnitude 0.5 to 1.5 and random sign."""
        values = self.rng.uniform(0.5, 1.5, shape) * self.rng.choice((-1, 1), shape)
        return np.asarray(values, np.float32)

    def op(self, kind: str, *inputs: str, outs: int = 1, **attributes: Any) -> Any:
        """Append a node; returns its output name, or a tuple of them when outs > 1."""
        domain = attributes.pop("domain", "")
        named = attributes.pop("named", None)
        outputs = attributes.pop("outputs", None)
        stem = self.fresh(kind.lower())
        names = outputs or [stem if outs == 1 else f"{stem}_{i}" for i in range(outs)]
        self.nodes.append(
            helper.make_node(
                kind,
                list(inputs),
                names,
                name=stem if named is None else named,
                domain=domain,
                **attributes,
            )
        )
        return names[0] if len(names) == 1 else tuple(names)

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        kernel: int = 3,
        *,
        rank: int = 2,
        group: int = 1,
        bias: bool = True,
        name: str | None = None,
        **attributes: Any,
    ) -> str:
        """Conv with "same" padding; weights `<name>.w` [cout, cin/group, k...] and `<name>.b`."""
        name = name or self.fresh("conv")
        names = [self.weight(self.normal(cout, cin // group, *[kernel] * rank), f"{name}.w")]
        if bias:
            names.append(self.weight(self.uniform(-0.5, 0.5, cout), f"{name}.b"))
        attributes.setdefault("pads", [kernel // 2] * (2 * rank))
        out: str = self.op("Conv", x, *names, group=group, named=name, **attributes)
        return out

    def bn(self, x: str, channels: int, name: str | None = None, **attributes: Any) -> str:
        name = name or self.fresh("bn")
        parts = (
            self.weight(self.signed(channels), f"{name}.scale"),
            self.weight(self.uniform(-0.5, 0.5, channels), f"{name}.bias"),
            self.weight(self.uniform(-0.5, 0.5, channels), f"{name}.mean"),
            self.weight(self.uniform(0.5, 2.0, channels), f"{name}.var"),
        )
        out: str = self.op("BatchNormalization", x, *parts, named=name, **attributes)
        return out

    def relu(self, x: str) -> str:
        out: str = self.op("Relu", x)
        return out

    def gemm(self, x: str, k: int, n: int, name: str | None = None, **attributes: Any) -> str:
        """Gemm; weight `<name>.w` stored as transB says, bias `<name>.b` [n]."""
        name = name or self.fresh("gemm")
        matrix = self.normal(n, k)
        stored = matrix if attributes.get("transB") else np.ascontiguousarray(matrix.T)
        weight = self.weight(stored, f"{name}.w")
        bias = self.weight(self.uniform(-0.5, 0.5, n), f"{name}.b")
        out: str = self.op("Gemm", x, weight, bias, named=name, **attributes)
        return out

    def head(self, x: str, channels: int, classes: int = 5) -> str:
        """Global pool, flatten, Gemm `head`; declares the output [N, classes]."""
        pooled = self.op("GlobalAveragePool", x)
        y = self.gemm(self.op("Flatten", pooled), channels, classes, name="head", transB=1)
        self.output(y)
        return y

    def graph(self, outputs: Sequence[onnx.ValueInfoProto] | None = None) -> onnx.GraphProto:
        return helper.make_graph(
            self.nodes,
            self.name,
            self.inputs,
            self.outputs if outputs is None else outputs,
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )

    def model(self) -> onnx.ModelProto:
        """The finished model; output shapes left open are filled by shape inference."""
        imports = [helper.make_opsetid("", self.opset)]
        imports += [
            helper.make_opsetid(domain, version) for domain, version in self.domains.items()
        ]
        model = helper.make_model(
            self.graph(),
            opset_imports=imports,
            functions=self.functions,
            producer_name="onnxprune-tests",
        )
        model.ir_version = self.ir_version
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
