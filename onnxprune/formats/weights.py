"""Finding the weights of a model that have a packed form, and how each is used."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.formats.bits import DTYPES
from onnxprune.formats.choose import Role

DOMAIN = "ai.onnxprune"
OPSET = 1
DECODE = "SparseDecode"
PACKED = {"Conv": "SparseConv", "Gemm": "SparseGemm", "MatMul": "SparseMatMul"}
"""Standard operator -> the operator of :data:`DOMAIN` that takes its weight packed."""
STANDARD = {packed: standard for standard, packed in PACKED.items()}

_WEIGHT_INPUTS = {"Conv": (1,), "Gemm": (1,), "MatMul": (0, 1)}
_GEMM_SINCE = 7
"""Before opset 7 Gemm broadcasts by attribute, and C is required: another operator."""


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph, subgraph or function body, and the opset imports that hold in it."""

    graph: ir.Graph | ir.Function
    opset_imports: MutableMapping[str, int]


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant that could be stored in another form."""

    value: ir.Value
    """An initializer, or the output of a Constant node."""
    scope: Scope
    constant: ir.Node | None
    """The Constant node that holds it, if any."""
    role: Role | None
    """How it is used; ``None`` if some user has no packed operator (then ``reason`` says which)."""
    reason: str = ""
    decodable: bool = False
    """Whether a SparseDecode node may stand for it: an ordinary initializer of some graph."""
    fixed: bool = False
    """Whether it must stay as it is whatever its users: its bytes are the model's interface."""

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The tensor it holds."""
        tensor = constant_tensor(self.value)
        assert tensor is not None  # how it was found
        return tensor


def scopes(model: ir.Model) -> Iterator[Scope]:
    """Yield the main graph, its subgraphs, and every function with its subgraphs."""
    for graph in model.graphs():
        yield Scope(graph, model.opset_imports)
    for function in model.functions.values():
        yield Scope(function, function.opset_imports)
        for graph in function.subgraphs():
            yield Scope(graph, function.opset_imports)


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant's ``value``, else ``None``."""
    node = value.producer()
    if node is None:
        return value.const_value if value.is_initializer() else None
    if node.op_type != "Constant" or node.domain:
        return None
    attribute = node.attributes.get("value")
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
        return None
    return attribute.as_tensor()


def find_weights(model: ir.Model) -> list[Weight]:
    """Return every constant of a packable type that is used, in file order.

    Initializers that are graph inputs (a caller may override them) or graph outputs are ``fixed``,
    and listed only where an operator would take them packed.
    """
    found: list[Weight] = []
    for scope in scopes(model):
        holders: list[tuple[ir.Value, ir.Node | None]] = []
        if isinstance(scope.graph, ir.Graph):
            holders += [(value, None) for value in scope.graph.initializers.values()]
        holders += [(n.outputs[0], n) for n in scope.graph if n.op_type == "Constant"]
        for value, constant in holders:
            tensor = constant_tensor(value)
            if tensor is None or tensor.dtype.value not in DTYPES or not value.uses():
                continue
            role, reason = _role(value, tensor, scope)
            if value.is_graph_input() or value.is_graph_output():
                if role is not None:
                    reason = "it is part of the model's interface (a graph input or output)"
                    found.append(Weight(value, scope, constant, None, reason, fixed=True))
                continue
            found.append(Weight(value, scope, constant, role, reason, constant is None))
    return found


def _role(value: ir.Value, tensor: ir.TensorProtocol, scope: Scope) -> tuple[Role | None, str]:
    """Return how the weight is used, or why it cannot be packed where it is used."""
    rank = len(tensor.shape)
    role: Role | None = None
    for node, index in value.uses():
        inputs = list(node.inputs)
        where = f"{node.op_type} {node.name or '(unnamed)'}"
        if node.domain or index not in _WEIGHT_INPUTS.get(node.op_type, ()):
            return None, f"used by input {index} of {where}, which takes no packed weight"
        if inputs.count(value) > 1 or inputs[1 - index] is None:
            return None, f"{where} has no activation beside this weight"
        if node.op_type == "Gemm" and scope.opset_imports.get("", 1) < _GEMM_SINCE:
            return None, f"{where} is of an opset before {_GEMM_SINCE}"
        fits = {"Conv": rank >= 3, "Gemm": rank == 2, "MatMul": rank >= 1}[node.op_type]
        if not fits:
            return None, f"{where} cannot have a weight with {rank} axes"
        # a weight shared in several roles is stored in the view of the first
        if role is None:
            trans = node.attributes.get("transB")
            turned = trans is not None and not trans.is_ref() and bool(trans.as_int())
            role = Role(node.op_type, index, node.op_type == "Gemm" and turned)
    return role, ""
