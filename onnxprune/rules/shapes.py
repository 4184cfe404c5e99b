"""Shapes: what ONNX infers, and what is known beyond it of values carried through a Loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxprune.rules.bodies import graphs_of, nested, values_of

QUIET = ("onnx_ir.passes.common.shape_inference", "onnx_ir.serde")
Carried = tuple[ir.Node, ir.Graph, int]


def infer_shapes(model: ir.Model) -> bool:
    """Merge what ONNX's inference finds into ``model``; return whether anything changed.

    What it cannot infer stays unknown, and the rules say so where it matters. ONNX infers no shape
    for what a Loop carries, since a body may change it from one run to the next. Here the shape
    that goes in is tried: if the body then gives back the same, that is the shape, by induction.
    Where the body declares shapes, what leaves the Loop is what entered or what the body gives.
    """
    changed = _infer(model)
    while True:
        open_values = [c for c in _carried(model) if _untold(c)]
        if not _tell_results(model) and not (open_values and _settle(model, open_values)):
            return changed
        changed = True


def correct_shapes(model: ir.Model) -> bool:
    """Drop shapes of the main graph that inference contradicts; return whether there were any.

    Files come with shapes of outputs and inner values that were true of another version of the
    model; onnxruntime warns and goes by what it infers, and so must whoever counts units. A shape
    is contradicted by another rank or another number; what inference leaves open, or names
    otherwise, stays as declared.
    """
    inner = [v for node in model.graph for v in node.outputs]
    declared = [v.shape for v in inner]
    for value in inner:
        value.shape = None
    _infer(model)
    wrong = False
    for value, shape in zip(inner, declared, strict=True):
        if shape is None or not _contradicts(value.shape, shape):
            value.shape = shape
        else:
            wrong = True
    return wrong


def _contradicts(inferred: ir.Shape | None, declared: ir.Shape) -> bool:
    if inferred is None:
        return False
    if len(inferred) != len(declared):
        return True
    pairs = zip(inferred, declared, strict=True)
    return any(isinstance(a, int) and isinstance(b, int) and a != b and b >= 0 for a, b in pairs)


def _infer(model: ir.Model) -> bool:
    # What cannot be inferred, or is learned before its type, is no news for the user.
    loggers = [logging.getLogger(n) for n in QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        return bool(ShapeInferencePass(check_type=False, strict_mode=False)(model).modified)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _carried(model: ir.Model) -> Iterator[Carried]:
    """Yield (Loop, body, k) for everything carried: input k + 2 of the node and of the body."""
    for graph in nested(model.graph):
        for node in graph:
            bodies = graphs_of(node)
            if node.op_type != "Loop" or node.domain not in ("", "ai.onnx") or len(bodies) != 1:
                continue
            for k in range(len(node.inputs) - 2):
                if k + 2 < len(bodies[0].inputs) and k + 1 < len(bodies[0].outputs):
                    yield node, bodies[0], k


def _untold(carried: Carried) -> bool:
    """Return whether the shape inside is open although the one that goes in is known."""
    node, body, k = carried
    start = node.inputs[k + 2]
    return start is not None and start.shape is not None and body.inputs[k + 2].shape is None


def _tell_results(model: ir.Model) -> bool:
    """Give results of Loops the shapes their bodies tell; return whether any was told."""
    told = False
    for node, body, k in _carried(model):
        start, result = node.inputs[k + 2], node.outputs[k] if k < len(node.outputs) else None
        given = body.outputs[k + 1].shape
        if result is None or result.shape is not None or given is None:
            continue
        inside = body.inputs[k + 2].shape
        if inside is None or start is None or start.shape is None or len(start.shape) != len(given):
            continue
        # Names of the body's dimensions are its own; after no run the result is what entered.
        result.shape = ir.Shape(
            [
                d if isinstance(d, int) and d == e else None
                for d, e in zip(start.shape, given, strict=True)
            ]
        )
        told = True
    if told:
        _infer(model)
    return told


def _settle(model: ir.Model, open_values: list[Carried]) -> bool:
    """Try the shapes that go in, weakened until the bodies agree; return whether any held."""
    bodies = {id(g): g for _, body, _ in open_values for g in nested(body)}
    nodes = {id(n): n for n, _, _ in open_values}
    values = [v for g in bodies.values() for v in values_of(g)]
    values += [v for n in nodes.values() for v in n.outputs]
    before = [v.shape for v in values]
    guess: dict[int, list[int | ir.SymbolicDim] | None] = {}
    for i, (node, _, k) in enumerate(open_values):
        start = node.inputs[k + 2]
        assert start is not None and start.shape is not None
        guess[i] = list(start.shape)
    while any(dims is not None for dims in guess.values()):
        for value, shape in zip(values, before, strict=True):
            value.shape = shape
        for i, (_, body, k) in enumerate(open_values):
            dims = guess[i]
            body.inputs[k + 2].shape = None if dims is None else ir.Shape(dims)
        _infer(model)
        if all(_holds(guess, i, body.outputs[k + 1]) for i, (_, body, k) in enumerate(open_values)):
            for i, (node, _, k) in enumerate(open_values):
                dims = guess[i]
                if dims is not None and k < len(node.outputs) and node.outputs[k].shape is None:
                    node.outputs[k].shape = ir.Shape(dims)
            _infer(model)
            return True
    for value, shape in zip(values, before, strict=True):
        value.shape = shape
    return False


def _holds(
    guess: dict[int, list[int | ir.SymbolicDim] | None], index: int, after: ir.Value
) -> bool:
    """Return whether a body gives back what was assumed of a value; weaken the guess if not."""
    dims = guess[index]
    if dims is None:
        return True
    if after.shape is None or len(after.shape) != len(dims):
        guess[index] = None
        return False
    new = [d if d == e else ir.SymbolicDim(None) for d, e in zip(dims, after.shape, strict=True)]
    same = all(
        d == e or (isinstance(d, ir.SymbolicDim) and d.value is None)
        for d, e in zip(dims, after.shape, strict=True)
    )
    guess[index] = list(new) if not same else dims
    return same
