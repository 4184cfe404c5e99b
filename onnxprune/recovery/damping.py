"""Damping chosen on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.recovery.least_squares import solve_on_mask, solving_flops
from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic, validation_error

#: Relative damping tried by default, smallest first.
CANDIDATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Tried beyond these where samples are few: all energy of a layer's inputs is then in a few
#: directions, where a ridge of the mean is little.
STRONG = (10.0, 100.0, 1000.0)
#: Rows are sampled so that one candidate's solve stays below this many flops, and so many rows.
TRIAL_FLOPS = 3e9
TRIAL_ROWS = 128


@dataclass(frozen=True)
class HeldOut:
    """Statistics of samples that no solver has seen.

    Attributes:
        gram: H [d, d], centred like the training one.
        cross: G [R, d]; None in the symmetric mode.
        even: samples are few, so that how strong an input is on them says little: the ridge is the
            same for all inputs, and may be strong.
    """

    gram: F64
    cross: F64 | None = None
    even: bool = False

    @property
    def candidates(self) -> tuple[float, ...]:
        """Relative dampings to try, ascending."""
        return (*CANDIDATES, *STRONG) if self.even else CANDIDATES

    def of_rows(self, rows: Ints) -> HeldOut:
        """Return the statistics behind some rows."""
        return replace(self, cross=None if self.cross is None else self.cross[rows])

    def error(self, candidate: F64, weight: F64) -> float:
        """Error up to a constant; see :func:`~onnxprune.recovery.problem.validation_error`."""
        return validation_error(candidate, weight, self.gram, self.cross)


def choose_damping(
    plain: Quadratic,
    mask: Mask,
    held_out: HeldOut,
    *,
    candidates: Sequence[float] | None = None,
    start: float | None = None,
) -> float:
    """Return the relative damping whose re-solve on ``mask`` errs least on held-out samples.

    The error falls and rises again with the damping, so candidates are walked downhill from one.

    Args:
        plain: the layer problem, not damped.
        mask: what is kept [R, d].
        held_out: the other samples' statistics.
        candidates: dampings to try, ascending; those of ``held_out`` when None.
        start: where to begin, one of them; in the middle when None.
    """
    step = max(
        1, int(np.ceil(solving_flops(mask) / TRIAL_FLOPS)), int(np.ceil(len(mask) / TRIAL_ROWS))
    )
    rows = np.arange(0, len(mask), step)
    candidates = held_out.candidates if candidates is None else candidates
    sampled, part, kept = held_out.of_rows(rows), plain.of_rows(rows), mask[rows]

    def error(place: int) -> float:
        problem = part.damped(candidates[place], even=held_out.even)
        return sampled.error(solve_on_mask(problem, kept), problem.weight)

    at = (len(candidates) - 1) // 2 if start is None else list(candidates).index(start)
    least = error(at)
    for way in (1, -1):
        moved = False
        while 0 <= at + way < len(candidates):
            found = error(at + way)
            if found >= least:
                break
            at, least, moved = at + way, found, True
        if moved:
            break
    return candidates[at]
