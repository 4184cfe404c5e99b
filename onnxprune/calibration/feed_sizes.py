"""Sizes for dimensions that a model leaves open."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterable, Iterator, Mapping

from onnxprune.calibration.feed_specs import InputSpec
from onnxprune.io.open_dims import BATCH, SEQUENCE, SOUND, SPATIAL, role

LADDERS: Mapping[str, tuple[int, ...]] = {
    BATCH: (1, 2, 4),
    SPATIAL: (64, 224, 32, 128, 96, 256, 320, 512, 640, 16, 8, 4, 1),
    SEQUENCE: (8, 16, 32, 64, 128, 256, 512, 576, 640, 1024, 4096, 16000, 4, 2, 1),
    SOUND: (16000, 512, 4096, 32000, 48000, 576, 640, 256, 1024, 1600, 160, 64, 16, 8, 1),
}
"""Sizes to try for each sort of dimension, in this order: the cheap and likely ones first."""


def open_dims(specs: Iterable[InputSpec], known: Container[str] = ()) -> dict[str, str]:
    """Return the role of each open dimension by its key, in order of first appearance.

    Args:
        specs: the inputs.
        known: keys whose size is known all the same.
    """
    found: dict[str, str] = {}
    for spec in specs:
        for axis in range(spec.rank or 0):
            key = spec.dim_key(axis)
            if key is not None and key not in found and key not in known and not _terms(key):
                found[key] = role(spec.dims or (), axis, spec.name)
    return found


def size_of(key: str, sizes: Mapping[str, int]) -> int | None:
    """Return the size of an open dimension: its own, or what its name computes from others.

    Exporters name dimensions by formulas: ``past_sequence_length + 1``.
    """
    if key in sizes:
        return sizes[key]
    tree = _terms(key)
    return None if tree is None else _evaluate(tree, sizes)


def _terms(key: str) -> ast.expr | None:
    """Return the formula a name is, None if it is a mere name."""
    try:
        tree = ast.parse(key, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.BinOp) and any(_names(tree)) else None


def _names(tree: ast.AST) -> Iterator[str]:
    return (n.id for n in ast.walk(tree) if isinstance(n, ast.Name))


def _evaluate(tree: ast.expr, sizes: Mapping[str, int]) -> int | None:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return sizes.get(tree.id)
    if isinstance(tree, ast.BinOp):
        left, right = _evaluate(tree.left, sizes), _evaluate(tree.right, sizes)
        if left is None or right is None:
            return None
        if isinstance(tree.op, ast.Add):
            return left + right
        if isinstance(tree.op, ast.Sub):
            return left - right
        if isinstance(tree.op, ast.Mult):
            return left * right
        if isinstance(tree.op, (ast.Div, ast.FloorDiv)) and right:
            return left // right
    return None
