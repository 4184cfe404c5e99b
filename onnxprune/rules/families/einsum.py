"""Einsum is its own rule."""

from __future__ import annotations

import re

from onnxprune.rules.base import GiveUp, Sample, register
from onnxprune.rules.text import TextRule
from onnxprune.rules.view import NodeView


def einsum_text(equation: str) -> str:
    """Return an einsum equation as a text rule.

    Raises:
        GiveUp: a letter twice in one operand (a diagonal).
    """
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:
        letters = sorted(set(re.findall("[A-Za-z]", left)))
        right = ("..." if "..." in left else "") + "".join(x for x in letters if left.count(x) == 1)
    terms = [*left.split(","), right]
    for term in terms:
        letters = re.findall("[A-Za-z]", term)
        if len(set(letters)) != len(letters):
            raise GiveUp("Einsum takes a diagonal")
    spelt = [
        " ".join("*e" if t == "..." else t for t in re.findall(r"\.\.\.|[A-Za-z]", term))
        for term in terms
    ]
    return ", ".join(spelt[:-1]) + " -> " + spelt[-1]


def einsum(n: NodeView) -> None:
    """State what Einsum does."""
    equation = n.attr("equation", "")
    weight = (1, 0) if n.n_inputs == 2 else ()
    TextRule(einsum_text(equation), weight=weight)(n)


register(
    "Einsum",
    einsum,
    "its own equation",
    [
        Sample(((2, 3, 4), (4, 5)), {"equation": "btd,dk->btk"}),
        Sample(((2, 3, 4, 5), (2, 6, 4, 5)), {"equation": "bqhd,bkhd->bhqk"}),
        Sample(((2, 3, 4), (4, 5)), {"equation": "...d,dk->...k"}),
        Sample(((3, 4), (4, 5)), {"equation": "ij,jk"}),
        Sample(((3, 4),), {"equation": "ij->ji"}),
    ],
)
