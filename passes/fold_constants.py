"""Compute what the graph would compute the same way every time.

Exporters leave arithmetic on shapes in the graph even where the shapes are known. Folding it turns
``Shape -> Gather -> Div -> Slice`` into a Slice with constant bounds that a prune can adjust; a
number like ``1 / sqrt(head size)`` becomes what it was before anything is pruned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir

import onnxprune.rules.families  # noqa: F401  (registers every rule)
from onnxprune.io import overridable
from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.passes.known_branches import take_known_branches
from onnxprune.rules.analysis import FLOATS, STANDARD, Analyzer
from onnxprune.rules.bodies import graphs_of, nested, unique_names
from onnxprune.rules.rewriter import Constants
from onnxprune.rules.shapes import correct_shapes, infer_shapes
from onnxprune.rules.sizes import SizeTracer, learn_shape
from onnxprune.rules.symbols import unify_symbols

# Deterministic makers of filler; folding anything else that is float would rename weights.
FILLERS = ("Expand", "CastLike", "ConstantOfShape", "Tile", "Range", "EyeLike")
KEPT = ("Constant", "DequantizeLinear", "QuantizeLinear")
# What exporters leave on weights that would mix coordinates once some are gone: weight
# standardisation, weight norm. Element-wise and layout operators on weights stay as they are.
MIXING = (
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LpNormalization",
    "ReduceMean",
    "ReduceL1",
    "ReduceL2",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceMax",
    "Softmax",
    "MatMul",
    "Gemm",
    "Einsum",
    "MeanVarianceNormalization",
    "CumSum",
)
PRODUCTS = ("MatMul", "Gemm", "Einsum")
ROUNDS = 64  # a round that learns nothing is the last; this only bounds a surprise
# What may lie between weights and an operator that mixes them.
BETWEEN = (
    *MIXING,
    "Reshape",
    "Transpose",
    "Identity",
    "Cast",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Sqrt",
    "Abs",
    "Neg",
    "Exp",
    "Log",
    "Reciprocal",
    "Max",
    "Min",
    "Clip",
    "Concat",
    "Slice",
    "Expand",
)
# Axis of the data, axis of the weight it must equal, rank of the weight.
DEMANDS = {
    "MatMul": (-1, 0, 2),
    "Conv": (1, 1, 4),
    "ConvTranspose": (1, 0, 4),
    "BatchNormalization": (1, 0, 1),
    "LayerNormalization": (-1, 0, 1),
}
EXACT = {
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.BOOL,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
}


@PASSES.member("fold-constants")
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Fold sizes that are known, and small integer or filler constants.

    Main graph and bodies of nodes; an If whose condition turns out to be known gives way to the
    branch it takes. Weights are never folded, so their names survive, unless the graph mixes their
    elements first (weight standardisation, weight norm).

    Attributes:
        max_elements: largest result that is stored as a constant.
        only_weights: fold nothing but what mixes the elements of weights, products of them left
            out: a mask on the elements would not be one on what layers multiply by.
    """

    name: ClassVar[str] = "fold-constants"
    max_elements: int = 16384
    only_weights: bool = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Fold until nothing changes; shapes are inferred between rounds."""
        folded = 0
        unique_names(model)
        if self.only_weights:
            folder = _Folder(model, self.max_elements)
            folder.fold_weights()
            return PassResult(model, folder.replaced > 0, {"folded": folder.replaced})
        correct_shapes(model)
        for _ in range(ROUNDS):
            infer_shapes(model)
            folder = _Folder(model, self.max_elements)
            learned = folder.fold()
            folded += folder.replaced
            # What inference leaves open behind an operator it does not know, its rule may tell.
            if not learned and not (_untold(model) and Analyzer(model).learned):
                break
        return PassResult(model, folded > 0, {"folded": folded})


def _untold(model: ir.Model) -> bool:
    """Return whether an operator that inference does not know leaves a shape open."""
    return any(
        value.shape is None and value.uses()
        for node in model.graph
        if node.domain not in STANDARD
        for value in node.outputs
    )


class _Folder:
    def __init__(self, model: ir.Model, limit: int) -> None:
        self.model = model
        self.graph = model.graph
        self.limit = limit
        self.open = overridable(model)
        self.constants = Constants(model.graph)
        self.replaced = 0
        self._tensors: dict[ir.Value, ir.TensorProtocol | None] = {}
        self._weights: dict[ir.Value, bool] = {}
        self._arrays: dict[ir.Value, np.ndarray[Any, Any] | None] = {}

    def const(self, value: ir.Value) -> ir.TensorProtocol | None:
        """Return the constant behind a value, or None."""
        if value not in self._tensors:
            producer = value.producer()
            tensor = None
            if producer is None:
                if value.is_initializer() and value not in self.open:
                    tensor = value.const_value
            elif producer.op_type == "Constant" and producer.domain in STANDARD:
                tensor = ir.convenience.get_const_tensor(value)
            self._tensors[value] = tensor
        return self._tensors[value]

    def weight(self, value: ir.Value) -> bool:
        """Return whether constants alone, through foldable operators, make ``value``."""
        if value not in self._weights:
            producer = value.producer()
            self._weights[value] = self.const(value) is not None or (
                producer is not None
                and producer.op_type in BETWEEN
                and producer.domain in STANDARD
                and all(v is None or self.weight(v) for v in producer.inputs)
            )
        return self._weights[value]

    @staticmethod
    def dims(value: ir.Value) -> list[int | str | None] | None:
        """Return the dims of a value."""
        if value.shape is None:
            return None
        return [d if isinstance(d, int) else d.value for d in value.shape]

    def fold(self) -> int:
        """Do one round; return how many values became constants."""
        tracer = SizeTracer(self.const, self.dims)
        found: list[tuple[ir.Node, np.ndarray[Any, Any]]] = []
        learned = unify_symbols(self.graph, self.dims)
        for node in _in_order(self.graph):
            if node.op_type in KEPT or node.domain not in STANDARD or graphs_of(node):
                continue
            learned += learn_shape(tracer, node, self.dims) + self._imply(node)
            if tracer.visit(node):
                array = self._size(tracer, node.outputs[0])
            else:
                array = self._evaluate(node)
            if array is not None and not node.outputs[0].is_graph_output():
                found.append((node, array))
        replaced = self._replace_all(found)
        taken = take_known_branches(self.model, self.const)
        if replaced or taken:
            self._sweep()
        self.replaced = replaced + taken
        return self.replaced + learned

    def fold_weights(self) -> None:
        """Fold what mixes the elements of weights, as far as it is read by anything else."""
        found: list[tuple[ir.Node, np.ndarray[Any, Any]]] = []
        folded: set[ir.Value | None] = set()
        for node in _in_order(self.graph):
            mixes = node.op_type in MIXING or not folded.isdisjoint(node.inputs)
            if not mixes or node.op_type not in BETWEEN or node.op_type in PRODUCTS:
                continue
            if node.domain not in STANDARD or any(v.uses() for v in node.outputs[1:]):
                continue
            array = self._mixed_weights(node)
            if array is not None and not node.outputs[0].is_graph_output():
                found.append((node, array))
                folded.add(node.outputs[0])
        self.replaced = self._replace_all(found)
        if self.replaced:
            self._sweep()

    def _replace_all(self, found: list[tuple[ir.Node, np.ndarray[Any, Any]]]) -> int:
        """Put constants in the place of what nodes make; return how many."""
        known = {node for node, _ in found}
        return sum(self._replace(node.outputs[0], array, known) for node, array in found)

    def _imply(self, node: ir.Node) -> int:
        """Give an input the size that the node's weight demands of it; return 1 if it was open."""
        place = DEMANDS.get(node.op_type)
        if place is None or len(node.inputs) < 2 or None in node.inputs[:2]:
            return 0
        source, weight = node.inputs[0], node.inputs[1]
        assert source is not None and weight is not None
        tensor, dims = self.const(weight), self.dims(source)
        if tensor is None or len(tensor.shape) != place[2]:
            return 0
        if dims is None and "Conv" in node.op_type:  # what it reads has the weight's rank
            dims = [None] * place[2]
        if not dims:
            return 0
        axis, size = place[0] % len(dims), tensor.shape.numpy()[place[1]]
        if node.op_type == "Conv":
            group = node.attributes.get("group")
            size *= group.as_int() if group is not None else 1
        if isinstance(dims[axis], int) or source.is_graph_input():
            return 0
        dims[axis] = size
        source.shape = ir.Shape(dims)
        return 1

    def _size(self, tracer: SizeTracer, value: ir.Value) -> np.ndarray[Any, Any] | None:
        entries = tracer.of(value)
        if entries is None or value.dtype is None:
            return None
        numbers = [e.value for e in entries.reshape(-1)]
        if any(n is None for n in numbers):
            return None
        if (
            value.dtype in FLOATS
            and len(numbers) > 1
            and not any(e.leaves for e in entries.reshape(-1))
        ):
            return None  # a small weight, not a size
        flat = np.array(numbers, value.dtype.numpy())
        array: np.ndarray[Any, Any] = flat.reshape(entries.shape)
        return array

    def _evaluate(self, node: ir.Node) -> np.ndarray[Any, Any] | None:
        if not node.inputs or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            return None
        value = node.outputs[0]
        like = node.op_type == "CastLike"
        inputs = list(node.inputs[:1]) if like else list(node.inputs)
        folded = any(v is not None and "folded" in v.meta for v in inputs)
        if node.op_type in MIXING or (folded and node.op_type in BETWEEN):
            return self._mixed_weights(node)
        tensors = [None if operand is None else self.const(operand) for operand in inputs]
        if any(o is not None and t is None for o, t in zip(inputs, tensors, strict=True)):
            return None
        largest = max((t.size for t in tensors if t is not None), default=0)
        if largest > self.limit:
            return None
        arrays = [None if t is None else np.asarray(t.numpy()) for t in tensors]
        exact = value.dtype in EXACT
        if not exact and (
            node.op_type not in FILLERS
            or any(a is not None and a.size > 1 and a.dtype.kind == "f" for a in arrays)
        ):
            return None
        if like:
            first, dtype = arrays[0], value.dtype
            return None if first is None or dtype is None else first.astype(dtype.numpy())
        return self._reference(node, arrays, self.limit)

    def _mixed_weights(self, node: ir.Node) -> np.ndarray[Any, Any] | None:
        if not all(v is None or self.weight(v) for v in node.inputs):
            return None
        arrays = [None if v is None else self._value(v) for v in node.inputs]
        if any(v is not None and a is None for v, a in zip(node.inputs, arrays, strict=True)):
            return None
        largest = max((a.size for a in arrays if a is not None), default=0)
        return self._reference(node, arrays, max(largest, self.limit))

    def _value(self, value: ir.Value) -> np.ndarray[Any, Any] | None:
        """Return what constants alone make of ``value``, or None."""
        if value not in self._arrays:
            tensor, producer = self.const(value), value.producer()
            if tensor is not None:
                self._arrays[value] = np.asarray(tensor.numpy())
            elif producer is None or value is not producer.outputs[0]:
                self._arrays[value] = None
            else:
                self._arrays[value] = self._mixed_weights(producer)
        return self._arrays[value]

    def _reference(
        self, node: ir.Node, arrays: list[Any], limit: int
    ) -> np.ndarray[Any, Any] | None:
        from onnx.reference import ReferenceEvaluator  # costs 10 MB, and few models need it

        names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
        proto = ir.to_proto(node)
        proto.input[:] = names
        proto.output[:] = ["y", *(f"y{i}" for i in range(1, len(node.outputs)))]
        feeds = {n: a for n, a in zip(names, arrays, strict=True) if n}
        graph = onnx.helper.make_graph(
            [proto],
            "fold",
            [onnx.helper.make_empty_tensor_value_info(n) for n in feeds],
            [onnx.helper.make_empty_tensor_value_info("y")],
        )
        opset = self.graph.opset_imports.get("", 1)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        try:
            with np.errstate(all="ignore"):
                result = ReferenceEvaluator(model).run(None, feeds)[0]
        except Exception:  # whatever the evaluator does not know simply stays in the graph
            return None
        array = np.asarray(result)
        return array if array.size <= limit else None

    def _replace(self, value: ir.Value, array: np.ndarray[Any, Any], known: set[ir.Node]) -> int:
        """Let everything that is not folded itself use a constant instead of ``value``."""
        users = [u for u in value.uses() if u.node not in known]
        if not users:
            return 0
        constant = self.constants.add(f"{value.name}_folded", array)
        constant.meta["folded"] = True
        for user in users:
            user.node.replace_input_with(user.idx, constant)
        return 1

    def _sweep(self) -> None:
        """Remove what nothing uses any more, the innermost bodies first."""
        for graph in reversed(list(nested(self.graph))):
            for node in reversed(list(graph)):
                if any(v.uses() or v.is_graph_output() for v in node.outputs) or graphs_of(node):
                    continue
                inputs = [v for v in node.inputs if v is not None]
                graph.remove(node, safe=True)
                for value in inputs:
                    if (
                        value.is_initializer()
                        and not value.uses()
                        and not value.is_graph_output()
                        and not value.is_graph_input()
                        and value.graph is not None
                    ):
                        value.graph.initializers.pop(value.name or "")


def _in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph, those of a node's bodies before the node."""
    for node in graph:
        for body in graphs_of(node):
            yield from _in_order(body)
        yield node
