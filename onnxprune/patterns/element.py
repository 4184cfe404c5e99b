"""Unstructured sparsity: every weight for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from onnxprune.patterns.base import PATTERNS, FloatArray, Mask, Pattern


@PATTERNS.member("element")
@dataclass(frozen=True)
class Element(Pattern):
    """Any single weight may go; the unit is one weight."""

    syntax: ClassVar[str] = "element"
    summary: ClassVar[str] = "any single weight"
    examples: ClassVar[tuple[str, ...]] = ("element",)

    @property
    def text(self) -> str:
        """See :attr:`Pattern.text`."""
        return "element"

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """See :meth:`Pattern.parse`."""
        return cls() if text == "element" else None

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See :meth:`Pattern.grid`: the weight's own shape."""
        return tuple(shape)

    def unit_scores(self, saliency: FloatArray) -> FloatArray:
        """See :meth:`Pattern.unit_scores`."""
        return saliency.reshape(-1)

    def mask_from_units(self, keep_units: Mask, shape: Sequence[int]) -> Mask:
        """See :meth:`Pattern.mask_from_units`."""
        return keep_units.reshape(tuple(shape))
