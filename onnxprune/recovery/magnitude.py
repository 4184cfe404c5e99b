"""Magnitude: the baseline every other mask is measured against."""

from __future__ import annotations

from onnxprune.recovery.problem import Mask
from onnxprune.recovery.search import SEARCHES, Request


@SEARCHES.member("magnitude")
def magnitude_mask(request: Request) -> Mask:
    """Largest squared dense weights, summed over the pattern's units."""
    return request.project(request.problem.weight**2)
