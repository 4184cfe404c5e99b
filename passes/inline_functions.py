"""Put the bodies of local functions in the place of their calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import PassError, PreconditionError
from onnx_ir.passes.common import InlinePass

from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.rules.bodies import unique_names


@PASSES.member("inline-functions")
@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Inline calls of local functions, in the main graph, in bodies and in each other.

    A function stays where its nodes would mean something else outside: it is written for another
    version of an operator set than the model. So does one that calls itself, and one that takes
    a graph as an attribute. What a call of those touches is frozen.
    """

    name: ClassVar[str] = "inline-functions"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Inline in place; ``stats`` counts the functions that went."""
        before = len(model.functions)
        if not before:
            return PassResult(model, False, {"functions": 0})
        fits = {key: _fits(model, function) for key, function in model.functions.items()}
        try:
            InlinePass(lambda function: fits[function.identifier()])(model)
        except (PreconditionError, PassError, ValueError):
            return PassResult(model, False, {"functions": 0})
        unique_names(model)
        gone = before - len(model.functions)
        return PassResult(model, gone > 0, {"functions": gone})


def _fits(model: ir.Model, function: ir.Function) -> bool:
    imports = model.opset_imports
    same = all(imports.get(domain, v) == v for domain, v in function.opset_imports.items())
    takes_graph = any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for a in function.attributes.values()
    )
    reads_graph = any(
        a.is_ref() and a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for node in function.all_nodes()
        for a in node.attributes.values()
    )
    return same and not takes_graph and not reads_graph
