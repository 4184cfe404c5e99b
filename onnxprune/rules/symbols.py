"""Unknown sizes that must be the same one.

Inference makes up a name (``unk__7``) for every size it cannot follow, a new one wherever two such
sizes meet: the batch of queries and that of keys become strangers, and a reshape behind attention
can no longer be read. Two unknown sizes that meet in an element-wise operator, or stack or contract
two matrices, are taken for one: the alternative is that one of them is always 1 and repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx_ir as ir

from onnxprune.rules.base import RULES

Dims = list[int | str | None]
MADE_UP = "unk__"
PRODUCT = "*"  # joins the factors in the name of a size that a reshape made of several
MOST_FACTORS = 4
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

# What gives its first operand's shape to its result, beside what the rules say element by element.
ALIKE = frozenset(
    (
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "RMSNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "BatchNormalization",
        "SkipLayerNormalization",
    )
)
ELEMENTWISE = "*d -> *d"  # text of their rules
UNTOUCHED = frozenset(("Identity", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"))


def factors_of(dims: Iterable[int | str | None]) -> tuple[int, list[str]]:
    """Take sizes apart: the product of the numbers, and the names, those in products too."""
    number, names = 1, []
    for dim in dims:
        for part in dim.split(PRODUCT) if isinstance(dim, str) else (dim,):
            if isinstance(part, str) and not part.isdigit():
                names.append(part)
            else:
                number *= int(part or 0)
    return number, names


def product_name(number: int, names: Sequence[str]) -> int | str | None:
    """Name a product of sizes, ``4*height*width``; None if it has too many factors to be of use."""
    if not names or number == 0:
        return number
    parts = [str(number)] * (number != 1) + sorted(names)
    return PRODUCT.join(parts) if len(names) <= MOST_FACTORS else None


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
        if isinstance(name, str) and PRODUCT in name:
            parts = [find(part) for part in name.split(PRODUCT)]
            return product_name(*factors_of(parts)) or name
        return name

    for a, b in _facts(graph, dims):
        x, y = find(a), find(b)
        if x == y:
            continue
        if _rank(x) < _rank(y):
            x, y = y, x
        # A product is what a reshape made it; renamed, it would be found anew.
        made = isinstance(x, str) and x.startswith(MADE_UP) and PRODUCT not in x
        if isinstance(x, str) and made and x not in factors_of([y])[1]:
            same[x] = y
    if same:
        for node in graph:
            for value in node.outputs:
                _rename(value, find)
    return len(same)


def told_sizes(graph: ir.Graph) -> dict[str, int]:
    """Return the sizes that the graph leaves open by name and that its weights give away.

    Exporters name axes that the weights allow one size only: the channels of an image that a
    convolution with 3 input channels reads.
    """
    passed: dict[ir.Value, Dims] = {}

    def dims(value: ir.Value) -> Dims | None:
        if value in passed:
            return passed[value]
        shape = value.shape if value.const_value is None else value.const_value.shape
        if shape is None:
            return None
        return [d if isinstance(d, int) else d.value for d in shape]

    sizes: dict[str, int] = {}
    for node in graph:
        operands = [None if v is None else dims(v) for v in node.inputs]
        if node.op_type in UNTOUCHED and operands[0] is not None:
            passed[node.outputs[0]] = operands[0]
        for a, b in _contracted(node, operands):
            if isinstance(a, str) and isinstance(b, int):
                sizes.setdefault(a, b)
    return sizes


def _rank(name: str | int) -> tuple[int, int, str]:
    """Order sizes: numbers, names of the model, products, then made-up names, older first."""
    if isinstance(name, int):
        return (0, name, "")
    if PRODUCT in name:
        return (2, len(name), name)
    made = name.startswith(MADE_UP)
    return (3, len(name), name) if made else (1, 0, name)


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
        ours = node.op_type == "FusedMatMul" or _alike(node)
        if node.domain not in ("", "ai.onnx") and not ours:
            continue
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        known = [d for d in map(dims, values) if d is not None]
        if node.op_type in BROADCASTING:
            yield from _stacked(known)
        elif _alike(node):
            yield from _stacked([d for d in map(dims, _ends(node)) if d is not None])
        elif node.op_type == "Transpose" and len(known) == 2:
            perm = node.attributes.get("perm")
            order = range(len(known[0]))[::-1] if perm is None else perm.as_ints()
            yield from _stacked([[known[0][i] for i in order], known[1]])
        elif node.op_type in ("MatMul", "FusedMatMul") and min(map(len, known), default=0) >= 2:
            yield from _stacked([d[:-2] for d in known])
            if node.op_type == "MatMul" and len(known) == 3:
                yield from _contracted(node, known)
        elif node.op_type == "Concat":
            attr = node.attributes.get("axis")
            if attr is not None and len({len(d) for d in known}) == 1:
                at = attr.as_int() % len(known[0])
                for axis in range(len(known[0])):
                    if axis != at:
                        yield from _pairs([d[axis] for d in known], numbers=True)


def _alike(node: ir.Node) -> bool:
    """Return whether the first result has the shape of the first operand."""
    rule = RULES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    return node.op_type in ALIKE or (rule is not None and rule.text == ELEMENTWISE)


def _ends(node: ir.Node) -> list[ir.Value]:
    """Return the first operand and the first result."""
    return [v for v in (*node.inputs[:1], *node.outputs[:1]) if v is not None]


def _contracted(
    node: ir.Node, dims: Sequence[Dims | None]
) -> Iterator[tuple[str | int, str | int]]:
    """Pair the sizes that a product sums over, the data's first."""
    data, weight = (*dims, None, None)[:2]
    if data is None or weight is None or len(data) < 2 or len(weight) < 2:
        return

    def number(name: str, default: int) -> int:
        attr = node.attributes.get(name)
        return default if attr is None else attr.as_int()

    if node.op_type == "MatMul":
        yield from _pairs([data[-1], weight[-2]], numbers=True)
    elif node.op_type in ("Gemm", "FusedGemm"):
        yield from _pairs(
            [data[0 if number("transA", 0) else 1], weight[1 if number("transB", 0) else 0]],
            numbers=True,
        )
    elif node.op_type in ("Conv", "FusedConv") and isinstance(weight[1], int):
        yield from _pairs([data[1], weight[1] * number("group", 1)], numbers=True)
    elif node.op_type == "ConvTranspose":
        yield from _pairs([data[1], weight[0]], numbers=True)


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
