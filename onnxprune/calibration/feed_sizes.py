"""Sizes for dimensions that a model leaves open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

from onnxprune.calibration.feed_specs import InputSpec

BATCH, SPATIAL, SEQUENCE = "batch", "spatial", "sequence"
LADDERS: Mapping[str, tuple[int, ...]] = {
    BATCH: (1, 2, 4),
    SPATIAL: (64, 224, 32, 128, 96, 256, 320, 512, 640, 16, 8, 1),
    SEQUENCE: (8, 16, 32, 64, 128, 256, 512, 576, 640, 1024, 4096, 16000, 4, 2, 1),
}
"""Sizes to try for each sort of dimension, in this order: the cheap and likely ones first."""

_BATCH_NAME = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
_SPATIAL_NAME = re.compile(r"height|width|^(h|w|d|ih|iw)$", re.IGNORECASE)
_SEQUENCE_NAME = re.compile(r"seq|time|len|past|history|frame|token|^(t|l|s|u)$", re.IGNORECASE)


def role(spec: InputSpec, axis: int) -> str:
    """Return which sort of dimension an axis is: by its name, else by its place.

    The first axis counts samples; of four axes or more, those behind the channels (wherever these
    are) are spatial; any other is a sequence.
    """
    dims = spec.dims or ()
    name = dims[axis]
    if isinstance(name, str):
        for pattern, kind in (
            (_SEQUENCE_NAME, SEQUENCE),
            (_BATCH_NAME, BATCH),
            (_SPATIAL_NAME, SPATIAL),
        ):
            if pattern.search(name):
                return kind
    if axis == 0:
        return BATCH
    return SPATIAL if len(dims) >= 4 else SEQUENCE


def open_dims(specs: Iterable[InputSpec]) -> dict[str, str]:
    """Return the role of each open dimension by its key, in order of first appearance."""
    found: dict[str, str] = {}
    for spec in specs:
        for axis in range(spec.rank or 0):
            key = spec.dim_key(axis)
            if key is not None and key not in found and not _terms(key):
                found[key] = role(spec, axis)
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
