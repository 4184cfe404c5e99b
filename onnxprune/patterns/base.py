"""The interface every pattern fills, and the registry that finds the patterns."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.errors import UsageError
from onnxprune.patterns.select import keep_largest
from onnxprune.registry import Registry

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pattern(ABC):
    """A rule for which weights of a tensor may be removed together.

    Every shape is the canonical ``(G, O, I, *K)``. The units of a weight form a grid
    (:meth:`grid`); wherever units are listed in one dimension they are in C order of that grid.

    Class attributes, read by the command line, the docs and the generated tests:

    * ``syntax``: how the pattern is written, ``summary``: one line on what it is,
    * ``examples``: texts that :meth:`parse` accepts,
    * ``structural``: whether its units can be deleted from the graph, not only zeroed.
    """

    syntax: ClassVar[str]
    summary: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]
    structural: ClassVar[bool] = False

    @property
    @abstractmethod
    def text(self) -> str:
        """The canonical spelling; ``parse_pattern(p.text) == p``."""

    @property
    def fixed_density(self) -> float | None:
        """The fraction kept where the pattern itself fixes it (N:M), else None."""
        return None

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Pattern | None:
        """Read lower-case ``text``; None when it is not this pattern's form.

        Raises:
            UsageError: it is this pattern's form but its numbers cannot be meant.
        """

    def misfit(self, shape: Sequence[int]) -> str | None:
        """Say why a weight of ``shape`` cannot carry this pattern; None when it can."""
        del shape
        return None

    def runs(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return how many consecutive (outputs, inputs) of a weight of ``shape`` a choice ties.

        Which channels stand next to each other matters along an axis where this is more than 1.
        """
        del shape
        return 1, 1

    @abstractmethod
    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the grid of units."""

    @abstractmethod
    def unit_scores(self, saliency: FloatArray) -> FloatArray:
        """Sum ``saliency`` [G, O, I, *K] over each unit.

        Returns:
            1-D [n_units], float64; where every unit is a single weight, the saliency itself in its
            own dtype (a view where possible), because a float64 copy of it helps nobody.
        """

    @abstractmethod
    def mask_from_units(self, keep_units: Mask, shape: Sequence[int]) -> Mask:
        """Spread the kept flags of the units, 1-D [n_units], over a weight of ``shape``."""

    def n_units(self, shape: Sequence[int]) -> int:
        """Return how many units a weight of ``shape`` has."""
        return math.prod(self.grid(shape))

    def unit_sizes(self, shape: Sequence[int]) -> IntArray:
        """Return the number of weights in each unit, 1-D [n_units].

        Read-only; where all sizes are equal it occupies a single element (zero stride).
        """
        units = self.n_units(shape)
        size = math.prod(shape) // units if units else 1
        return np.broadcast_to(np.int64(size), (units,))

    def mask(self, saliency: FloatArray, keep: int | None = None) -> Mask:
        """Keep the ``keep`` units of largest summed saliency.

        Exactly ``keep`` units are kept; ties go to the lower index. NaN counts as +inf.

        Args:
            saliency: [G, O, I, *K].
            keep: number of units kept; None only for patterns of a fixed density.

        Raises:
            UsageError: ``keep`` is missing or outside 0..n_units.
        """
        units = self.n_units(saliency.shape)
        if keep is None or not 0 <= keep <= units:
            raise UsageError(
                f"pattern {self.text} on a weight of {units} units was asked to keep {keep}; "
                f"give a number from 0 to {units}"
            )
        kept = keep_largest(self.unit_scores(saliency), keep)
        return self.mask_from_units(kept, saliency.shape)


PATTERNS: Registry[type[Pattern]] = Registry("pattern", "onnxprune.patterns")


def parse_pattern(text: str) -> Pattern:
    """Read a pattern from its spelling, e.g. ``element``, ``2:4``, ``block:4x1``.

    Raises:
        UsageError: no pattern is spelt like this (near names are given), or its numbers cannot be
            meant (``4:2``, ``0:4``, ``block:0x1``).
    """
    spelt = text.strip().lower()
    for _, member in PATTERNS.items():
        found = member.parse(spelt)
        if found is not None:
            return found
    heads = {name.lower(): member for name, member in PATTERNS.items()}
    near = difflib.get_close_matches(spelt.partition(":")[0], heads, n=1)
    hint = f" Did you mean {heads[near[0]].examples[0]!r}?" if near else ""
    choices = ", ".join(member.syntax for _, member in PATTERNS.items())
    raise UsageError(f"unknown pattern {text!r}.{hint} Choices: {choices}")
