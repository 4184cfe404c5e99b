"""Matrix products."""

from onnxprune.rules.base import Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView

_GEMM = "m k, k n, (m | 1) (n | 1)? -> m n, after transA / transB"
_MATMUL = "*b m k, *b k n -> *b m n"


def gemm(n: NodeView) -> None:
    """State what Gemm does, spelled for its transposes and the rank of C."""
    a = "k m" if n.attr("transA", 0) else "m k"
    b = "n k" if n.attr("transB", 0) else "k n"
    c = ""
    if n.has(2):
        c = ", " + ("", "n", "m n")[min(n.rank(2), 2)]
    TextRule(f"{a}, {b}{c} -> m n", weight=(1, 0))(n)


def matmul(n: NodeView) -> None:
    """State what MatMul does; a vector operand loses its row or column axis."""
    a = "k" if n.rank(0) == 1 else "*b m k"
    b = "k" if n.rank(1) == 1 else "*b k n"
    out = " ".join(
        ["*b"] * (len(a) > 1 or len(b) > 1) + ["m"] * (len(a) > 1) + ["n"] * (len(b) > 1)
    )
    TextRule(f"{a}, {b} -> {out}", weight=(1, 0), heads=True)(n)


register(
    "Gemm",
    gemm,
    _GEMM,
    [
        Sample(((3, 5), (5, 4), (4,))),
        Sample(((3, 5), (4, 5), (1, 4)), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        Sample(((5, 3), (5, 4), (3, 1)), {"transA": 1}),
        Sample(((3, 5), (5, 4), (3, 4))),
        Sample(((3, 5), (5, 4), ())),
        Sample(((3, 5), (5, 4), (1,))),
        Sample(((5, 3), (4, 5)), {"transA": 1, "transB": 1}),
    ],
)

register(
    "MatMul",
    matmul,
    _MATMUL,
    [
        Sample(((3, 5), (5, 4))),
        Sample(((2, 3, 5), (5, 4))),
        Sample(((2, 3, 4, 5), (2, 3, 5, 6))),
        Sample(((2, 1, 4, 5), (3, 5, 6))),
        Sample(((5,), (5, 4))),
        Sample(((2, 3, 5), (5,))),
        Sample(((4, 5), (2, 5, 3))),
        Sample(((5,), (5,))),
    ],
)
