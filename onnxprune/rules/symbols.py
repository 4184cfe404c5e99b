"""Unknown sizes that must be the same one.

Inference makes up a name (``unk__7``) for every size it cannot follow, a new one wherever two such
sizes meet: the batch of queries and that of keys become strangers, and a reshape behind attention
can no longer be read. Two unknown sizes that meet in an element-wise operator, or stack or contract
two matrices, are taken for one: the alternative is that one of them is always 1 and repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

Dims = list[int | str | None]
MADE_UP = "unk__"
BROADCASTING = frozenset(
    (
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Where",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "Mod",
        "PRelu",
        "And",
        "Or",
        "Xor",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
    )
)


def unify_symbols(graph: ir.Graph, dims: Callable[[ir.Value], Dims | None]) -> int:
    """Rename made-up sizes that must be another one; return how many names went.

    Args:
        graph: whose values' shapes are changed, graph inputs excepted.
        dims: dims of a value.
    """
    same: dict[str, str | int] = {}

    def find(name: str | int) -> str | int:
        while isinstance(name, str) and name in same:
            name = same[name]
        return name

    for a, b in _facts(graph, dims):
        x, y = find(a), find(b)
        if x == y:
            continue
        if _rank(x) < _rank(y):
            x, y = y, x
        if isinstance(x, str) and x.startswith(MADE_UP):
            same[x] = y
    if same:
        for node in graph:
            for value in node.outputs:
                _rename(value, find)
    return len(same)


def _rank(name: str | int) -> tuple[int, int, str]:
    """Order sizes: numbers first, then names of the model, then made-up ones, older first."""
    if isinstance(name, int):
        return (0, name, "")
    made = name.startswith(MADE_UP)
    return (2, len(name), name) if made else (1, 0, name)


def _rename(value: ir.Value, find: Callable[[str | int], str | int]) -> None:
    if value.shape is None:
        return
    old = [d if isinstance(d, int) else d.value for d in value.shape]
    new = [find(d) if isinstance(d, str) else d for d in old]
    if new != old:
        value.shape = ir.Shape(new)


def _facts(
    graph: ir.Graph, dims: Callable[[ir.Value], Dims | None]
) -> Iterator[tuple[str | int, str | int]]:
    """Yield pairs of sizes that are one."""
    for node in graph:
        if node.domain not in ("", "ai.onnx") and node.op_type != "FusedMatMul":
            continue
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        known = [d for d in map(dims, values) if d is not None]
        if node.op_type in BROADCASTING:
            yield from _stacked(known)
        elif node.op_type in ("MatMul", "FusedMatMul") and min(map(len, known), default=0) >= 2:
            yield from _stacked([d[:-2] for d in known])
            if node.op_type == "MatMul" and len(known) == 3:
                yield from _pairs([known[0][-1], known[1][-2]], numbers=True)
        elif node.op_type == "Concat":
            attr = node.attributes.get("axis")
            if attr is not None and len({len(d) for d in known}) == 1:
                at = attr.as_int() % len(known[0])
                for axis in range(len(known[0])):
                    if axis != at:
                        yield from _pairs([d[axis] for d in known], numbers=True)


def _stacked(shapes: Sequence[Dims]) -> Iterator[tuple[str | int, str | int]]:
    """Pair unknown sizes that meet when shapes are aligned at the right."""
    for column in itertools.zip_longest(*(d[::-1] for d in shapes)):
        yield from _pairs(column, numbers=False)


def _pairs(
    column: Sequence[int | str | None], *, numbers: bool
) -> Iterator[tuple[str | int, str | int]]:
    """Pair the names in a column; ``numbers``: a number is also what a name must be."""
    kinds = (str, int) if numbers else (str,)
    met: list[str | int] = [d for d in column if isinstance(d, kinds)]
    yield from itertools.pairwise(met)
