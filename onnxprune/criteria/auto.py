"""The best that is known for what was asked and given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.criteria.base import CRITERIA
from onnxprune.criteria.l1 import L1


@CRITERIA.member("auto")
@dataclass(frozen=True)
class Auto(L1):
    """Magnitude without samples; with them recovery searches masks and units itself.

    A criterion named instead has the last word: recovery then solves weights on its choice.
    """

    syntax: ClassVar[str] = "auto"
    summary: ClassVar[str] = "l1 without samples; with --data masks are searched layer by layer"
    examples: ClassVar[tuple[str, ...]] = ("auto",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "auto"
