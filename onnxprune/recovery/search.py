"""What a mask search is, and the registry that finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.patterns.base import Pattern
from onnxprune.recovery.problem import F64, Mask, Quadratic
from onnxprune.recovery.structure import Projection, Structure, structure_of
from onnxprune.registry import Registry


@dataclass(frozen=True)
class Request:
    """One layer's problem with the masks allowed.

    Attributes:
        problem: the damped layer problem [R, d].
        pattern: the pattern asked for.
        structure: its cells; None where they are no regular grid.
        project: best mask of the pattern and density for scores [R, d].
        keep: units kept; None where the pattern fixes its density.
        hurried: take fewer steps where a search takes steps.
    """

    problem: Quadratic
    pattern: Pattern
    structure: Structure | None
    project: Projection
    keep: int | None
    hurried: bool = False

    def cells(self, method: str) -> Structure:
        """The structure, for searches that cannot do without.

        Raises:
            UsageError: the pattern's units are no regular grid.
        """
        if self.structure is None:
            raise UsageError(
                f"{method} cannot search pattern {self.pattern.text} on a weight of shape "
                f"{self.problem.shape}: use alps, or auto"
            )
        return self.structure


#: Finds what is kept [R, d]; weights are solved afterwards.
MaskSearch = Callable[[Request], Mask]

SEARCHES: Registry[MaskSearch] = Registry("mask search", "onnxprune.recovery")


def request(
    problem: Quadratic, pattern: Pattern, shape: Sequence[int], keep: int | None
) -> Request:
    """Build a request and check that the pattern fits.

    Args:
        problem: the damped layer problem.
        pattern: any registered pattern.
        shape: (R, I, *K) of this group's weight, ``R, I * prod(K)`` the problem's shape.
        keep: units kept, None for patterns of a fixed density.

    Raises:
        UsageError: the pattern does not fit, or ``keep`` is out of range.
    """
    structure = structure_of(pattern, shape)
    view = (1, *shape)
    if structure is not None:
        cells = structure
        cells.check_keep(keep)
        return Request(problem, pattern, cells, lambda s: cells.project(s, keep), keep)

    def project(scores: F64) -> Mask:
        mask: Mask = pattern.mask(scores.reshape(view), keep).reshape(problem.shape)
        return mask

    project(np.zeros(problem.shape))
    return Request(problem, pattern, None, project, keep)
